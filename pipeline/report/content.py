"""What a report says, made from manifest and report alone: sentences and rows that every format shares."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Any

from attn_export.bundle import MAIN
from attn_export.deploy_tests import backends
from attn_export.pipeline.report import compile_evidence, recount, run_device
from attn_export.pipeline.report.audits import audits
from attn_export.untrusted.text import command


@dataclass(frozen=True)
class Check:
    """One proof with its answer: ``passed``, ``failed``, ``inconclusive``, or ``not run``.

    Attributes:
        group: what it belongs to, such as ``parity on ONNX Runtime 1.32.0 (CPU)``.
        place: ``file:line`` or module that a failure points at; empty where nothing is known.
    """

    group: str
    name: str
    answer: str
    text: str
    place: str = ""


def checks(manifest: Mapping[str, Any], report: Mapping[str, Any]) -> list[Check]:
    """List every proof of the bundle, parity first."""
    rows: list[Check] = []
    for run in report.get("runs", []):
        backend = runtime(run)
        if run.get("missing"):
            rows.append(Check(f"parity on {backend}", "available", "not run", str(run["missing"])))
            continue
        rows += _parity(manifest, run, backend)
        rows += _latency(run, backend)
    rows += [Check("graph audit", name, answer, text) for name, answer, text in audits(manifest)]
    mutation = manifest.get("mutation")
    if isinstance(mutation, Mapping):
        rows.append(_mutation(mutation))
    for one in manifest.get("artifacts") or []:
        if isinstance(own := one.get("mutation"), Mapping):
            rows.append(replace(_mutation(own), group=f"fault-injection test, {one['name']}"))
    return rows


def runtime(run: Mapping[str, Any]) -> str:
    """Name the runtime of a run for people.

    >>> runtime({"backend": "onnxruntime", "version": "1.32.0", "device": "cpu"})
    'ONNX Runtime 1.32.0 (CPU)'
    >>> runtime({"backend": "onnxruntime", "environment": {"device": {"host": "board"}}})
    'ONNX Runtime on board'
    """
    # Joined and not stripped: a name may end in what a strip would take from it unseen.
    title = " ".join(filter(None, (backends.title(run["backend"]), str(run.get("version") or ""))))
    device = run.get("device") or ""
    title = f"{title} ({device.upper() if device in ('cpu', 'gpu', 'npu') else device})" if device else title
    artifact = run.get("artifact") or MAIN
    title = title if artifact == MAIN else f"{title}, {artifact}"
    host = run_device.host(run)
    return f"{title} on {host}" if host else title


def _parity(manifest: Mapping[str, Any], run: Mapping[str, Any], backend: str) -> list[Check]:
    parity = run.get("parity") or {}
    rows = []
    for item in parity.get("comparisons", []):
        again = recount.output(item, parity)
        good = again.good
        failure = item.get("failure") or item.get("user_tolerance_failure") or again.odd
        least = parity.get("snr_db_limit")  # the gate of a precision below float32
        error, limit = number(item.get("error")), number(item.get("error_limit"))
        figures = (
            f"error {error} (limit {limit}), {number(item.get('normalized_error'))}x the float32 noise floor (limit"
            f" {parity['normalized_limit']:g}x)"
        )
        if least is not None:  # the noise floor is float32's measure, and says nothing of a coarser precision
            where = "against its own meaning in float64, " if parity.get("centred") else ""
            figures = (
                f"{where}signal-to-noise ratio {number(item.get('snr_db'))} dB (at least {least:g} dB); error {error}"
            )
        place = "" if good else origin(manifest, item["output"])
        rows.append(
            Check(
                f"parity on {backend}",
                f"{item['output']} of case '{item['case']}'",
                "passed" if good else "failed",
                f"{failure}; {figures}" if failure else figures,
                place,
            )
        )
    varying = parity.get("varying") or {}
    rows += [_centred(one, f"parity on {backend}") for one in parity.get("centred") or []]
    rows += [_centred(varying, f"parity on {backend}")] if varying.get("outputs") else []
    if not rows:
        rows.append(Check(f"parity on {backend}", "anything compared", "inconclusive", "nothing was compared"))
    if parity and (odd := recount.parity(manifest, parity, run.get("artifact") or "")):
        rows.append(Check(f"parity on {backend}", "what the record says", "failed", "; ".join(odd)))
    return rows


def _centred(found: Mapping[str, Any], group: str) -> Check:
    again = recount.centred(found)
    said = []
    for one in found["outputs"]:
        worst = min(one["images"], key=lambda image: image["snr_db"])
        text = f"{one['output']} {one['median_db']:.1f} dB at the median of {len(one['images'])} images"
        said.append(
            f"{text}, {worst['snr_db']:.1f} dB at the worst, {worst['name']!r}; {one['share']:.2g} of it varies"
        )
    limit = "" if found.get("limit_db") is None else f" (at least {found['limit_db']:g} dB)"
    text = "; ".join(filter(None, [again.odd, *said]))
    return Check(group, f"what varies, against {found['against']}{limit}", "passed" if again.good else "failed", text)


def _latency(run: Mapping[str, Any], backend: str) -> list[Check]:
    rows = []
    compared = run.get("comparison")
    if compared:
        again, odd = recount.comparison(compared)
        verdict = again.verdict if again else "void"
        name = f"{compared['candidate']} vs. {compared['baseline']}"
        text = f"time ratio {interval(compared['ratio'])}: {verdict}; A/A control {interval(compared['control'])}"
        answer = "failed" if odd else "inconclusive" if verdict == "void" else "passed"
        rows.append(Check(f"latency on {backend}", name, answer, f"{odd}; {text}" if odd else text))
    for item in run.get("budgets") or []:
        verdict, odd = recount.budget_verdict(item)
        text = f"{odd or verdict}, measured {interval(item['measured'])} {item.get('unit', '')}".rstrip()
        answer = "failed" if odd else verdict
        rows.append(Check(f"budget on {backend}", item["text"], answer, text))
    return rows


def _mutation(mutation: Mapping[str, Any]) -> Check:
    killed, survived, passed, odd = recount.mutation(mutation)
    text = f"{killed} of {killed + survived} injected faults were caught"
    if missed := recount.missed(mutation):
        text += f"; not caught: {', '.join(missed)}"
    if passed:
        text += f"; the gate passes {', '.join(passed)}, so it proves nothing"
    answer = "failed" if odd else "inconclusive" if passed or not killed else "passed"
    return Check("fault-injection test", "injected faults caught", answer, f"{odd}; {text}" if odd else text)


def verdict(rows: Sequence[Check]) -> tuple[str, str]:
    """Give the answer over all checks, and a sentence."""
    count = {
        answer: sum(row.answer == answer for row in rows) for answer in ("failed", "inconclusive", "passed", "not run")
    }
    if count["failed"]:
        return "failed", f"{count['failed']} of {len(rows)} checks failed"
    if not count["passed"]:
        return "inconclusive", "nothing was proven"
    if count["inconclusive"]:
        return "inconclusive", f"{count['inconclusive']} of {len(rows)} checks cannot say"
    left = f"; {count['not run']} could not run here" if count["not run"] else ""
    return "passed", f"all {count['passed']} checks passed{left}"


def headline(manifest: Mapping[str, Any], report: Mapping[str, Any]) -> list[str]:
    """Say what most people want to know, a line each: the error, the ratio, the latency."""
    lines = []
    for run in report.get("runs", []):
        backend, parity, compared, timed = runtime(run), run.get("parity"), run.get("comparison"), run.get("latency")
        lines += _error_line(parity or {}, backend) + (_ratio_line(compared) if compared else [])
        if timed:
            where = f"{backend}: " if run_device.host(run) else ""
            lines.append(f"{where}p50 {number(timed['wall_ms']['p50'])} ms, p99 {number(timed['wall_ms']['p99'])} ms")
        if used := run.get("energy"):
            took = {name: number(1000 * value) for name, value in used["joules"].items() if value is not None}
            between = f" [{took['low']}, {took['high']}]" if len(took) == 3 else ""
            lines.append(f"{backend}: {took.get('estimate', '?')} mJ{between} an inference, of {used['covers']}")
    lines += compile_evidence.sentences(report)
    stages = manifest.get("stages") or []
    counted = [stage["nodes"] for stage in stages if stage.get("nodes") and stage.get("name") != "quantise"]
    if counted and counted[0] != counted[-1]:
        lines.append(f"{counted[0]} → {counted[-1]} nodes")
    return lines


def _error_line(parity: Mapping[str, Any], backend: str) -> list[str]:
    if kept := parity.get("centred"):
        one = min(kept[0]["outputs"], key=lambda output: float(output["median_db"]))
        limit = "" if kept[0].get("limit_db") is None else f" (at least {kept[0]['limit_db']:g} dB)"
        return [f"{backend}: {one['median_db']:.1f} dB of what varies between images{limit}"]
    rows = parity.get("comparisons", [])
    if not rows:
        return []
    if any(row["normalized_error"] is None for row in rows):
        return [f"{backend}: outputs could not even be compared"]
    if parity.get("snr_db_limit") is not None:
        ratios = [row["snr_db"] for row in rows if row["snr_db"] is not None]
        least = f"{number(min(ratios))} dB" if ratios else "no error at all"
        kept = (parity.get("varying") or {}).get("outputs") or []
        half = f", {min(one['median_db'] for one in kept):.1f} dB of what varies between inputs" if kept else ""
        return [f"{backend}: lowest signal-to-noise ratio {least} (at least {parity['snr_db_limit']:g} dB){half}"]
    worst, limit = max(row["normalized_error"] for row in rows), f"{parity['normalized_limit']:g}x"
    return [f"{backend}: worst error {number(worst)}x the float32 noise floor (limit {limit})"]


def _ratio_line(compared: Mapping[str, Any]) -> list[str]:
    again, _ = recount.comparison(compared)
    one, other = compared["candidate"], compared["baseline"]
    if again and again.verdict in ("faster", "slower"):
        return [f"{one} is {again.verdict}: {other} / {one} = {1 / again.ratio.estimate:.3f}"]
    return [f"{one} vs. {other}: {again.verdict if again else 'void'}"]


def origin(manifest: Mapping[str, Any], tensor: str) -> str:
    """Find the source line or module of the node that makes ``tensor``, going back until one is known."""
    nodes = (manifest.get("costs") or {}).get("nodes", [])
    makers = {name: node for node in nodes for name in node["outputs"]}
    seen: set[str] = set()
    waiting = [tensor]
    while waiting:
        name = waiting.pop(0)
        node = makers.get(name)
        if node is None or name in seen:
            continue
        seen.add(name)
        if place := node.get("source") or node.get("module"):
            return str(place)
        waiting += node["inputs"]
    return ""


def reproduce(manifest: Mapping[str, Any], name: str = "BUNDLE") -> list[str]:
    """Give the commands that make and prove the bundle again, each a line that a shell takes as it is meant."""
    made = command("attn-export", *map(str, words)) if (words := manifest.get("command")) else ""
    again = [command("attn-export", verb, PurePath(name)) for verb in ("verify", "bench")]
    return [made, *again] if made else again


def interval(item: Mapping[str, Any], digits: int = 3) -> str:
    """Show an interval for people: ``1.002 [0.989, 1.015]``."""
    low, high = (_number(item.get(end), digits) for end in ("low", "high"))
    return f"{_number(item.get('estimate'), digits)} [{low}, {high}]"


def _number(value: Any, digits: int = 3) -> str:
    if value is None:
        return "∞"
    size = abs(float(value))
    if 1000 <= size < 1e6:
        return f"{value:,.0f}"
    if size and math.isfinite(size) and (size < 1e-3 or size >= 1e6):
        return f"{value:.{digits - 1}e}"
    return f"{value:.{digits}f}" if 0.5 < size < 2 else f"{value:.{digits}g}"


def number(value: Any) -> str:
    """Write a figure for people, ``∞`` for None."""
    return _number(value)
