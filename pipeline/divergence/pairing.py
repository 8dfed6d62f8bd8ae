"""Which tensor of one graph is which of another that has other names: by what they hold, and by their place.

    by value    of one shape, and equal to 1e-6 of their norm on the same inputs in float64
    by place    made by one operator of inputs that are partners; so a node that computes something else has one too

Values are never kept: a tensor is known by its shape, its norm, and its products with two fixed random vectors.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx

from attn_export.export.graph.index import GraphIndex
from attn_export.pipeline.divergence.bisect import cuts
from attn_export.reparam.evaluate.onnx import OnnxEvaluator
from attn_export.types import Array, Feeds

#: Two tensors are one where they differ by no more, relative to their norm.
EQUAL = 1e-6


@dataclass(frozen=True)
class Print:
    """What a tensor is known by, over several runs."""

    shape: tuple[tuple[int, ...], ...]
    sizes: tuple[float, ...]
    products: tuple[float, ...]

    def equals(self, other: Print) -> bool:
        """Whether two tensors hold the same, as far as their prints tell."""
        size = max((*self.sizes, *other.sizes, 0.0))
        rows = zip((*self.sizes, *self.products), (*other.sizes, *other.products), strict=True)
        # A product with a random vector moves by the error itself, seldom by more than four times that.
        return self.shape == other.shape and all(abs(a - b) <= 4 * EQUAL * size for a, b in rows)


@dataclass
class _Printer:
    """Random vectors of any length, the same for every tensor."""

    vectors: Array = field(default_factory=lambda: np.empty((2, 0)))

    def __call__(self, values: Sequence[Array]) -> Print:
        flat = [np.nan_to_num(np.asarray(value, np.float64).ravel()) for value in values]
        longest = max(map(len, flat))
        if self.vectors.shape[1] < longest:
            self.vectors = np.random.default_rng(0).standard_normal((longest, 2)).T
        products = [float(row @ vector[: len(row)]) for row in flat for vector in self.vectors]
        sizes = tuple(float(np.linalg.norm(row)) for row in flat)
        return Print(tuple(value.shape for value in values), sizes, tuple(products))


def prints(model: onnx.ModelProto, feeds: Sequence[Feeds], wanted: Iterable[str]) -> dict[str, Print]:
    """Evaluate tensors of a graph in float64, and give what each is known by.

    Raises:
        ExportError: a node cannot be evaluated.
    """
    exact, printer = OnnxEvaluator(model), _Printer()
    names = list(dict.fromkeys(wanted))
    runs = [{name: printer([value]) for name, value in exact.visit(feed, names)} for feed in feeds]
    return {name: _joined([run[name] for run in runs]) for name in names if all(name in run for run in runs)}


def _joined(parts: Sequence[Print]) -> Print:
    return Print(
        tuple(shape for part in parts for shape in part.shape),
        tuple(size for part in parts for size in part.sizes),
        tuple(product for part in parts for product in part.products),
    )


def by_value(ours: Mapping[str, Print], theirs: Mapping[str, Print]) -> dict[str, str]:
    """Pair names of equal tensors, each with the first of its kind that is left."""
    left: dict[tuple[tuple[int, ...], ...], list[str]] = {}
    for name, row in theirs.items():
        left.setdefault(row.shape, []).append(name)
    found = {}
    for name, row in ours.items():
        candidates = left.get(row.shape, [])
        if (partner := next((other for other in candidates if row.equals(theirs[other])), None)) is not None:
            candidates.remove(partner)
            found[name] = partner
    return found


def false_partners(ours: onnx.ModelProto, theirs: onnx.ModelProto, feeds: Feeds) -> set[str]:
    """Find names that both graphs have for tensors of another meaning: they differ, and all is well behind them.

    A simplifier that folds a batch norm into the convolution before it gives the result the convolution's name.

    Raises:
        ExportError: a node cannot be evaluated.
    """
    made = {name: place for place, node in enumerate(ours.graph.node) for name in node.output if name}
    other = {name for node in theirs.graph.node for name in node.output}
    common = [name for name in made if name in other]
    mine, its = (prints(model, [feeds], common) for model in (ours, theirs))
    wrong = {name for name in common if name in mine and name in its and not mine[name].equals(its[name])}
    sound = [place for place, alive in cuts(ours, frozenset(common)) if not wrong.intersection(alive)]
    return {name for name in wrong if sound and made[name] <= sound[-1]}


def by_place(ours: onnx.ModelProto, theirs: onnx.ModelProto, known: Mapping[str, str]) -> dict[str, str]:
    """Add to the known pairs what one operator makes of partners, where no other node of theirs is that."""
    index, other = GraphIndex(ours), GraphIndex(theirs)
    found, taken = dict(known), set(known.values())
    places: dict[tuple[str, ...], list[onnx.NodeProto]] = {}
    for node in other.nodes:
        places.setdefault((node.op_type, *filter(other.computed, node.input)), []).append(node)
    for node in index.nodes:
        read = [name for name in node.input if index.computed(name)]
        if not read or not all(name in found for name in read):
            continue
        candidates = places.get((node.op_type, *(found[name] for name in read)), [])
        free = [one for one in candidates if not taken.intersection(one.output)]
        if len(free) == 1 and len(free[0].output) == len(node.output) and not found.keys() & set(node.output):
            pairs = [pair for pair in zip(node.output, free[0].output, strict=True) if all(pair)]
            found |= dict(pairs)
            taken |= {partner for _, partner in pairs}
    return _from_behind(index, other, found)


def _from_behind(index: GraphIndex, other: GraphIndex, known: Mapping[str, str]) -> dict[str, str]:
    """Pair what one operator reads to make partners: the only input that has none, or those of one operator each."""
    found, taken = dict(known), set(known.values())
    for node in reversed(index.nodes):
        partner = other.maker.get(found.get(node.output[0], ""))
        if partner is None or partner.op_type != node.op_type or len(partner.input) != len(node.input):
            continue
        pairs = zip(node.input, partner.input, strict=True)
        left = [(a, b) for a, b in pairs if a in index.maker and b in other.maker and a not in found and b not in taken]
        for name, its in left:
            alike = index.maker[name].op_type == other.maker[its].op_type
            if (alike or len(left) == 1) and name not in found and its not in taken:
                found[name] = its
                taken.add(its)
    return found
