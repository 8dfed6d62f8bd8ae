"""Choose what to collapse: every exact candidate priced, the best taken first, until nothing pays any more.

A candidate is a root and one or several targets; each target is lowered as cheaply as its state allows. It pays when
the nodes that really die (nobody else reads them) take longer than the new ones, and it never does more
multiply-accumulates than they did. A cone is never pruned on the way: a step that looks bad alone may pay at the end.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

import numpy as np

from attn_export.reparam import ir
from attn_export.reparam.algebra.layout import Layout
from attn_export.reparam.algebra.linconv import NotFusibleError
from attn_export.reparam.algebra.toeplitz import MAP, MATRIX
from attn_export.reparam.planning import cost
from attn_export.reparam.planning.cones import Cone, cone, followers, reaches, root_layouts
from attn_export.reparam.planning.emit import lower
from attn_export.reparam.planning.lowering import Lowering
from attn_export.reparam.planning.profitability import is_profitable

Keep = Callable[[str], bool]

#: The largest numbers of the types that graphs store constants in.
LARGEST = {"float16": 65504.0, "bfloat16": 3.3895e38, "float32": 3.4028e38}


@dataclass(frozen=True, eq=False)
class Candidate:
    """A root, its targets with their lowerings, the nodes that would die, and the seconds won."""

    root: str
    root_layout: Layout
    lowerings: dict[str, Lowering]
    region: list[ir.Node]
    dead: list[ir.Node]
    gain: float
    notes: frozenset[str]


@dataclass(frozen=True, eq=False)
class Merge:
    """What was done: in terms of the graph as it was at first."""

    root: str
    root_layout: Layout
    targets: tuple[str, ...]
    origins: tuple[ir.Node, ...]
    added: tuple[ir.Node, ...]
    notes: frozenset[str]


@dataclass
class FusionPlan:
    """The graph after all merges, and the merges."""

    graph: ir.Graph
    merges: list[Merge]
    rounds: int = 0


@dataclass
class Planner:
    """Prices candidates under one profile; ``banned`` pairs of root and target are never tried.

    ``any_work`` lets a candidate do more multiply-accumulates than what it replaces: for tests of the algebra.
    ``border_maps`` lets it add a border map: a constant for each channel and position, which holds for one size.
    """

    profile: cost.CostProfile
    keep: Sequence[str] = ()
    any_work: bool = False
    border_maps: bool = False
    banned: set[tuple[str, str]] = field(default_factory=set)
    withheld: dict[str, None] = field(default_factory=dict)
    fresh: Iterator[int] = field(default_factory=itertools.count)

    def run(self, graph: ir.Graph, most_rounds: int = 12) -> FusionPlan:
        """Collapse until nothing pays."""
        plan = FusionPlan(graph, [])
        new_values: set[str] = set()
        todo: set[str] | None = None
        for _ in range(most_rounds):
            chosen = self._choose(self.candidates(plan.graph, new_values, todo))
            if not chosen:
                break
            plan.rounds += 1
            todo = set()
            self._apply(plan, chosen, new_values)
            rewritten = {node.name for merge in plan.merges for node in merge.added}
            todo = _near(plan.graph, rewritten, chosen)
        return plan

    def candidates(self, graph: ir.Graph, new: set[str], todo: set[str] | None) -> list[Candidate]:
        """Every candidate that is exact and pays."""
        position = {id(node): n for n, node in enumerate(graph.nodes)}
        most, after, skipped = reaches(graph), followers(graph), set[str]()
        found: list[Candidate] = []
        for root in _roots(graph):
            if root in new or root in skipped or (todo is not None and root not in todo):
                continue
            longest, place = 0, root
            for root_layout in root_layouts(graph, root):
                reach = cone(graph, position, root, root_layout, most[root], border_maps=self.border_maps)
                found += self._of_cone(graph, reach, new)
                longest = max(longest, len(reach.nodes))
            for _ in range(longest // 2 - 1 if root in after else 0):  # what begins there overlaps with what began here
                place = after.get(place, place)
                skipped.add(place)
        return found

    def _of_cone(self, graph: ir.Graph, found: Cone, new: set[str]) -> Iterator[Candidate]:
        if len(found.nodes) < 2:
            return
        inside = {node.output for node in found.nodes}
        sets: dict[tuple[str, ...], None] = {(node.output,): None for node in found.nodes}
        exits = tuple(
            node.output
            for node in found.nodes
            if (
                node.output in graph.outputs
                or any(reader.output not in inside for reader in graph.consumers.get(node.output, []))
            )
            and not all(isinstance(n.op, ir.VIEWS) for n in found.region((node.output,), graph.producer))
        )
        if len(exits) > 1:
            sets[exits] = None
        for node in found.nodes:  # a shared prefix: push the first node into all its readers
            readers = graph.consumers.get(node.output, [])
            if set(node.inputs) == {found.root} and len(readers) > 1 and all(r.output in inside for r in readers):
                sets[tuple(r.output for r in readers)] = None
        for targets in sets:
            if not new.isdisjoint(targets):
                continue
            candidate = self._price(graph, found, targets)
            if candidate is not None:
                yield candidate

    def _price(self, graph: ir.Graph, found: Cone, targets: tuple[str, ...]) -> Candidate | None:
        region = found.region(targets, graph.producer)
        dead = dying(graph, region, targets)
        if len(dead) < 2 or all(isinstance(node.op, ir.VIEWS) for node in dead):
            return None
        if any((found.root, target) in self.banned for target in targets) or self.asked_to_keep(region):
            return None
        before = [w for w in (cost.node_work(graph, node) for node in dead) if w is not None]
        if len(before) < len(dead):
            return None
        lowered = self._lower(graph, found, targets, before)
        if lowered is None:
            return None
        lowerings, seconds = lowered
        after = [step.work for lowering in lowerings.values() for step in lowering.steps]
        if not self.any_work and not is_profitable(graph, dead, before, after, self.profile):
            return None
        notes = frozenset().union(*(found.states[target].lin.notes for target in targets)) - {MAP, MATRIX}
        return Candidate(found.root, found.root_layout, lowerings, region, dead, seconds, notes)

    def _lower(
        self, graph: ir.Graph, found: Cone, targets: tuple[str, ...], before: Sequence[cost.Work]
    ) -> tuple[dict[str, Lowering], float] | None:
        """Lower every target; gives the seconds won too, or None as soon as nothing is won any more."""
        seconds = sum(w.seconds(self.profile) for w in before)
        macs = sum(w.macs for w in before)
        root, lowerings = graph.values[found.root], dict[str, Lowering]()
        for target in targets:
            try:
                lowering = lower(root, found.root_layout, found.states[target], graph.values[target], self.profile)
            except NotFusibleError:
                return None
            lowerings[target] = lowering
            macs -= lowering.macs
            seconds -= lowering.seconds(self.profile)
            if (macs < 0 and not self.any_work) or seconds <= 0:
                return None
        return lowerings, seconds

    def asked_to_keep(self, region: list[ir.Node]) -> bool:
        """Whether the region has branches (or a chain of kernels) that a pattern asks to keep."""
        kernels = sum(isinstance(n.op, ir.Conv | ir.Linear | ir.AvgPool | ir.ConvTranspose) for n in region)
        if not self.keep or (kernels <= 1 and not any(isinstance(n.op, ir.Sum | ir.Concat) for n in region)):
            return False
        if not any(fnmatchcase(name, pattern) for name in _names(region) for pattern in self.keep):
            return False
        self.withheld.setdefault(common_scope(region))
        return True

    def _choose(self, candidates: list[Candidate]) -> list[Candidate]:
        """Take the best first, skipping what touches what was taken; of equals, what leaves most in its place."""
        taken: list[Candidate] = []
        touched, gone, roots = set[int](), set[str](), set[str]()
        for candidate in sorted(candidates, key=_order):
            region = {id(node) for node in candidate.region}
            dies = {node.output for node in candidate.dead} - set(candidate.lowerings)
            if region & touched or candidate.root in gone or dies & roots:
                continue
            taken.append(candidate)
            touched |= region
            gone |= dies
            roots.add(candidate.root)
        return taken

    def _apply(self, plan: FusionPlan, chosen: Sequence[Candidate], new_values: set[str]) -> None:
        """Rewrite the graph once for all candidates of a round, which do not touch each other."""
        values = dict(plan.graph.values)
        owner = {id(node): merge for merge in plan.merges for node in merge.added}
        built: list[tuple[Candidate, dict[str, list[ir.Node]]]] = []
        for candidate in chosen:
            placed = self._nodes(candidate, values, new_values)
            if _fits(placed, values):
                built.append((candidate, placed))
            else:  # a long product of large kernels
                self.banned |= {(candidate.root, target) for target in candidate.lowerings}
        gone = [node for candidate, _ in built for node in candidate.dead]
        dead = {id(node) for node in gone}
        plan.merges = [left for merge in plan.merges if (left := _without(merge, dead)).targets]
        everything: dict[str, list[ir.Node]] = {}
        for candidate, placed in built:
            everything |= placed
            plan.merges.append(_merge(candidate, placed, owner))
        plan.graph = plan.graph.replaced(gone, everything, values)

    def _nodes(
        self, candidate: Candidate, values: dict[str, ir.Value], new_values: set[str]
    ) -> dict[str, list[ir.Node]]:
        """Build the nodes of a candidate for each of its targets; registers the values between them."""
        scope = common_scope(candidate.dead)
        placed: dict[str, list[ir.Node]] = {}
        for target, lowering in candidate.lowerings.items():
            here, nodes = candidate.root, list[ir.Node]()
            for number, step in enumerate(lowering.steps):
                last = number == len(lowering.steps) - 1
                name = target if last else f"{target}:fused{next(self.fresh)}"
                if not last:
                    new_values.add(name)
                    values[name] = ir.Value(name, step.shape, step.sizes, values[target].dtype)
                nodes.append(ir.Node(f"fused:{name}", step.build(), (here,), name, scope))
                here = name
            placed[target] = nodes
        return placed


def _merge(candidate: Candidate, placed: dict[str, list[ir.Node]], owner: dict[int, Merge]) -> Merge:
    """Describe what was done, with the origins of earlier merges (``owner`` of their nodes) that it took over."""
    inherited = {id(m): m for m in (owner.get(id(node)) for node in candidate.dead) if m is not None}.values()
    origins = {id(node): node for merge in inherited for node in merge.origins}
    origins |= {id(node): node for node in candidate.dead if id(node) not in owner}
    return Merge(
        candidate.root,
        candidate.root_layout,
        targets=tuple(candidate.lowerings),
        origins=tuple(origins.values()),
        added=tuple(node for nodes in placed.values() for node in nodes),
        notes=candidate.notes.union(*(m.notes for m in inherited)),
    )


def _fits(placed: dict[str, list[ir.Node]], values: dict[str, ir.Value]) -> bool:
    """Whether the graph can store every constant of the new nodes; what float16 cannot is said by the proof."""
    for target, nodes in placed.items():
        kind = values[target].dtype
        largest = sys.float_info.max if kind == "float16" else LARGEST.get(kind, sys.float_info.max)
        arrays = [a for node in nodes for a in vars(node.op).values() if isinstance(a, np.ndarray) and a.dtype == float]
        if not all(float(np.abs(array).max(initial=0)) <= largest for array in arrays):
            return False
    return True


def _without(merge: Merge, dead: set[int]) -> Merge:
    """Reduce an earlier merge of which a later one took some nodes: the later one answers for their values."""
    added = tuple(node for node in merge.added if id(node) not in dead)
    made = {node.output for node in added}
    return replace(merge, added=added, targets=tuple(target for target in merge.targets if target in made))


def _roots(graph: ir.Graph) -> list[str]:
    """Values from which something linear starts, in execution order."""
    return list(dict.fromkeys(n for node in graph.nodes if not isinstance(node.op, ir.Opaque) for n in node.inputs))


def _near(graph: ir.Graph, rewritten: set[str], chosen: list[Candidate]) -> set[str]:
    """Values whose cones may have changed: everything linear upstream of what was rewritten."""
    todo = [node.output for node in graph.nodes if node.name in rewritten]
    todo += [candidate.root for candidate in chosen]
    seen: set[str] = set()
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        producer = graph.producer.get(name)
        if producer is not None and not isinstance(producer.op, ir.Opaque):
            todo += producer.inputs
    return seen


def _names(region: list[ir.Node]) -> list[str]:
    """List the scopes that a region touches, with everything above them."""
    names: dict[str, None] = {}
    for node in region:
        parts = node.scope.split(".")
        for n in range(1, len(parts) + 1):
            names[".".join(parts[:n])] = None
    return list(names)


def common_scope(nodes: Sequence[ir.Node]) -> str:
    """Return the module path that all nodes share; the last one's own where they share none."""
    scopes = [node.scope for node in nodes if node.scope]
    shared: list[str] = []
    for parts in zip(*(scope.split(".") for scope in scopes), strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return ".".join(shared) or (scopes[-1] if scopes else "")


def dying(graph: ir.Graph, region: list[ir.Node], targets: tuple[str, ...]) -> list[ir.Node]:
    """Return the nodes of a region that nobody reads once the targets are made otherwise."""
    gone: set[int] = set()
    dead: list[ir.Node] = []
    for node in reversed(region):
        readers = graph.consumers.get(node.output, [])
        if node.output in targets or (
            readers and node.output not in graph.outputs and all(id(reader) in gone for reader in readers)
        ):
            gone.add(id(node))
            dead.append(node)
    return dead[::-1]


def _order(candidate: Candidate) -> tuple[float, int, int]:
    """By gain, to nine digits; then by nodes written anew: part of a split that others read is not gone when taken.

    Then by nodes that it passes over and that stay, as others read them: what leads to those may itself be collapsed.
    """
    steps = sum(len(lowering.steps) for lowering in candidate.lowerings.values())
    return -float(f"{candidate.gain:.9g}"), steps, len(candidate.region) - len(candidate.dead)
