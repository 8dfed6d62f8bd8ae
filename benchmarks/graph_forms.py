"""List what edge compilers refuse in the catalogue's graphs: tensors of many dimensions, and operators they lack.

    python -m benchmarks.graph_forms [NAME …] [--preset test] [--dynamic] [--variants] [--save DIR]

Each entry is fused, exported at fixed sizes (as converters for phones want it) and simplified. A line names the highest
rank with the first node that has it, and the operators of ``HARD`` with their counts; the last line counts entries.
Ranks are those of computed tensors. Exits with 1 if an entry cannot be exported.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import onnx
import torch
from onnx import TensorProto

from attn_export.errors import AttnExportError
from attn_export.export.graph.index import GraphIndex
from attn_export.export.onnx.save import save
from attn_export.export.sources.catalogue import from_spec
from attn_export.mechanisms import MECHANISMS
from attn_export.pipeline import stages
from attn_export.pipeline.options import BuildOptions

#: Most compilers for phones hold four dimensions well and five somewhere.
EASY_RANK = 4
#: Operators that at least one of LiteRT, HTP, ncnn, CoreML or RKNN refuses, or leaves to the CPU.
HARD = frozenset({"Col2Im", "CumSum", "DFT", "Einsum", "GatherElements", "GatherND", "GridSample", "If", "Loop", "Mod"})
HARD |= {"NonZero", "OneHot", "Range", "Scan", "ScatterElements", "ScatterND", "TopK", "Trilu", "Unique"}
#: These carry sizes: at fixed sizes none is left where nothing else computes them.
SIZES = frozenset({"ConstantOfShape", "Range", "Shape", "Size"})
_INTEGERS = {TensorProto.INT64, TensorProto.INT32}


@dataclass(frozen=True)
class GraphForm:
    """What one graph asks of a compiler.

    Attributes:
        name: of the entry and its configuration.
        nodes: how many.
        rank: of the computed tensor with most dimensions.
        where: the first node that gives or takes it.
        found: what is hard, with its count.
    """

    name: str
    nodes: int
    rank: int
    where: str
    found: tuple[tuple[str, int], ...]

    def __str__(self) -> str:
        said = ", ".join(f"{what} {count}" for what, count in self.found) or "–"
        where = f" {self.where}" if self.rank > EASY_RANK else ""
        return f"| {self.name} | {self.nodes} | {self.rank}{where} | {said} |"


def form_of(name: str, model: onnx.ModelProto) -> GraphForm:
    """Look at one graph."""
    graph = GraphIndex(model, propagate=True)
    ranked = [(graph.rank(n), node) for node in graph.nodes for n in (*node.input, *node.output) if graph.computed(n)]
    rank = max((rank for rank, _ in ranked), default=0)
    first = next((node for r, node in ranked if r == rank), None)
    where = f"{first.op_type} {first.name or first.output[0]}" if first is not None else ""
    counts = Counter(kind for node in graph.nodes for kind in _kinds(graph, node))
    return GraphForm(name, len(graph.nodes), rank, where, tuple(sorted(counts.items())))


def _kinds(graph: GraphIndex, node: onnx.NodeProto) -> Iterator[str]:
    """Say what is hard about one node."""
    if node.op_type in HARD | SIZES:
        yield node.op_type
    if node.op_type == "Transpose" and graph.rank(node.input[0]) > EASY_RANK:
        yield f"Transpose {graph.rank(node.input[0])}-D"
    if node.op_type.startswith("Reduce") and len(node.input) > 1 and node.op_type != "ReduceSum":
        yield f"{node.op_type} by input"
    if node.op_type == "Pad" and (why := _pad(graph, node)):
        yield why
    if node.op_type not in SIZES and any(graph.element_type(name) in _INTEGERS for name in node.output):
        yield "integers"
    if node.op_type == "Reshape" and not graph.is_constant(node.input[1]):
        yield "Reshape to a computed shape"
    if node.op_type == "Slice" and any(
        graph.is_constant(n) and (graph.array(n) < 0).any() for n in _steps(graph, node)
    ):
        yield "Slice backwards"
    if any(graph.element_type(name) in (TensorProto.COMPLEX64, TensorProto.COMPLEX128) for name in node.output):
        yield "complex"


def _steps(graph: GraphIndex, node: onnx.NodeProto) -> list[str]:
    return [name for name in node.input[4:5] if name in graph.tensors]


def _pad(graph: GraphIndex, node: onnx.NodeProto) -> str:
    """Say whether a padding is one that few have: of many dimensions, or beside the two of a map."""
    rank = graph.rank(node.input[0])
    if rank > EASY_RANK:
        return f"Pad {rank}-D"
    if node.input[1] not in graph.tensors:
        return "Pad by computed sizes"
    pads, axes = graph.array(node.input[1]), list(range(max(rank, 0)))
    if len(node.input) > 3 and node.input[3] in graph.tensors:
        axes = [int(axis) % max(rank, 1) for axis in graph.array(node.input[3])]
    touched = {axis for axis, low, high in zip(axes, pads, pads[len(axes) :], strict=False) if low or high}
    return "Pad of batch or channels" if touched & {0, 1} and rank == EASY_RANK else ""


def entry(name: str, preset: str, *, dynamic: bool) -> onnx.ModelProto:
    """Export one entry of the catalogue as the main job does with ``--fuse``, without its gates."""
    subject = from_spec(name, MECHANISMS[name], preset)
    if not dynamic:
        subject = replace(subject, dynamic=())
    return stages.build(subject, BuildOptions(fuse=True, certify=False)).model.model


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--preset", default="test")
    parser.add_argument("--dynamic", action="store_true", help="leave the sizes open that the entry leaves open")
    parser.add_argument("--variants", action="store_true", help="also the entries' variants")
    parser.add_argument("--save", type=Path, help="a folder for the graphs")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| entry | nodes | highest rank | hard |\n|---|---|---|---|")
    rows, failed = [], 0
    for name in options.names or MECHANISMS.entries:
        spec = MECHANISMS[name]
        for preset in (options.preset, *(spec.variants if options.variants else ())):
            if preset not in spec.configurations:
                continue
            try:
                model = entry(name, preset, dynamic=options.dynamic)
            except AttnExportError as error:
                print(f"{name}-{preset}: {error}", file=sys.stderr)
                failed += 1
                continue
            if options.save:
                options.save.mkdir(parents=True, exist_ok=True)
                save(model, options.save / f"{name}-{preset}.onnx")
            rows.append(form_of(f"{name}-{preset}", model))
            print(rows[-1], flush=True)
    high = [row for row in rows if row.rank > EASY_RANK]
    print(
        f"\n{len(rows)} graphs: {len(high)} beyond rank {EASY_RANK}, {sum(bool(row.found) for row in rows)} with more"
    )
    return 1 if failed or not rows else 0


if __name__ == "__main__":
    sys.exit(main())
