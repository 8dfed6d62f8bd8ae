"""Find the first node at which a run diverges from the reference, in O(log n) runs.

A cut is a position in the order of the nodes; the tensors alive there are all that later nodes can see. Everything
that is wrong with the outputs has come through every cut behind the faulty node, and through none before it. So the
first bad cut is found by bisection, and only the tensors of one cut are ever held.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping

import numpy as np
import onnx

from attn_export.errors import ExportError
from attn_export.export.graph.cut import Probe
from attn_export.pipeline.divergence.divergence import Divergence
from attn_export.reparam.adapters.onnx.nodes import inputs_of
from attn_export.types import Array

#: Error and bound of a tensor that is there, by name, suspect and reference.
Rule = Callable[[str, Array, Array], tuple[float, float]]


def bisect(
    model: onnx.ModelProto, suspect: Probe, reference: Probe, rule: Rule, partners: Container[str] | None = None
) -> Divergence | None:
    """Return the first divergence of ``suspect`` from ``reference``, or None where the outputs agree.

    Args:
        model: the suspect's graph.
        suspect: its run.
        reference: the run it is held against, on the same inputs.
        rule: what counts as an error.
        partners: names of the tensors that the reference has too; by default it has all.

    Raises:
        ExportError: no output has a partner, so nothing can be compared.
    """
    search = _Search(model, suspect, reference, rule, partners)
    last = len(search.cuts) - 1
    if not search.departs(last):
        return None
    low, high = -1, last
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if search.departs(middle) else (middle, high)
    return search.name(low, high)


def cuts(model: onnx.ModelProto, partners: Container[str] | None = None) -> list[tuple[int, tuple[str, ...]]]:
    """Positions behind which every computed tensor that is alive has a partner, with those tensors.

    Graph inputs are left out: they are the same for both.
    """
    nodes, outputs = list(model.graph.node), {value.name for value in model.graph.output}
    last_use = {name: index for index, node in enumerate(nodes) for name in inputs_of(node)}
    live: dict[str, int] = {}
    found = []
    for index, node in enumerate(nodes):
        live = {name: until for name, until in live.items() if until > index}
        for name in node.output:
            until = len(nodes) if name in outputs else last_use.get(name, -1)
            if name and until > index:
                live[name] = until
        if live and (partners is None or all(name in partners for name in live)):
            found.append((index, tuple(live)))
    return found


class _Search:
    """What has been seen so far."""

    def __init__(
        self, model: onnx.ModelProto, suspect: Probe, reference: Probe, rule: Rule, partners: Container[str] | None
    ) -> None:
        self.model, self.suspect, self.reference, self.rule, self.partners = model, suspect, reference, rule, partners
        self.cuts = cuts(model, partners)
        if not self.cuts or self.cuts[-1][0] != len(model.graph.node) - 1:
            raise ExportError("the two graphs have no output name in common, so they cannot be compared")
        self.runs = 0
        self.seen: dict[str, tuple[float, float, tuple[int, ...]]] = {}

    def departs(self, cut: int) -> bool:
        """Whether any tensor alive at this cut is out of bounds."""
        names = self.cuts[cut][1]
        self.look(names)
        return any(self.out_of_bounds(name) for name in names)

    def out_of_bounds(self, name: str) -> bool:
        error, bound, _ = self.seen[name]
        return not error <= bound

    def look(self, names: Iterable[str]) -> None:
        """Run once for the tensors not seen yet, and keep error, bound and shape of each."""
        if not (new := [name for name in names if name not in self.seen]):
            return
        self.runs += 1
        got = dict(self.suspect(new))
        for name, want in self.reference(new):
            value = got.pop(name)
            if value.shape != want.shape:
                self.seen[name] = (float("inf"), 0.0, value.shape)
            else:
                self.seen[name] = (*self.rule(name, value, want), value.shape)

    def name(self, low: int, high: int) -> Divergence:
        """Name the node between a good cut and the next, which is bad."""
        nodes = self.model.graph.node
        first = self.cuts[low][0] + 1 if low >= 0 else 0
        window = tuple(range(first, self.cuts[high][0] + 1))
        made = [(i, name) for i in window for name in nodes[i].output if name]
        known = [(i, name) for i, name in made if self.partners is None or name in self.partners]
        self.look(name for _, name in known)
        position, tensor = next((i, name) for i, name in known if self.out_of_bounds(name))
        error, bound, shape = self.seen[tensor]
        order = {name: i for i, node in enumerate(nodes) for name in node.output}
        growth = sorted(((name, row[0]) for name, row in self.seen.items()), key=lambda pair: order[pair[0]])
        node = nodes[position]
        return Divergence(
            tensor,
            node.op_type,
            node.name,
            position,
            self.suspects(position, first),
            error,
            bound,
            tuple(growth),
            shape,
            self.runs,
        )

    def suspects(self, position: int, first: int) -> tuple[int, ...]:
        """Return the node, and those before it whose results have no partner that could clear them."""
        nodes, found, left = self.model.graph.node, set[int](), [position]
        makers = {name: i for i in range(first, position) for name in nodes[i].output}
        while left:
            found.add(index := left.pop())
            unseen = (makers[name] for name in inputs_of(nodes[index]) if name in makers and name not in self.seen)
            left += [i for i in unseen if i not in found]
        return tuple(sorted(found))


def relative(floor: float) -> Rule:
    """Give the rule for two float64 runs: an error of ``floor`` times the tensor's own norm is none.

    >>> relative(1e-9)("y", np.array([1.0, 2.0]), np.array([1.0, 2.0]))
    (0.0, 1e-09)
    """

    def rule(_: str, value: Array, want: Array) -> tuple[float, float]:
        return relative_error(value, want), floor

    return rule


def derived(float32_error: Mapping[str, float] | Callable[[str], float], tolerance: float, floor: float) -> Rule:
    """Give the rule for a float32 run: ``tolerance`` times what another float32 run differs by, or times ``floor``.

    ``float32_error`` gives the relative error of a run known to be good, by tensor.
    """

    def rule(name: str, value: Array, want: Array) -> tuple[float, float]:
        stray = float32_error(name) if callable(float32_error) else float32_error[name]
        return relative_error(value, want), tolerance * max(stray, floor)

    return rule


def relative_error(value: Array, want: Array) -> float:
    """Compute the norm of the difference over that of ``want``; infinite if NaN or infinity stand elsewhere."""
    if not np.issubdtype(value.dtype, np.floating):
        return 0.0 if np.array_equal(value, want) else float("inf")
    finite = np.isfinite(want)
    if not np.array_equal(np.isfinite(value), finite):
        return float("inf")
    size = float(np.linalg.norm(want[finite].astype(np.float64)))
    error = float(np.linalg.norm(value[finite].astype(np.float64) - want[finite].astype(np.float64)))
    return error / size if size else (float("inf") if error else 0.0)
