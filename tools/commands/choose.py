"""``choose``: which entries fit a place, cheapest first, from what was measured; no torch, no runtime."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from attn_export.tools import console
from attn_export.tools.choosing import HOLDS, Answer, Choice, Question, answer
from attn_export.tools.common_shapes import NETWORKS


def choose(question: Question, *, as_json: bool) -> None:
    """Print what fits."""
    found = answer(question)
    console.result(_plain(question, found), as_json=as_json)
    if not as_json:
        console.say(*_lines(question, found))


def _plain(question: Question, found: Answer) -> dict[str, Any]:
    return {
        "question": asdict(question),
        "choices": [
            {
                **asdict(one.row),
                "budget": one.row.budget,
                "tasks": list(one.tasks),
                "targets": dict(one.targets),
                "grows": one.grows,
                "published": dict(one.published),
            }
            for one in found.choices
        ],
        "not_measured": list(found.not_measured),
        "left_out": dict(found.left_out),
    }


def _lines(question: Question, found: Answer) -> list[str]:
    yardstick = "ResNet-50" if question.shape == NETWORKS else "a 3x3 convolution of the same shape"
    lines = [f"at {question.shape}, cheapest first; time over {yardstick}, one thread of one machine:"]
    if found.choices:
        lines.append(f"  {'entry':<28} {'ratio':>7} {'95 % interval':>18} {'budget':<6} {'MACs':>8} {'peak':>8} nodes")
    lines += [_line(one, question) for one in found.choices]
    lines.append(f"{len(found.choices)} fit")
    lines += [f"left out: {count} {why}" for why, count in found.left_out.items()]
    if found.not_measured:
        lines.append(f"not measured, so not judged: {', '.join(found.not_measured)}")
    lines.append(
        "A ratio is of one machine, and cost alone says nothing of accuracy: `attn-export insert` measures in your"
        " own network."
    )
    return lines


def _line(one: Choice, question: Question) -> str:
    row = one.row
    span = f"[{row.low:.3f}, {row.high:.3f}]"
    told = [name for name, state in one.targets.items() if state in HOLDS] if question.target else []
    holds = f"  {', '.join(told)}" if told else ""
    gain = f"  {one.published['gain']:+.2f} top-1 ({one.published['source']})" if one.published else ""
    return (
        f"  {row.entry:<28} {row.ratio:>7.3f} {span:>18} {row.budget:<6} {(row.macs or 0) / 1e6:>7.1f}M"
        f" {(row.peak_bytes or 0) / 1e6:>6.1f}MB {row.nodes:>5}{holds}{gain}"
    )
