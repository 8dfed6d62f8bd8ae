"""The report's section on a model in int8: what it keeps, what stayed in float and why, and what else was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from attn_export.pipeline.report import svg

#: Rows of a table.
SHOWN = 250


def sections(manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Give what the page shows of each artifact in int8."""
    known: Sequence[Mapping[str, Any]] = manifest.get("artifacts") or []
    return [
        _section(f"q{index}", one["name"], one["quantisation"], one.get("mutation"))
        for index, one in enumerate(known)
        if one.get("quantisation")
    ]


def _section(key: str, name: str, own: Mapping[str, Any], mutation: Mapping[str, Any] | None) -> dict[str, Any]:
    rest = {
        "accuracy": None,
        "ratio": None,
        "method": "",
        "front": (),
        "notes": (),
        "left_out": (),
        "mutation": mutation,
    }
    floats = list(own.get("float_sites") or ())
    return {
        **rest,
        **own,
        "key": key,
        "name": name,
        "figures": [_figures(row) for row in own.get("figures") or ()],
        "calibrated": len(own.get("calibration") or {}),
        "chosen_on": len(own.get("held_out") or {}),
        "floats": floats[:SHOWN],
        "hidden": max(0, len(floats) - SHOWN),
        "int8_sites": own.get("int8_sites") or 0,
        "all_sites": (own.get("int8_sites") or 0) + len(floats),
        "chart": _front(key, own),
    }


def _figures(row: Mapping[str, Any]) -> dict[str, Any]:
    agreeing = row.get("agreeing")
    top1 = "–" if agreeing is None else f"{agreeing} of {row['images']}"
    return {**row, "top1": top1}


def _front(key: str, own: Mapping[str, Any]) -> str:
    """Draw what was measured: dB over latency where that was timed, else over the layers that stay in float."""
    points: Sequence[Mapping[str, Any]] = own.get("front") or ()
    timed = [point for point in points if point["ratio"] is not None]
    if len(timed) >= 2:
        rows = [(point["label"], float(point["ratio"]), float(point["snr_db"])) for point in timed]
        x = "time over float32's"
    elif len(points) >= 2:
        rows = [(point["label"], float(point["float_sites"]), float(point["snr_db"])) for point in points]
        x = "layers in float"
    else:
        return ""
    return svg.scatter(f"{key}f", rows, own.get("limit_db"), "What was measured before this model was chosen", x, "dB")
