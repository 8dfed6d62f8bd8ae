"""Compile the catalogue without a GPU: each entry in float32 and float16, exported as the main job does it.

    python -m benchmarks.pages.compile_table [NAME …]      about 25 minutes for all; --again: also what is known

Rows say what NVIDIA's builder accepted and fused (evidence E1, nothing is run) and which refusals our rules foresee;
refusals are rows too. They are kept in ``docs/tensorrt.json`` as they come, so that an interrupted run goes on where it
was, and are written as ``docs/tensorrt.md``.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attn_export.deploy_tests.backends.tensorrt.evidence import CompileEvidence, compile_only
from attn_export.errors import AttnExportError, BackendMissingError, GateError, UnknownNameError
from attn_export.types import ShapeRange
from benchmarks.pages import tensorrt
from benchmarks.pages.unfused_attention import expected

if TYPE_CHECKING:
    from attn_export.export.subject import Subject

PRECISIONS = ("fp32", "fp16")
#: Seeds and scales of the inputs that decide what overflows in float16.
FEEDS = ((0, 1.0), (1, 8.0))
DOCS = Path(__file__).resolve().parents[2] / "docs"
ROWS, PAGE = "tensorrt.json", "tensorrt.md"


@dataclass(frozen=True)
class CompileRow:
    """One entry in one precision.

    Attributes:
        name: the catalogue name.
        precision: ``fp32`` or ``fp16``.
        claim: what was shown, or empty where it was refused.
        refusal: why, or empty.
        softmaxes: softmax nodes in the graph, as a bound on how much attention there is to fuse.
        layers: steps of the plan.
        kernels: those of them that run on the GPU.
        attention: fused attention kernels among them.
        kept: nodes that the float16 rewrite left in float32.
        refused_by_rules: rule and node where our rules foresee a refusal.
        sha256: of the very graph that was compiled.
    """

    name: str
    precision: str
    claim: str = ""
    refusal: str = ""
    softmaxes: int = 0
    layers: int = 0
    kernels: int = 0
    attention: int = 0
    kept: int = 0
    refused_by_rules: tuple[str, ...] = ()
    sha256: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Give the row as plain data."""
        return asdict(self)


def ranges(subject: Subject) -> dict[str, ShapeRange]:
    """Return the optimisation profile that covers a subject's first cases; empty where nothing is dynamic."""
    from attn_export.export.cases.plan import plan

    free = {dim.name for dim in subject.dynamic}
    known = [{**subject.sizes, **row.sizes} for row in plan(subject) if not row.optional]
    found = {}
    for item in subject.inputs:
        if not free & set(item.shape):
            continue
        seen = [tuple(sizes[d] if isinstance(d, str) else d for d in item.shape) for sizes in known]
        least, most = (tuple(pick(axis) for axis in zip(*seen, strict=True)) for pick in (min, max))
        usual = tuple(subject.sizes[d] if isinstance(d, str) else d for d in item.shape)
        found[item.name] = ShapeRange(least, usual, most)
    return found


def compile_entry(name: str, sm: str = "86", *, fuse: bool = True) -> Iterator[CompileRow]:
    """Export one catalogue entry, fused where something can be, and compile it in each precision.

    Raises:
        BackendMissingError: TensorRT for RTX is not installed.
    """
    from attn_export.export.onnx import save
    from attn_export.export.precision.float16 import Float16Report
    from attn_export.export.sources.catalogue import from_spec
    from attn_export.mechanisms import MECHANISMS
    from attn_export.pipeline import lint, stages
    from attn_export.pipeline.options import BuildOptions

    subject = from_spec(name, MECHANISMS[name])
    feeds = tuple({k: v.numpy() for k, v in subject.example(seed=seed, scale=scale).items()} for seed, scale in FEEDS)
    # The main job certifies; here it is only compiled.
    state = stages.build(subject, BuildOptions(fuse=fuse, certify=False), feeds)
    softmaxes = state.model.operators.get("Softmax", 0)
    with tempfile.TemporaryDirectory() as folder:
        for precision in PRECISIONS:
            path, row = Path(folder, f"{precision}.onnx"), CompileRow(name, precision, softmaxes=softmaxes)
            try:
                made = stages.run(state, BuildOptions(fp16=True)) if precision == "fp16" else state
                model, report = made.model.model, made.account(Float16Report)
                if report is not None:
                    row = replace(row, kept=len(report.kept))
                foreseen = [f for f in lint.by_rules(model, "tensorrt") if f.level == "refused"]
                row = replace(row, refused_by_rules=tuple(f"{f.rule} {f.node}" for f in foreseen))
                save.save(model, path)
                row = _shown(row, compile_only(path, sm, shapes=ranges(subject)))
            except BackendMissingError:
                raise
            except AttnExportError as error:
                row = replace(row, refusal=str(error).replace(str(path), "the graph"))
            yield row


def _shown(row: CompileRow, shown: CompileEvidence) -> CompileRow:
    plan = shown.plan
    return replace(
        row,
        claim=shown.summary(),
        sha256=shown.sha256,
        layers=len(plan.layers),
        kernels=len(plan.kernels),
        attention=len(plan.attention),
    )


def rows_of(name: str) -> list[CompileRow]:
    """Make the rows of an entry; what cannot be exported is a row too.

    Raises:
        BackendMissingError: TensorRT for RTX is not installed.
    """
    try:
        return list(compile_entry(name))
    except BackendMissingError:
        raise
    except AttnExportError as error:
        return [CompileRow(name, precision, refusal=str(error)) for precision in PRECISIONS]


def load(folder: Path = DOCS) -> dict[str, list[CompileRow]]:
    """Read the rows that are known, by entry."""
    try:
        raw = json.loads((folder / ROWS).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    fixed = [CompileRow(**{**row, "refused_by_rules": tuple(row["refused_by_rules"])}) for row in raw]
    return {name: [row for row in fixed if row.name == name] for name in sorted({row.name for row in fixed})}


def save_rows(known: Mapping[str, Iterable[CompileRow]], folder: Path = DOCS) -> None:
    """Keep rows and page, one row a line."""
    rows = [row for name in sorted(known) for row in known[name]]
    lines = ",\n".join(json.dumps(row.to_dict()) for row in rows)
    partial = folder / f".{ROWS}.partial"
    partial.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    partial.replace(folder / ROWS)
    (folder / PAGE).write_text(tensorrt.markdown(rows), encoding="utf-8")


def gate(rows: Iterable[CompileRow]) -> None:
    """Hold the rows against what is declared: each row builds, and attention fuses where NVIDIA documents it.

    Raises:
        GateError: it does not; says which entries.
    """
    wrong = []
    for row in rows:
        if row.refusal:
            wrong.append(f"{row.name} in {row.precision} is refused: {row.refusal}")
            continue
        wanted = expected(row.name, row.precision, row.softmaxes)
        if row.attention != wanted:
            wrong.append(f"{row.name} in {row.precision} has {row.attention} fused attentions, wanted {wanted}")
    if wrong:
        raise GateError("; ".join(wrong))


def main(arguments: list[str], folder: Path = DOCS) -> None:
    """Compile the named entries, or all that are not known yet; keep them; then hold them against the declaration.

    Raises:
        UnknownNameError: there is no such entry; nothing was compiled.
        GateError: as ``gate``.
    """
    from attn_export.mechanisms import MECHANISMS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="entries; all by default")
    parser.add_argument("--again", action="store_true", help="also what is known")
    asked = parser.parse_args(arguments)
    for name in asked.names:
        if name not in MECHANISMS:  # before anything is compiled or kept
            raise UnknownNameError("mechanism", name, MECHANISMS)
    known = {name: rows for name, rows in load(folder).items() if name in MECHANISMS}
    for name in asked.names or [n for n in MECHANISMS if n not in known or asked.again]:
        known[name] = rows_of(name)
        save_rows(known, folder)
        words = (f"{r.precision} {r.kernels} kernels, {r.attention} fused attention{r.refusal}" for r in known[name])
        sys.stderr.write(f"{name}: {'; '.join(words)}\n")
    save_rows(known, folder)
    gate(row for rows in known.values() for row in rows)


if __name__ == "__main__":
    main(sys.argv[1:])
