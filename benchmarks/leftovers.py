"""Count the batch norms that fusing leaves, and of each whether a linear neighbour could have taken it.

    python -m benchmarks.leftovers [NAME …] [--size 64] [--preset test]

Over the whole networks and every entry of the families ``rep`` and ``conv`` with its variants, exported without the
exporter's optimiser, which would take the easy ones. The judge is apart from
the fuser: it looks at operators and who reads them, and knows none of the algebra. Exits with 1 if any norm is left
that a neighbour could take.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import onnx
import torch
from onnx import NodeProto, helper

from attn_export.errors import AttnExportError
from attn_export.export.sources.catalogue import from_spec
from attn_export.mechanisms import MECHANISMS
from attn_export.reparam.fuse_onnx import fuse_graph
from benchmarks.networks import NETWORKS, build
from benchmarks.producers import dynamo

FAMILIES = ("rep", "conv")
_KERNELS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_SAME = ("Identity", "Dropout", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze")
_JOINS = ("Add", "Sum", "Concat")


class Judge:
    """Says of a batch norm in a graph whether an operator beside it could do its work at no cost."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.graph = model.graph
        self.made = {name: node for node in model.graph.node for name in node.output}
        self.constant = {t.name for t in model.graph.initializer} - {i.name for i in model.graph.input}
        self.constant |= {n.output[0] for n in model.graph.node if n.op_type == "Constant"}
        self.read: dict[str, list[NodeProto]] = {}
        for node in model.graph.node:
            for name in dict.fromkeys(node.input):
                self.read.setdefault(name, []).append(node)
        self.given = {o.name for o in model.graph.output}

    def norms(self) -> Iterator[tuple[NodeProto, str]]:
        """Every batch norm, with the neighbour that could take it or nothing."""
        for node in self.graph.node:
            if node.op_type == "BatchNormalization":
                yield node, self._before(node.input[0]) or self._behind(node.output[0]) or self._beside(node)

    def _alone(self, name: str) -> bool:
        return len(self.read.get(name, [])) == 1 and name not in self.given

    def _weighted(self, node: NodeProto) -> bool:
        """Whether it has constant weights, which could be changed.

        A scale is none: it and a norm make a scale and a shift, two nodes again and measured to be slower.
        """
        return node.op_type in _KERNELS and node.input[1] in self.constant

    def _before(self, name: str) -> str:
        """Find what makes this value, through views and joins, and could make it scaled: only if nobody else reads."""
        node = self.made.get(name)
        if node is None or not self._alone(name):
            return ""
        if self._weighted(node):
            return f"{node.op_type} before"
        if node.op_type in _SAME:
            return self._before(node.input[0])
        if node.op_type in _JOINS:
            found = [self._before(part) for part in node.input]
            return found[0] if all(found) else ""
        return ""

    def _behind(self, name: str) -> str:
        """Whether all that read this value are kernels that see no padding, so that they could take scale and shift."""
        readers = self.read.get(name, [])
        if not readers or name in self.given:
            return ""
        for node in readers:
            if node.op_type in _SAME and self._behind(node.output[0]):
                continue
            at = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            padded = any(at.get("pads", [])) or at.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID")
            takes = node.op_type in ("Conv", "Gemm", "MatMul") and self._weighted(node) and not padded
            if not takes or node.input[0] != name:
                return ""
        return f"{readers[0].op_type} behind"

    def _beside(self, norm: NodeProto) -> str:
        """Find a convolution of the same input that is added to it: one more number on its diagonal."""
        if not self._alone(norm.output[0]):
            return ""
        for join in self.read[norm.output[0]]:
            for other in join.input if join.op_type in ("Add", "Sum") else ():
                node = self.made.get(other)
                if node is None or node.op_type != "Conv" or node.input[0] != norm.input[0] or not self._alone(other):
                    continue
                at = {a.name: helper.get_attribute_value(a) for a in node.attribute}
                if all(step == 1 for step in at.get("strides", [1])):
                    return "Conv beside"
        return ""


@dataclass(frozen=True)
class LeftoverRow:
    """Batch norms of one net before and after, and the neighbours that could have taken what is left."""

    name: str
    before: int
    left: int
    neighbours: tuple[str, ...]

    def __str__(self) -> str:
        said = ", ".join(self.neighbours) if self.neighbours else "–"
        return f"| {self.name} | {self.before} | {self.left} | {said} |"


def count(name: str, model: onnx.ModelProto) -> LeftoverRow:
    """Fuse a graph and judge what is left."""
    before = sum(1 for _ in Judge(model).norms())
    found = list(Judge(fuse_graph(model, certificate=False).model).norms())
    return LeftoverRow(name, before, len(found), tuple(f"{node.name}: {who}" for node, who in found if who))


def _network(name: str, size: int) -> onnx.ModelProto:
    batch, channels, *_ = NETWORKS[name].shape
    return dynamo((build(name), (torch.randn(batch, channels, size, size),)), optimize=False)


def entry(name: str, preset: str) -> onnx.ModelProto:
    """Build an entry of the catalogue as a graph with all its norms."""
    subject = from_spec(name, MECHANISMS[name], preset)
    return dynamo((subject.module, tuple(subject.example().values())), optimize=False)


def nets(size: int, preset: str) -> Iterator[tuple[str, Callable[[], onnx.ModelProto]]]:
    """Names of all nets, with how to get each."""
    for name in NETWORKS:
        yield name, partial(_network, name, size)
    for name, place in MECHANISMS.entries.items():
        if place.family in FAMILIES:
            spec = MECHANISMS[name]
            for configuration in (preset, *spec.variants):
                if configuration in spec.configurations:
                    yield f"{name}-{configuration}", partial(entry, name, configuration)


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--size", type=int, default=64, help="of the pictures that whole networks get")
    parser.add_argument("--preset", default="test")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| net | BatchNorm before | left | with a linear neighbour |\n|---|---|---|---|")
    rows = []
    for name, make in nets(options.size, options.preset):
        if options.names and name not in options.names and name.split("-")[0] not in options.names:
            continue
        try:
            rows.append(count(name, make()))
        except (AttnExportError, torch.onnx.errors.OnnxExporterError) as error:
            print(f"{name}: {error}", file=sys.stderr)
            continue
        print(rows[-1], flush=True)
    wrong = sum(len(row.neighbours) for row in rows)
    totals = sum(row.before for row in rows), sum(row.left for row in rows)
    print(f"\n{len(rows)} nets: {totals[0]} → {totals[1]} batch norms, {wrong} left with a linear neighbour")
    return 1 if wrong or not rows else 0


if __name__ == "__main__":
    sys.exit(main())
