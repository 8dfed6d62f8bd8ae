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
from attn_export.reparam.planning.lowering import Lowering
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
    """Name the operator for people."""
    return node.op.kind if isinstance(node.op, ir.Opaque) else type(node.op).__name__


def site_name(nodes: Iterable[ir.Node], fallback: str) -> str:
    """Return the module path that all nodes share; the fallback where there is none."""
    return common_scope(list(nodes)) or fallback


def pattern(origins: Sequence[ir.Node], notes: Iterable[str]) -> str:
    """Say what was collapsed: the operators counted, and what it relied on."""
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
            looked = {root: [_look(graph, position, root, way, planner) for way in root_layouts(graph, root)]}
        for reader in readers:
            reason = _explain(graph, looked[root], node, reader, planner)
            name = site_name([node, reader], reader.output)
            if reason is not None:
                found.setdefault(f"{name}:{kind(node)}→{kind(reader)}", Refusal(name, *reason))
    return list(found.values())


def _arithmetic_readers(graph: ir.Graph, name: str, depth: int = 6) -> list[ir.Node]:
    """Find the next operators with kernels that read a value, through views, sums and padding."""
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


def _look(graph: ir.Graph, position: dict[int, int], root: str, root_layout: Layout, planner: Planner) -> SeenNode:
    reach = cone(graph, position, root, root_layout, most=24, border_maps=planner.border_maps)
    stopped: dict[str, NotFusibleError] = {}
    for name, error in reach.stopped.items():
        for below in (name, *_downstream(graph, name)):
            stopped.setdefault(below, error)
    return SeenNode(reach, stopped)


Reason = tuple[str, str, str]


def _explain(
    graph: ir.Graph, looked: Sequence[SeenNode], node: ir.Node, reader: ir.Node, planner: Planner
) -> Reason | None:
    """Say why a node and a reader of its were not collapsed: reason, remedy, kind; None where it needs no words."""
    target, pair = reader.output, f"{kind(node)} → {kind(reader)}"
    best: Reason | None = None
    # A reading in which the node itself is no convolution (its channels last, where they are second) tells nothing.
    fitting = [seen for seen in looked if node.output in seen.reach.states]
    for seen in fitting or looked:
        if target not in seen.reach.states:
            error = seen.stopped.get(target)
            if error is not None and best is None:
                best = _not_exact(pair, error)
            continue
        if isinstance(reader.op, ir.Sum | ir.Concat) or _said_elsewhere(graph, seen.reach, node, target, planner):
            return None
        layout, state = seen.reach.root_layout, seen.reach.states[target]
        try:
            new = lower(graph.values[node.inputs[0]], layout, state, graph.values[target], planner.profile)
        except NotFusibleError as refused:
            best = _not_exact(pair, refused)
            continue
        dead = dying(graph, seen.reach.region([target], graph.producer), (target,))
        shared = None if node in dead else _shared(graph, node, reader, pair)
        return shared or _not_worth_it(graph, dead, reader, pair, new, has_map=BORDER in state.lin.notes)
    return best


def _not_exact(pair: str, error: NotFusibleError) -> Reason:
    return f"{pair}: {error.reason}", error.remedy, "not exact"


def _said_elsewhere(graph: ir.Graph, reach: Cone, node: ir.Node, target: str, planner: Planner) -> bool:
    """Whether a pattern asks to keep it, or it was rolled back."""
    return planner.asked_to_keep(reach.region([target], graph.producer)) or (node.inputs[0], target) in planner.banned


def _shared(graph: ir.Graph, node: ir.Node, reader: ir.Node, pair: str) -> Reason | None:
    others = [n for n in graph.consumers.get(node.output, [])[:_OTHERS] if n is not reader]
    if not others and node.output not in graph.outputs:
        return None
    where = ", ".join(dict.fromkeys(kind(n) for n in others)) or "an output of the graph"
    return (
        f"{pair}: the first result is read elsewhere as well ({where}), so its work would be done twice",
        "let each reader have a branch of its own, or read the second result there as well",
        "shared",
    )


def _not_worth_it(
    graph: ir.Graph, dead: Sequence[ir.Node], reader: ir.Node, pair: str, new: Lowering, *, has_map: bool
) -> Reason | None:
    if has_map and isinstance(reader.op, ir.Affine) and cost.map_size(reader.op.term):
        return None  # a kernel and its map: that is what an allowed border map looks like
    works = [cost.node_work(graph, n) for n in dead]
    macs = sum(w.macs for w in works if w is not None)
    return (
        f"{pair}: exact{' with a border map' * has_map}, but it does not pay "
        f"({macs:,} multiply-accumulates before, {new.macs:,} after)",
        "another cost profile may judge otherwise",
        "does not pay",
    )


def _downstream(graph: ir.Graph, name: str, most: int = 64) -> set[str]:
    seen, todo = set[str](), [name]
    while todo and len(seen) < most:
        for reader in graph.consumers.get(todo.pop(), []):
            if reader.output not in seen:
                seen.add(reader.output)
                todo.append(reader.output)
    return seen
