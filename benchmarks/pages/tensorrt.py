"""The page ``docs/tensorrt.md``: what NVIDIA's builder took of the catalogue and fused, what it did not, and why."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from benchmarks.pages.unfused_attention import NOT_FUSED

if TYPE_CHECKING:
    from benchmarks.pages.compile_table import CompileRow

HEAD = """# The catalogue under TensorRT for RTX

Written by `python -m benchmarks.pages.compile_table`. Level E1: NVIDIA's parser and builder accepted these
very graphs for the named GPU, and the fused plan shows what stands here. Nothing was run.
"""
COLUMNS = (
    "entry", "softmaxes", "layers fp32", "layers fp16", "kernels fp32", "kernels fp16",
    "fused attention fp32", "fused attention fp16", "kept in fp32",
)  # fmt: skip
ATTENTION = """## Attention that is not fused

NVIDIA documents the fusion for [softmax(q kᵀ + mask) v over the keys, with q, k and v of one head width, of shape
[batch, heads, tokens, width], q or k scaled before the first
product](https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/transformers-fused-attention.html).
Found by running the builder: float16 and bfloat16 only, widths 9 to 256, keys as wide as values, and of four dimensions
where the batch is open. Every softmax of a float16 entry in that form is fused, which is checked when this page is
written; these entries have softmaxes of another form:
"""


#: Entries that the builder has not been asked about yet; the page says so.
NOT_TRIED = (
    "cait",
    "cmt",
    "coat",
    "container",
    "contnet",
    "convit",
    "convnextv2",
    "crossvit",
    "deepvit",
    "deit",
    "efficientformer",
    "efficientvit",
    "fastvit",
    "ghostnetv2",
    "hatnet",
    "levit",
    "mobilenetv4",
    "mobilevit",
    "patchconvnet",
    "pit",
    "pvt",
    "repghostnet",
    "repvit",
    "resnet",
    "shuffle_transformer",
    "starnet",
    "swin",
    "swin_v2",
    "tnt",
    "volo",
)


def markdown(rows: Sequence[CompileRow]) -> str:
    """Write the page."""
    entries = {
        name: {row.precision: row for row in rows if row.name == name} for name in sorted({r.name for r in rows})
    }
    built = [row for row in rows if row.claim]
    parts = [HEAD]
    for claim in sorted({row.claim for row in built}):
        shown = [row for row in built if row.claim == claim]
        names = len({row.name for row in shown})
        parts.append(f"**{claim}**: {len(shown)} graphs of {names} entries; {len(rows) - len(built)} refused.\n")
    if NOT_TRIED:
        parts.append(f"Not tried yet: {', '.join(f'`{name}`' for name in NOT_TRIED)}.\n")
    parts.append("\n".join([_line(COLUMNS), "|---" * len(COLUMNS) + "|", *map(_entry, entries.values())]) + "\n")
    parts.append(ATTENTION)
    parts.append("\n".join(f"- `{name}`: {why}" for name, why in sorted(NOT_FUSED.items()) if name in entries) + "\n")
    refused = [f"- `{row.name}` in {row.precision}: {row.refusal}" for row in rows if row.refusal]
    parts.append("## Refused\n\n" + ("\n".join(refused) or "None.") + "\n")
    parts.append(
        "## Where our rules and the parser disagree\n\n"
        "`attn-export lint --target tensorrt` foresees refusals by rules; the parser is right where they differ.\n"
    )
    parts.append(("\n".join(disagreements(rows)) or "Nowhere: no rule foresees a refusal, and none came.") + "\n")
    return "\n".join(parts)


def disagreements(rows: Sequence[CompileRow]) -> list[str]:
    """Write a line for each graph that one source refuses and the other takes."""
    lines = []
    for row in rows:
        if row.claim and row.refused_by_rules:
            lines.append(f"- `{row.name}` in {row.precision}: only the rules refuse: {', '.join(row.refused_by_rules)}")
        if row.refusal and not row.refused_by_rules:
            lines.append(f"- `{row.name}` in {row.precision}: only the parser refuses")
    return lines


def _entry(pair: dict[str, CompileRow]) -> str:
    full, half = pair["fp32"], pair["fp16"]
    steps = [str(row.layers) if row.claim else "refused" for row in (full, half)]
    kernels = [str(row.kernels) if row.claim else "refused" for row in (full, half)]
    attention = [str(full.attention), str(half.attention)]
    return _line([f"`{full.name}`", str(full.softmaxes), *steps, *kernels, *attention, str(half.kept)])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
