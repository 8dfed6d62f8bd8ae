"""Whether a merge that is exact pays: what dies against what takes its place, where estimates are not to be trusted.

A merge must win by more than the estimate's own error, unless something only falls away.
"""

from __future__ import annotations

from collections.abc import Sequence

from attn_export.reparam import ir
from attn_export.reparam.planning import cost

#: Estimates are off by a factor of 1.18 at the median (``cost.py``): what is not plainly less must win by more.
DOUBT = 0.85


def is_profitable(
    graph: ir.Graph,
    dead: Sequence[ir.Node],
    before: Sequence[cost.Work],
    after: Sequence[cost.Work],
    profile: cost.CostProfile,
) -> bool:
    """Whether the nodes ``dead``, which do ``before``, are worth replacing by what does ``after``."""
    if _taken_apart(before, after) or _same_again(graph, dead):
        return False
    was, now = (sum(work.seconds(profile) for work in works) for works in (before, after))
    taken = sum(work.seconds(profile) for node, work in zip(dead, before, strict=True) if _is_bias(graph, node))
    return now <= DOUBT * (was - taken) or plainly_less(before, after)


def plainly_less(before: Sequence[cost.Work], after: Sequence[cost.Work]) -> bool:
    """Whether something only falls away: fewer nodes, of no kind more kernels or more work than were there.

    Such a gain is sure however small the estimate holds it for. Measured otherwise: two kernels in place of one, a
    product turned into a convolution, a transposition on the other side; each was slower where they were to win 3 %.
    """
    was, now = _kernels(before), _kernels(after)
    fewer = all(kind in was and was[kind][0] >= count and was[kind][1] >= macs for kind, (count, macs) in now.items())
    return fewer and _nodes(after) < _nodes(before)


def _taken_apart(before: Sequence[cost.Work], after: Sequence[cost.Work]) -> bool:
    """Whether there are more kernels and no clearly less work: a split is one cheap pass, which a kernel is not."""
    was, now = _kernels(before).values(), _kernels(after).values()
    more = sum(count for count, _ in now) > sum(count for count, _ in was)
    return more and sum(macs for _, macs in now) > DOUBT * sum(macs for _, macs in was)


def _same_again(graph: ir.Graph, dead: Sequence[ir.Node]) -> bool:
    """Whether only a bias goes to its product, which on more than two axes is written as product and sum, as it was."""
    product, *rest = dead
    known = graph.values[product.output].sizes
    return (
        isinstance(product.op, ir.Linear)
        and product.op.bias is None
        and known is not None
        and len(known) > 2
        and all(_is_bias(graph, node) for node in rest)
    )


def _is_bias(graph: ir.Graph, node: ir.Node) -> bool:
    """Whether a node only adds constants to a product: every runtime takes that in, so to be rid of it wins nothing."""
    maker = graph.producer.get(node.inputs[0])
    alone = isinstance(node.op, ir.Affine) and node.op.factor is None
    return alone and maker is not None and isinstance(maker.op, ir.Linear)


def _kernels(works: Sequence[cost.Work]) -> dict[tuple[str, bool], tuple[int, int]]:
    """Count the kernels of each kind, and their multiply-accumulates."""
    found: dict[tuple[str, bool], tuple[int, int]] = {}
    for work in works:
        if work.kind:
            count, macs = found.get((work.kind, work.depthwise), (0, 0))
            found[work.kind, work.depthwise] = count + 1, macs + work.macs
    return found


def _nodes(works: Sequence[cost.Work]) -> int:
    return sum(w.passes for w in works if not w.free)
