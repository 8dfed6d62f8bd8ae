"""The report as a page: one file, offline, verdict first. A pure function of manifest and report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from attn_export.errors import LoadError
from attn_export.pipeline.report import int8, recount, svg, units
from attn_export.pipeline.report.audits import other_rules, sampling
from attn_export.pipeline.report.content import checks, headline, interval, number, reproduce, runtime, verdict
from attn_export.untrusted import text

#: Rows that a chart shows; tables hold up to ten times as many.
SHOWN = 25


def render(manifest: Mapping[str, Any], report: Mapping[str, Any], name: str = "BUNDLE") -> str:
    """Write the whole page as HTML.

    Raises:
        LoadError: jinja2 is not installed.
    """
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError as error:
        raise LoadError("an HTML report needs jinja2: pip install 'attn-export[report]'") from error
    rows = checks(manifest, report)
    answer, sentence = verdict(rows)
    said, commands = headline(manifest, report), reproduce(manifest, name)
    # Escaping keeps markup out; what no page should hold at all goes first, from every text that comes from outside.
    rows = [replace(row, **text.everywhere(vars(row))) for row in rows]
    manifest, report, said = (text.everywhere(part) for part in (manifest, report, said))
    environment = Environment(
        loader=PackageLoader("attn_export.pipeline.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "interval": interval, "size": size}
    return environment.get_template("report.html.jinja").render(
        manifest={"fusion": None, "costs": None, **manifest},
        limits={"normalized_limit": None, "snr_db_limit": None, **recount.tolerance(manifest)},
        artifacts=manifest.get("artifacts", []),
        int8=int8.sections(manifest),
        subject={"fused": False, **manifest.get("subject", {})},
        answer=answer,
        sentence=sentence,
        headline=said,
        checks=rows,
        stages=manifest.get("stages", []),
        mutation=manifest.get("mutation"),
        sampling=sampling(manifest.get("mutation") or {}),
        warnings=manifest.get("warnings", []),
        runs=[_run(index, run) for index, run in enumerate(report.get("runs", []))],
        environment=manifest.get("environment", {}),
        commands=commands,
    )


def _run(index: int, run: Mapping[str, Any]) -> dict[str, Any]:
    """Give one backend's part: its data and its charts."""
    compared = _judged(run.get("comparison"))
    return {
        "missing": None,
        "parity": None,
        "latency": None,
        "footprint": None,
        "preflight": (),
        "budgets": (),
        "mlperf": None,
        "drift": None,
        "environment": {},
        **run,
        "key": f"run{index}",
        "title": runtime(run),
        "comparison": compared,
        "other_rules": other_rules(run),
        "parity_chart": _parity(f"p{index}", run.get("parity")),
        "latency_chart": _latency(f"l{index}", run.get("latency")),
        "comparison_chart": _comparison(f"c{index}", compared),
        "profile": _profile(run.get("profile")),
        "profile_chart": _shares(f"s{index}", run.get("profile")),
        "sweeps": _sweeps(index, run),
        "drift_chart": _drift(f"d{index}", run.get("drift")),
    }


def _judged(compared: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Give a comparison of latencies the verdict that its process pairs give, whatever was recorded."""
    if not compared:
        return None
    again, _ = recount.comparison(compared)
    if again is None:
        return {**compared, "verdict": "void", "drawn": False}
    return {**compared, **again.to_dict(compared["candidate"], compared["baseline"]), "drawn": True}


def _parity(key: str, parity: Mapping[str, Any] | None) -> str:
    if not parity or not parity["comparisons"]:
        return ""
    if parity.get("snr_db_limit") is not None:
        return _signal(key, parity)
    rows = [
        (f"{row['output']} · {row['case']}", value, "not comparable" if value is None else f"{value:.2f}")
        for row in parity["comparisons"]
        for value in (row["normalized_error"],)
    ]
    rows.sort(key=lambda row: -(row[1] if row[1] is not None else float("inf")))
    title = "Error of each output and case, in multiples of the float32 noise floor"
    return svg.bounded(key, rows[:SHOWN], parity["normalized_limit"], title)


def _signal(key: str, parity: Mapping[str, Any]) -> str:
    """Draw the error as a share of what the precision allows; the noise floor is float32's measure."""
    least = parity["snr_db_limit"]
    rows = [
        (
            f"{row['output']} · {row['case']}",
            None
            if row["normalized_error"] is None
            else 0.0
            if row["snr_db"] is None
            else 10 ** ((least - row["snr_db"]) / 20),
            "not comparable"
            if row["normalized_error"] is None
            else "exact"
            if row["snr_db"] is None
            else f"{row['snr_db']:.1f} dB",
        )
        for row in parity["comparisons"]
    ]
    rows.sort(key=lambda row: -(row[1] if row[1] is not None else float("inf")))
    return svg.bounded(key, rows[:SHOWN], 1.0, f"Error of each output and case, as a share of what {least:g} dB allow")


def _latency(key: str, latency: Mapping[str, Any] | None) -> str:
    if not latency:
        return ""
    samples = [value / 1e6 for value in latency["samples"]["wall_ns"]]
    marks = {name: latency["wall_ms"][name] for name in ("p50", "p90", "p95", "p99") if name in latency["wall_ms"]}
    return svg.histogram(key, samples, marks, "Distribution of wall time over single runs") if samples else ""


def _comparison(key: str, compared: Mapping[str, Any] | None) -> str:
    if not compared or not compared["drawn"]:
        return ""

    def row(label: str, name: str, place: int) -> tuple[str, Sequence[float], tuple[float, float, float]]:
        it = compared[name]
        return label, [pair[place] for pair in compared["pairs"]], (it["estimate"], it["low"], it["high"])

    label = f"{compared['candidate']} / {compared['baseline']}"
    rows = [row(label, "ratio", 0), row("A/A control", "control", 1)]
    return svg.ratios(key, rows, "Ratio of times, one dot for each process, with its 95 % interval")


def _profile(profile: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if not profile:
        return None
    rows = profile["rows"]
    shown = rows[: 10 * SHOWN]
    rest = sum(row["time_us"] for row in rows[len(shown) :])
    operators: dict[str, float] = {}
    for row in rows:
        operators[row["op"]] = operators.get(row["op"], 0.0) + row["share"]
    ranked = sorted(((op, share) for op, share in operators.items() if share >= 0.005), key=lambda item: -item[1])
    return {**profile, "shown": shown, "rest": rest, "hidden": len(rows) - len(shown), "operators": ranked}


def _shares(key: str, profile: Mapping[str, Any] | None) -> str:
    if not profile or not profile["rows"]:
        return ""
    rows = []
    for row in profile["rows"][:SHOWN]:
        note = f"{row['share']:.1%} · {row['op']}"
        if row["roofline_share"] is not None:
            note += f" · {row['roofline_share']:.0%} of peak"
        rows.append((row["name"], row["share"], note))
    return svg.shares(key, rows, "Share of kernel time, longest first")


def _sweeps(index: int, run: Mapping[str, Any]) -> list[dict[str, Any]]:
    found = []
    for name, unit in (("threads", "threads"), ("batches", "items in a batch")):
        points = (run.get("sweeps") or {}).get(name)
        if points:
            pairs = [(float(p["setting"]), float(p["per_item_ms"])) for p in points]
            title = f"Latency of one item by {unit}"
            chart = svg.line(f"w{index}{name}", pairs, title, unit, "ms for one item")
            found.append({"title": title, "unit": unit, "points": points, "chart": chart})
    return found


def _drift(key: str, drift: Mapping[str, Any] | None) -> str:
    if not drift:
        return ""
    step = drift["duration_s"] / len(drift["window_p50_ms"])
    points = [((i + 1) * step, value) for i, value in enumerate(drift["window_p50_ms"])]
    return svg.line(key, points, "Median latency over time", "seconds", "p50 in ms")


def size(count: float | None) -> str:
    """Write bytes for people."""
    return "unknown" if count is None else units.size(count)
