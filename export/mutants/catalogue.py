"""Mutants of an ONNX graph: the same model with one fault, to show that a check on it can fail.

    for mutation in mutations(model):
        mutant = mutation.of(model)        one fault, everything else bit for bit

The kinds are those that happen: a tensor forgotten, one weight off by 1 %, channels swapped, a bias dropped, an
epsilon or a padding copied wrongly, another softmax axis, tanh for erf, a weight not transposed, a branch lost; in the
outputs a class zeroed, two swapped, a channel off by 1 %, a corner; those that show on some inputs only, such as beyond
a batch size, on images without negative numbers, in one row of an embedding; and the two that no check may pass, the
input itself and zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest

import onnx

from attn_export import bundle
from attn_export.export.graph.index import GraphIndex
from attn_export.export.mutants import channels, conditional, nodes, weights
from attn_export.export.mutants.conditional import Condition
from attn_export.export.mutants.outputs import reattach

#: What no gate may pass: the kinds that decide whether a check is vacuous.
TRIVIAL = bundle.TRIVIAL


@dataclass(frozen=True)
class Mutation:
    """One fault that can be injected.

    Attributes:
        kind: what is done, such as ``weight zeroed``.
        where: the tensor or node it is done to.
        node: the first node whose result it changes; empty where it is the whole graph.
        change: puts the fault into a graph.
        condition: when it shows; None where always.
    """

    kind: str
    where: str
    node: str
    change: Callable[[onnx.GraphProto], None]
    condition: Condition | None = None

    @property
    def name(self) -> str:
        """Kind and place in one line."""
        return f"{self.kind}: {self.where}" if self.where else self.kind

    def of(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """Return ``model`` with this fault; the one given is not changed."""
        mutant = onnx.ModelProto()
        mutant.CopyFrom(model)
        del mutant.graph.value_info[:]  # inner shapes are derived, and may not hold for the mutant
        self.change(mutant.graph)
        reattach(mutant.graph)
        return mutant


def mutations(model: onnx.ModelProto) -> list[Mutation]:
    """List every fault that can be injected into ``model``, the trivial ones first, then one of each kind in turn."""
    index = GraphIndex(model)
    kinds: dict[str, list[Mutation]] = {}
    for function in (*nodes.WHOLE, *weights.KINDS, *nodes.KINDS, *channels.KINDS, *conditional.KINDS):
        for fault in function(index):
            kinds.setdefault(fault[0], []).append(Mutation(*fault))
    trivial = [mutation for kind in TRIVIAL for mutation in kinds.pop(kind, [])]
    return trivial + in_turn(kinds)


def in_turn(kinds: Mapping[str, list[Mutation]]) -> list[Mutation]:
    """Order faults so that every prefix has one of each kind in turn, each spread over the depth of the graph."""
    return list(_in_turn(_spread(rows) for rows in kinds.values()))


def mutants(model: onnx.ModelProto) -> Iterator[tuple[str, onnx.ModelProto, str]]:
    """Yield name, mutated model, and the first node whose result the fault changes."""
    for mutation in mutations(model):
        yield mutation.name, mutation.of(model), mutation.node


def _spread(rows: list[Mutation]) -> list[Mutation]:
    """Order the rows so that every prefix is spread over the depth of the graph: middle, quarters, eighths."""
    order: list[int] = []
    step = len(rows)
    while len(order) < len(rows):
        step = max(1, step)
        order += [i for i in range(step // 2, len(rows), step) if i not in set(order)]
        step //= 2
    return [rows[i] for i in order]


def _in_turn(lists: Iterable[list[Mutation]]) -> Iterator[Mutation]:
    for turn in zip_longest(*lists):
        yield from (mutation for mutation in turn if mutation is not None)
