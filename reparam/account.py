"""The account of a plan: sites that were collapsed, and linear neighbours that were not, with the reason."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from attn_export.reparam import ir
from attn_export.reparam.algebra.layout import Layout
from attn_export.reparam.algebra.linconv import BORDER, NotFusibleError
from attn_export.reparam.planning import cost
from attn_export.reparam.planning.cones import Cone, cone, root_layouts
from attn_export.reparam.planning.emit import lower
from attn_export.reparam.planning.plan import FusionPlan, Merge, Planner, common_scope, dying
from attn_export.reparam.proof import certify
from attn_export.reparam.proof.quantization_error import precision
from attn_export.reparam.result import Refusal, Site

_NOTES = {
    "static": "holds for the exported size only",
    "value": "holds because of the values of biases: it may stop holding when weights change",
    BORDER: "a border map is added behind: a constant for each position",
    "rounding": "a constant equals a bias up to rounding only",
}
#: Readers of one value that are named.
_OTHERS = 64
_KERNELS = (ir.Conv, ir.Linear, ir.AvgPool, ir.ConvTranspose, ir.Affine)


def kind(node: ir.Node) -> str:
    """The operator's name for people."""
    return node.op.kind if isinstance(node.op, ir.Opaque) else type(node.op).__name__


def site_name(nodes: Iterable[ir.Node], fallback: str) -> str:
    """The module path that all nodes share; the last node's own where they share none."""
    return common_scope(list(nodes)) or fallback


def pattern(origins: Sequence[ir.Node], notes: Iterable[str]) -> str:
    """What was collapsed, in words: the operators counted, and what it relied on."""
    names = [kind(node) for node in origins if not isinstance(node.op, ir.VIEWS)]
    counted = " + ".join(f"{names.count(n)}×{n}" if names.count(n) > 1 else n for n in dict.fromkeys(names))
    remarks = [_NOTES[note] for note in sorted(notes)]
    return counted + (f" ({'; '.join(remarks)})" if remarks else "")


def site(original: ir.Graph, final: ir.Graph, merge: Merge, proof: certify.Proof, *, quantization_error: bool) -> Site:
    """Describe one merge."""
    before = [cost.node_work(original, node) for node in merge.origins]
    after = [cost.node_work(final, node) for node in merge.added]
    return Site(
        name=site_name(merge.origins, merge.targets[-1]),
        pattern=pattern(merge.origins, merge.notes),
        before=tuple(map(kind, merge.origins)),
        after=tuple(map(kind, merge.added)),
        macs_before=sum(w.macs for w in before if w is not None),
        macs_after=sum(w.macs for w in after if w is not None),
        parameters_before=sum(cost.parameters(node.op) for node in merge.origins),
        parameters_after=sum(cost.parameters(node.op) for node in merge.added),
        notes=tuple(sorted(merge.notes)),
        structure=proof.structure,
        error=proof.error,
        precision=precision(original, merge) if quantization_error else None,
    )


def refusals(plan: FusionPlan, planner: Planner) -> list[Refusal]:
    """Explain every pair of linear neighbours that is still there."""
    graph, found = plan.graph, dict[str, Refusal]()
    for name in planner.withheld:
        found[f"{name}:kept"] = Refusal(name, "a pattern asks to keep its branches", "drop the pattern", "kept")
    position = {id(node): n for n, node in enumerate(graph.nodes)}
    looked: dict[str, list[SeenNode]] = {}
    for node in graph.nodes:
        if not isinstance(node.op, _KERNELS) or not node.inputs:
            continue
        readers = _arithmetic_readers(graph, node.output)
        root = node.inputs[0]
        if readers and root not in looked:  # neighbours mostly share their root: that of the last one is kept
            looked = {root: [_look(graph, position, root, home, planner) for home in root_layouts(graph, root)]}
        for reader in readers:
            reason = _explain(graph, looked[root], node, reader, planner)
            name = site_name([node, reader], reader.output)
            if reason is not None:
                found.setdefault(f"{name}:{kind(node)}→{kind(reader)}", Refusal(name, *reason))
    return list(found.values())


def _arithmetic_readers(graph: ir.Graph, name: str, depth: int = 6) -> list[ir.Node]:
    """The next operators with kernels that read a value, through views, sums and padding."""
    result: list[ir.Node] = []
    for reader in graph.consumers.get(name, []):
        if isinstance(reader.op, _KERNELS) or (isinstance(reader.op, ir.Sum | ir.Concat) and len(reader.inputs) > 1):
            result.append(reader)
        elif depth and not isinstance(reader.op, ir.Opaque | ir.Sum | ir.Concat):
            result += _arithmetic_readers(graph, reader.output, depth - 1)
    return result


@dataclass(frozen=True)
class SeenNode:
    """What a root reaches, and what stopped each value that it does not reach."""

    reach: Cone
    stopped: Mapping[str, NotFusibleError]


def _look(graph: ir.Graph, position: dict[int, int], root: str, home: Layout, planner: Planner) -> SeenNode:
    reach = cone(graph, position, root, home, most=24, repair=planner.repair)
    stopped: dict[str, NotFusibleError] = {}
    for name, error in reach.stopped.items():
        for below in (name, *_downstream(graph, name)):
            stopped.setdefault(below, error)
    return SeenNode(reach, stopped)


def _explain(
    graph: ir.Graph, looked: Sequence[SeenNode], node: ir.Node, reader: ir.Node, planner: Planner
) -> tuple[str, str, str] | None:
    root, target = node.inputs[0], reader.output
    best: tuple[str, str, str] | None = None
    for seen in looked:
        reach, home = seen.reach, seen.reach.home
        if target not in reach.states:
            error = seen.stopped.get(target)
            if error is not None and best is None:
                best = (f"{kind(node)} → {kind(reader)}: {error.reason}", error.remedy, "not exact")
            continue
        if isinstance(reader.op, ir.Sum | ir.Concat):
            return None
        region = reach.region([target], graph.producer)
        if planner.kept(region):
            return None
        if (root, target) in planner.banned:
            return None  # said where it was rolled back
        others = [n for n in graph.consumers.get(node.output, [])[:_OTHERS] if n is not reader]
        dead = dying(graph, region, (target,))
        try:
            new = lower(graph.values[root], home, reach.states[target], graph.values[target], planner.profile)
        except NotFusibleError as refused:
            best = (f"{kind(node)} → {kind(reader)}: {refused.reason}", refused.remedy, "not exact")
            continue
        if node not in dead and (others or node.output in graph.outputs):
            where = ", ".join(dict.fromkeys(kind(n) for n in others)) or "an output of the graph"
            return (
                f"{kind(node)} → {kind(reader)}: the first result is read elsewhere as well ({where}), "
                "so its work would be done twice",
                "let each reader have a branch of its own, or read the second result there as well",
                "shared",
            )
        works = [cost.node_work(graph, n) for n in dead]
        macs = sum(w.macs for w in works if w is not None)
        mapped = BORDER in reach.states[target].lin.notes
        if mapped and isinstance(reader.op, ir.Affine) and cost.map_size(reader.op.term):
            return None  # a kernel and its map: that is what a repair looks like
        return (
            f"{kind(node)} → {kind(reader)}: exact{' with a border map' * mapped}, but it does not pay "
            f"({macs:,} multiply-accumulates before, {new.macs:,} after)",
            "another cost profile may judge otherwise",
            "does not pay",
        )
    return best


def _downstream(graph: ir.Graph, name: str, most: int = 64) -> set[str]:
    seen, todo = set[str](), [name]
    while todo and len(seen) < most:
        for reader in graph.consumers.get(todo.pop(), []):
            if reader.output not in seen:
                seen.add(reader.output)
                todo.append(reader.output)
    return seen
