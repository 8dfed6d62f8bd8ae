"""Gather what ``choose`` knows of entries beside their cost, and draw its picture and its table.

python -m benchmarks.choosing [--rows]

From docs/targets.d and docs/tensorrt.json come the targets where an entry is right or compiles; PyTorch counts how the
multiply-accumulates grow; published accuracy stands here, with the table that prints it.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from attn_export.errors import AttnExportError
from attn_export.export.construct import construct
from attn_export.mechanisms import MECHANISMS
from attn_export.tools import choosing, common_shapes
from attn_export.tools.common_shapes import SHAPES, ShapeRow
from benchmarks.common_shapes import configured, settings_at
from benchmarks.targets import row as target_rows

ROOT = Path(__file__).parents[1]
PAGE, PICTURE = ROOT / "docs" / "common-shapes.md", ROOT / "docs" / "choose.svg"
#: Top-1 of ResNet-50 on ImageNet with each mechanism: one table, of one training of 100 epochs by the authors of SGE.
TABLE, PLAIN = "github.com/implus/PytorchInsight, ResNet-50 on ImageNet, 76.38 without", 76.384
TOP1 = {"se": 77.184, "sk": 77.538, "bam": 76.898, "cbam": 77.626, "sge": 77.584}
#: Sizes at which growth is counted: pixels or tokens times 4, channels times 4.
GROWTH = ((28, 64), (56, 64), (28, 256))


def gathered() -> dict[str, dict[str, Any]]:
    """Give the facts of every entry of the catalogue; what nobody measured is not there."""
    found: dict[str, dict[str, Any]] = {name: {} for name in MECHANISMS.entries}
    for file in sorted((ROOT / "docs" / "targets.d").glob("*.jsonl")):
        for name, row in target_rows.read(file).items():
            if name in found and not row.stopped and (state := _state(row)):
                found[name].setdefault("targets", {})[row.target] = state
    for line in json.loads((ROOT / "docs" / "tensorrt.json").read_text(encoding="utf-8")):
        if line["name"] in found:
            target = f"tensorrt_rtx:{line['precision']}"
            found[line["name"]].setdefault("targets", {})[target] = "refused" if line["refusal"] else "compiled"
            if not line["refusal"]:
                found[line["name"]].setdefault("layers", {})[line["precision"]] = line["layers"]
    for name, top1 in TOP1.items():
        found[name]["published"] = {"gain": round(top1 - PLAIN, 2), "top1": top1, "source": TABLE}
    for name, fact in found.items():
        if text := grows(name):
            fact["grows"] = text
    return {name: fact for name, fact in sorted(found.items()) if fact}


def _state(row: target_rows.Row) -> str:
    """Say what a target made of an entry: refused, compiled (nothing runs there), right, or wrong."""
    if not row.converted:
        return "refused" if row.converted is False else ""
    if row.ran is None:
        return "compiled"
    return "right" if row.right else "wrong"


def grows(name: str) -> str:
    """Say with which powers of the pixels (or tokens) n and the channels c the multiply-accumulates grow.

    Counted by PyTorch in its convolutions and products of matrices alone, between the sizes of ``GROWTH``; empty where
    an entry takes none of them, or has no such operator.
    """
    counts = []
    try:
        for side, channels in GROWTH:
            _, _, layout = configured(name)
            if layout == "network":
                return ""
            text = f"1x{side * side}x{channels}" if layout == "tokens" else f"1x{channels}x{side}x{side}"
            settings, shape, inputs = settings_at(name, text)
            module = construct(settings.build, settings.arguments, 0)
            with torch.no_grad(), FlopCounterMode(display=False) as counter:
                module(*[torch.randn(shape)] * inputs)
            counts.append(counter.get_total_flops())
    except (AttnExportError, RuntimeError, ValueError):
        return ""
    if not min(counts):
        return ""
    n, c = (math.log(count / counts[0], 4) for count in counts[1:])
    return f"n^{n:.1f} c^{c:.1f}"


def picture(rows: dict[tuple[str, str], ShapeRow], facts: dict[str, dict[str, Any]]) -> str:
    """Draw gain over cost, with the Pareto front, as SVG."""
    known = [(name, row, facts[name]["published"]["gain"]) for name in TOP1 if (row := rows.get((name, SHAPES[1])))]
    points = [(name, row.high, gain) for name, row, gain in known if row.high is not None]
    best = choosing.front([(cost, gain) for _, cost, gain in points])
    line = sorted(points[index][1:] for index in best)

    def x(cost: float) -> float:
        return 70 + 480 * (math.log10(cost) + 2.5) / 3

    def y(gain: float) -> float:
        return 300 - 260 * gain / 1.5

    drawn = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 600 360" font-family="sans-serif" font-size="12">',
        '<rect width="600" height="360" fill="white"/>',
        '<path d="M70 40V300H550" fill="none" stroke="#444"/>',
        '<text x="310" y="345" text-anchor="middle">time over a 3 x 3 convolution at 2x256x14x14 (upper end)</text>',
        '<text x="20" y="170" transform="rotate(-90 20 170)" text-anchor="middle">top-1 over plain ResNet-50</text>',
    ]
    drawn += [
        f'<text x="{x(tick):.0f}" y="318" text-anchor="middle">{tick:g}</text>'
        f'<path d="M{x(tick):.0f} 300v5" stroke="#444"/>'
        for tick in (0.01, 0.1, 1)
    ]
    drawn += [f'<text x="62" y="{y(tick) + 4:.0f}" text-anchor="end">+{tick:g}</text>' for tick in (0.5, 1, 1.5)]
    path = " ".join(f"{x(cost):.1f},{y(gain):.1f}" for cost, gain in line)
    drawn.append(f'<polyline points="{path}" fill="none" stroke="#b40" stroke-dasharray="4"/>')
    for index, (name, cost, gain) in enumerate(points):
        fill = "#b40" if index in best else "#888"
        drawn.append(f'<circle cx="{x(cost):.1f}" cy="{y(gain):.1f}" r="5" fill="{fill}"/>')
        drawn.append(f'<text x="{x(cost) + 9:.1f}" y="{y(gain) + 4:.1f}">{name}</text>')
    return "\n".join([*drawn, "</svg>\n"])


def page(rows: dict[tuple[str, str], ShapeRow], facts: dict[str, dict[str, Any]]) -> str:
    """Write every row, shape by shape, cheapest first."""
    machines = sorted({row.machine for row in rows.values() if row.machine})
    loads = [row.load for row in rows.values() if row.load is not None]
    found = [
        "# The catalogue at common shapes",
        "Generated by `python -m benchmarks.choosing` from the rows that `python -m benchmarks.common_shapes` measured;"
        " `attn-export choose` asks them. An entry without a row is not measured yet.",
        "- **ratio**: CPU time over that of a 3 x 3 convolution of as many channels on the same map (of tokens, on the"
        " square map that they are of), for whole networks over that of ResNet-50: the median over interleaved blocks"
        " of one process, with its 95 % interval.\n"
        "- **peak**: activations that live at once, as the graph orders them.\n"
        "- **TensorRT layers**: of the engine, compiled and not run (E1), at the size of the entry's own preset.\n"
        "- **grows**: with which powers of the pixels or tokens n and the channels c the multiply-accumulates grow,"
        " between 28 x 28 and 56 x 56, and between 64 and 256 channels. Work element by element is not counted.",
        f"Measured on {'; '.join(machines) or 'no machine yet'}; load {min(loads, default=0):g} to"
        f" {max(loads, default=0):g}, so others were at work: ratios hold, times would not.",
    ]
    titles = "| entry | ratio | 95 % interval | budget | parameters | MACs | peak | nodes | TensorRT layers | grows |"
    for shape in SHAPES:
        here = [row for row in rows.values() if row.shape == shape]
        good = sorted((row for row in here if row.ratio is not None), key=lambda row: (row.high, row.entry))
        lines = [titles, "|---" * 10 + "|"]
        for row in good:
            fact = facts.get(row.entry, {})
            cells = (
                f"`{row.entry}`", f"{row.ratio:.3f}", f"{row.low:.3f} to {row.high:.3f}", row.budget,
                f"{row.parameters:,}", f"{(row.macs or 0) / 1e6:,.1f} M", f"{(row.peak_bytes or 0) / 1e6:.1f} MB",
                str(row.nodes), str(fact.get("layers", {}).get("fp32", "")), fact.get("grows", ""),
            )  # fmt: skip
            lines.append(f"| {' | '.join(map(str, cells))} |")
        refused = [f"- `{row.entry}`: {row.why_not}" for row in here if row.ratio is None]
        found += [f"## {shape}", "\n".join(lines)]
        found += ["Cannot be measured there:", "\n".join(refused)] if refused else []
    return "\n\n".join(found) + "\n"


def main() -> None:
    """Write the facts, the page and the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", action="store_true", help="keep the facts, and draw new rows alone")
    torch.set_num_threads(1)
    if not parser.parse_args().rows:
        lines = [f"{json.dumps(name)}: {json.dumps(fact)}" for name, fact in gathered().items()]
        choosing.FACTS.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    facts, rows = choosing.facts(), common_shapes.read()
    PAGE.write_text(page(rows, facts), encoding="utf-8")
    PICTURE.write_text(picture(rows, facts), encoding="utf-8")


if __name__ == "__main__":
    main()
