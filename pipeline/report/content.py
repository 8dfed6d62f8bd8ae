"""What a report says, made from manifest and report alone: sentences and rows that every format shares."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from attn_export.pipeline.report import compile_evidence, recount
from attn_export.pipeline.report.audits import second_tier
from attn_export.untrusted.text import command


@dataclass(frozen=True)
class Check:
    """One proof with its answer: ``passed``, ``failed``, ``inconclusive``, or ``not run``.

    Attributes:
        group: what it belongs to, such as ``parity on ONNX Runtime 1.32``.
        place: ``file:line`` or module that a failure points at; empty where nothing is known.
    """

    group: str
    name: str
    answer: str
    text: str
    place: str = ""


def checks(manifest: Mapping[str, Any], report: Mapping[str, Any]) -> list[Check]:
    """Every proof of the bundle, parity first."""
    rows: list[Check] = []
    for run in report.get("runs", []):
        backend = run.get("backend", "backend")
        if run.get("missing"):
            rows.append(Check(f"parity on {backend}", "available", "not run", str(run["missing"])))
            continue
        rows += _parity(manifest, run, backend)
        rows += _latency(run, backend)
    rows += [Check("second tier", name, answer, text) for name, answer, text in second_tier(manifest)]
    mutants = manifest.get("mutants")
    if isinstance(mutants, Mapping):
        rows.append(_mutants(mutants))
    return rows


def _parity(manifest: Mapping[str, Any], run: Mapping[str, Any], backend: str) -> list[Check]:
    parity = run.get("parity") or {}
    rows = []
    for item in parity.get("comparisons", []):
        again = recount.comparison(item, parity)
        k, snr, good = item.get("k"), item.get("snr"), again.good
        fault = item.get("fault") or item.get("user_fault") or again.odd
        least = parity.get("snr")  # the gate of a precision below float32
        error, bound = number(item.get("error")), number(item.get("bound"))
        figures = f"error {error}, bound {bound}, k = {number(k)} of {parity['tolerance']:g}"
        if least is not None:  # k is float32's measure, and says nothing of a coarser precision
            figures = f"signal-to-noise ratio {number(snr)} dB, wanted {least:g} dB; error {error}"
        place = "" if good else origin(manifest, item["output"])
        rows.append(
            Check(
                f"parity on {backend}",
                f"{item['output']} of case '{item['case']}'",
                "passed" if good else "failed",
                f"{fault}; {figures}" if fault else figures,
                place,
            )
        )
    if not rows:
        rows.append(Check(f"parity on {backend}", "anything compared", "inconclusive", "nothing was compared"))
    if parity and (odd := recount.parity(manifest, parity)):
        rows.append(Check(f"parity on {backend}", "what the record says", "failed", "; ".join(odd)))
    return rows


def _latency(run: Mapping[str, Any], backend: str) -> list[Check]:
    rows = []
    contest = run.get("fused_against_unfused")
    if contest:
        again, odd = recount.contest(contest)
        verdict = again.verdict if again else "void"
        text = f"fused/un-fused {interval(contest['ratio'])}: {verdict}; control {interval(contest['control'])}"
        answer = "failed" if odd else "inconclusive" if verdict == "void" else "passed"
        rows.append(Check(f"latency on {backend}", "fused against un-fused", answer, f"{odd}; {text}" if odd else text))
    answers = {"kept": "passed", "broken": "failed"}
    for item in run.get("budgets") or []:
        verdict, odd = recount.kept(item)
        text = f"{odd or verdict}, came {interval(item['came'])} {item.get('unit', '')}".rstrip()
        answer = "failed" if odd else answers.get(verdict, "inconclusive")
        rows.append(Check(f"budget on {backend}", item["text"], answer, text))
    return rows


def _mutants(mutants: Mapping[str, Any]) -> Check:
    caught, survived, passed, odd = recount.mutants(mutants)
    text = f"{caught} of {caught + survived} planted faults were caught"
    if passed:
        text += f"; the gate passes {', '.join(passed)}, so it proves nothing"
    answer = "failed" if odd else "inconclusive" if passed or not caught else "passed"
    return Check("the check is checked", "mutants caught", answer, f"{odd}; {text}" if odd else text)


def verdict(rows: Sequence[Check]) -> tuple[str, str]:
    """The answer over all, and a sentence."""
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
    """What most people want to know, in a line each: the error, the ratio, the latency."""
    lines = []
    for run in report.get("runs", []):
        backend, parity, contest, timed = (
            run.get(key) for key in ("backend", "parity", "fused_against_unfused", "latency")
        )
        rows = (parity or {}).get("comparisons", [])
        if parity and any(row["k"] is None for row in rows):
            lines.append(f"{backend}: outputs that could not even be compared")
        elif parity and rows and parity.get("snr") is not None:
            ratios = [row["snr"] for row in rows if row["snr"] is not None]
            least = f"{number(min(ratios))} dB" if ratios else "no error at all"
            lines.append(f"{backend}: least signal-to-noise ratio {least}, wanted {parity['snr']:g} dB")
        elif parity and rows:
            worst = max(row["k"] for row in rows)
            lines.append(f"{backend}: worst error k = {number(worst)} of {parity['tolerance']:g}")
        again, _ = recount.contest(contest) if contest else (None, "")
        if again and again.verdict in ("faster", "slower"):
            lines.append(f"fused is {again.verdict}: un-fused / fused = {1 / again.ratio.estimate:.3f}")
        elif contest:
            lines.append(f"fused against un-fused: {again.verdict if again else 'void'}")
        if timed:
            lines.append(f"p50 {number(timed['wall_ms']['p50'])} ms, p99 {number(timed['wall_ms']['p99'])} ms")
    lines += compile_evidence.sentences(report)
    stages = manifest.get("stages") or []
    if len(stages) > 1 and stages[0].get("nodes") and stages[0]["nodes"] != stages[-1].get("nodes"):
        lines.append(f"{stages[0]['nodes']} → {stages[-1]['nodes']} nodes")
    return lines


def origin(manifest: Mapping[str, Any], tensor: str) -> str:
    """Source line or module of the node that makes ``tensor``, going back until one is known; empty if none is."""
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
    """The commands that make and prove the bundle again, each a line that a shell takes as it is meant."""
    made = command("attn-export", *map(str, words)) if (words := manifest.get("command")) else ""
    again = [command("attn-export", verb, PurePath(name)) for verb in ("verify", "bench")]
    return [made, *again] if made else again


def interval(item: Mapping[str, Any], digits: int = 3) -> str:
    """An interval for people: ``1.002 [0.989, 1.015]``."""
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
    """A figure for people, ``∞`` for None."""
    return _number(value)
