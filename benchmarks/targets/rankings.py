"""Which runtime was fastest on a machine: what ``bench BUNDLE --all --json`` printed, kept as a line, and its table."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

HEAD = """## Which runtime is fastest

Printed by `attn-export bench BUNDLE --all` on bundles at full size, fused, one thread: time over that of the ONNX model
on ONNX Runtime, with its 95 % interval and that of each model against itself. There is one ranking of a bundle for each
condition. *Loaded*: the load was above the number of cores, so others were at work on the machine; ratios of models
that take turns hold there, and their intervals are wider.
"""
_COLUMNS = ("model", "artifact", "runtime", "time ratio", "A/A control", "clock", "error", "verdict")


def kept(output: str, date: str) -> dict[str, Any]:
    """Leave of one output what the page needs."""
    found = json.loads(output)
    machine = found["environment"]
    return {
        "bundle": Path(found["bundle"]).name,
        "date": date,
        "machine": f"{machine['processor']}, {machine['cores']} cores, load {machine['load']}",
        "condition": "loaded" if machine["load"] > machine["cores"] else "quiet",
        "case": found["case"],
        "rows": [_row(row) for row in (found["baseline"], *found["ranking"])],
    }


def _row(row: Mapping[str, Any]) -> dict[str, Any]:
    compared = row["comparison"] or {}
    parity = row["parity"] or {}
    return {
        "artifact": row["artifact"],
        "precision": row["precision"],
        "version": row["version"],
        "k": parity.get("normalized_error"),
        "snr_db": parity.get("snr_db"),
        "ratio": compared.get("ratio"),
        "control": compared.get("control"),
        "clock": compared.get("clock"),
        "verdict": compared.get("verdict"),
        "fault": row["fault"],
    }


def read(file: Path) -> list[dict[str, Any]]:
    """Read the lines; of two of one bundle and one condition the later holds."""
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    found = {(one["bundle"], one["condition"]): one for one in map(json.loads, filter(None, lines))}
    return [found[key] for key in sorted(found, key=lambda key: (key[0], key[1] != "quiet"))]


def append(file: Path, ranking: Mapping[str, Any]) -> None:
    """Add a line."""
    with file.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(ranking, ensure_ascii=False, allow_nan=False) + "\n")


def section(rankings: Sequence[Mapping[str, Any]]) -> str:
    """Render all of them; nothing where there are none."""
    if not rankings:
        return ""
    lines = [HEAD, _line(_COLUMNS), "|---" * len(_COLUMNS) + "|"]
    lines += [_line(cells) for ranking in rankings for cells in _cells(ranking)]
    said = [f"- {_name(one)}: {one['date']}, {one['machine']}; case '{one['case']}'" for one in rankings]
    return "\n".join([*lines, "", *said]) + "\n"


def _cells(ranking: Mapping[str, Any]) -> Iterable[tuple[str, ...]]:
    baseline, *others = ranking["rows"]
    yield (_name(ranking), *_what(baseline), "1", "", "", _error(baseline), "baseline")
    for row in others:
        if row["fault"]:
            yield ("", *_what(row), "", "", "", _error(row), f"not timed: {row['fault'][:200]}".replace("|", "\\|"))
        else:
            ratio = "" if row["verdict"] == "void" else _interval(row["ratio"])
            yield ("", *_what(row), ratio, _interval(row["control"]), row["clock"], _error(row), row["verdict"])


def _name(ranking: Mapping[str, Any]) -> str:
    return f"`{ranking['bundle']}`, {ranking['condition']}"


def _what(row: Mapping[str, Any]) -> tuple[str, str]:
    return f"{row['artifact']} ({row['precision']})", row["version"]


def _error(row: Mapping[str, Any]) -> str:
    if row["snr_db"] is not None:
        return f"{row['snr_db']:.1f} dB"
    return "" if row["k"] is None else f"k {row['k']:.2f}"


def _interval(found: Mapping[str, float]) -> str:
    return f"{found['estimate']:.2f} [{found['low']:.2f}, {found['high']:.2f}]"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
