"""Compile the catalogue without a GPU: each entry in float32 and float16, exported as the main job does it.

The rows say what NVIDIA's builder accepted and fused (evidence E1, nothing is run); refusals are rows too.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attn_export.deploy_tests.backend import Range
from attn_export.deploy_tests.backends.tensorrt.evidence import CompileEvidence, compile_only
from attn_export.errors import AttnExportError, BackendMissingError

if TYPE_CHECKING:
    from attn_export.mechanisms.subject import Subject

PRECISIONS = ("fp32", "fp16")


@dataclass(frozen=True)
class Row:
    """One entry in one precision.

    Attributes:
        name: the catalogue name.
        precision: ``fp32`` or ``fp16``.
        claim: what was shown, or empty where it was refused.
        refusal: why, or empty.
        softmaxes: softmax nodes in the graph, as a bound on how much attention there is to fuse.
        kernels: launches on the GPU.
        attention: fused attention kernels among them.
        kept: nodes that the float16 rewrite left in float32.
        sha256: of the very graph that was compiled.
    """

    name: str
    precision: str
    claim: str
    refusal: str
    softmaxes: int
    kernels: int
    attention: int
    kept: int
    sha256: str

    def as_json(self) -> dict[str, Any]:
        """The row as plain data."""
        return asdict(self)


def ranges(subject: Subject) -> dict[str, Range]:
    """The optimisation profile that covers a subject's cases; empty where nothing is dynamic."""
    from attn_export.export import truth

    free = {dim.name for dim in subject.dynamic}
    known = [{**subject.sizes, **sizes} for *_, sizes in truth.plan(subject)]
    found = {}
    for item in subject.inputs:
        if not free & set(item.shape):
            continue
        seen = [tuple(sizes[d] if isinstance(d, str) else d for d in item.shape) for sizes in known]
        least, most = (tuple(pick(axis) for axis in zip(*seen, strict=True)) for pick in (min, max))
        usual = tuple(subject.sizes[d] if isinstance(d, str) else d for d in item.shape)
        found[item.name] = Range(least, usual, most)
    return found


def compile_entry(name: str, sm: str = "86", *, fuse: bool = True) -> Iterator[Row]:
    """Export one catalogue entry, fused where something can be, and compile it in each precision.

    Raises:
        BackendMissingError: TensorRT for RTX is not installed.
    """
    from attn_export.export import save, simplify, torch_onnx
    from attn_export.export.precision import to_float16
    from attn_export.mechanisms import MECHANISMS
    from attn_export.mechanisms.subject import from_spec

    subject = from_spec(name, MECHANISMS[name])
    exported = simplify.simplify(torch_onnx.export(subject))
    if fuse:
        from attn_export.reparam.graph import fuse_graph

        fused = fuse_graph(exported.model, certificate=False)  # the main job certifies; here it is only compiled
        exported = replace(exported, model=fused.model)
    feeds = [{k: v.numpy() for k, v in subject.example(seed=seed, scale=scale).items()} for seed, scale in FEEDS]
    softmaxes = exported.operators.get("Softmax", 0)
    with tempfile.TemporaryDirectory() as folder:
        for precision in PRECISIONS:
            path, kept, shown, refusal = Path(folder, f"{precision}.onnx"), 0, None, ""
            try:
                model = exported.model
                if precision == "fp16":
                    model, report = to_float16(model, feeds)
                    kept = len(report.kept)
                save.save(model, path)
                shown = compile_only(path, sm, shapes=ranges(subject))
            except BackendMissingError:
                raise
            except AttnExportError as error:
                refusal = str(error).replace(str(path), "the graph")
            yield _row(name, precision, shown, refusal, softmaxes, kept)


#: Seeds and scales of the inputs that decide what overflows in float16.
FEEDS = ((0, 1.0), (1, 8.0))


def _row(name: str, precision: str, shown: CompileEvidence | None, refusal: str, softmaxes: int, kept: int) -> Row:
    if shown is None:
        return Row(name, precision, "", refusal, softmaxes, 0, 0, kept, "")
    plan = shown.plan
    attention, sha = len(plan.attention), shown.sha256
    return Row(name, precision, shown.sentence(), "", softmaxes, len(plan.kernels), attention, kept, sha)


def markdown(rows: Iterable[Row]) -> str:
    """The rows as a table: one line an entry, kernels and fused attention in each precision."""
    entries: dict[str, dict[str, Row]] = {}
    for row in rows:
        entries.setdefault(row.name, {})[row.precision] = row
    claims = sorted({row.claim for pair in entries.values() for row in pair.values() if row.claim})
    head = "| entry | softmaxes | kernels fp32 | kernels fp16 | attention fused fp32 | fp16 | kept in fp32 |"
    lines = [*claims, "", head, "|---|---|---|---|---|---|---|"]
    for name, pair in sorted(entries.items()):
        full, half = pair["fp32"], pair["fp16"]
        cells = [str(full.softmaxes), *(str(r.kernels) if r.claim else "refused" for r in (full, half))]
        cells += [str(full.attention), str(half.attention), str(half.kept)]
        lines.append(f"| `{name}` | " + " | ".join(cells) + " |")
    refused = [row for pair in entries.values() for row in pair.values() if row.refusal]
    if refused:
        lines += ["", "Refused:", ""]
        lines += [f"- `{row.name}` in {row.precision}: {row.refusal}" for row in refused]
    return "\n".join(lines) + "\n"


def main(names: Iterable[str] = ()) -> str:
    """Compile the named entries, or all of them, and give the page; what cannot be exported is a row too."""
    from attn_export.mechanisms import MECHANISMS

    return markdown(row for name in (names or MECHANISMS) for row in _rows(name))


def _rows(name: str) -> list[Row]:
    try:
        return list(compile_entry(name))
    except BackendMissingError:
        raise
    except AttnExportError as error:
        return [Row(name, precision, "", str(error), 0, 0, 0, 0, "") for precision in PRECISIONS]


if __name__ == "__main__":
    sys.stdout.write(main(sys.argv[1:]))
