"""A float32 model into int8.

    levels ─► ranges ─► roundings, layer by layer ─► layers back to float32 ─► kept only where it is faster

Every choice is made by measuring on data that nothing was learnt from.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx

from attn_export.errors import ExportError, GateError
from attn_export.export.graph.index import GraphIndex, attribute
from attn_export.export.quantise import codes, ranges
from attn_export.export.quantise.judge import Judge, Kept
from attn_export.export.quantise.layers import Layer, kept_in_float, layers, rows_of
from attn_export.export.quantise.layerwise import corrected
from attn_export.export.quantise.levels import channels, levelled
from attn_export.export.quantise.quantised import FLOAT, INT8, Clock, Point, Quantised, Ratio, Site, Wish
from attn_export.export.quantise.rewrite import Plan, Weight, written
from attn_export.export.quantise.solver import Solution, solve
from attn_export.export.quantise.watch import looked
from attn_export.types import Array, Feeds

#: The first set of operators in which a scale may belong to a channel.
OPSET = 13
#: Cases that weights are rounded on: more of them say little that is new.
ROUNDED_ON = 64
#: How far small channels are raised; see ``levels``.
ALPHAS = (0.5, 1.0)
#: Decibels that raising them must win, or the model stays as it was.
WORTH = 0.5
#: Rules of ranges that are tried to the end: what is best before weights are rounded may be second behind it.
FINALISTS = 2

#: Told what is being done.
Said = Callable[[str], None]


@dataclass(frozen=True)
class _Work:
    """What every step needs."""

    model: onnx.ModelProto
    found: tuple[Layer, ...]
    calibration: Sequence[Feeds]
    judge: Judge
    wish: Wish
    said: Said

    def kept(self, plan: Plan) -> Kept:
        return self.judge.kept(written(self.model, self.found, plan))


@dataclass(frozen=True)
class _Tried:
    """A plan for one form of the model, and what it keeps of held-out data.

    Attributes:
        rule: of its ranges.
        moved: whether weights were moved before they were rounded; None where each is rounded to the nearest.
    """

    work: _Work
    rule: str
    plan: Plan
    kept: Kept
    moved: bool | None = None

    @property
    def low(self) -> float:
        """By which plans are compared, in dB."""
        return self.kept.low


def quantise(
    model: onnx.ModelProto,
    calibration: Sequence[Feeds],
    held_out: Sequence[Feeds],
    wish: Wish,
    said: Said,
    clock: Clock | None = None,
) -> Quantised:
    """Give the model in int8, as exact as ``wish`` asks for.

    Args:
        model: float32, of opset 13 or later; it is not changed.
        calibration: inputs that ranges and roundings are learnt from; read more than once, never kept.
        held_out: others, on which what is chosen is measured.
        wish: what is to hold.
        said: told what is being done.
        clock: measures time; without one layers are chosen by what they multiply, and nothing is said of speed.

    Raises:
        ExportError: there is nothing to quantise, or the data does not run.
        GateError: no layer can stay in int8 if what is asked for is to hold.
    """
    graph = GraphIndex(model)
    if graph.opset < OPSET:
        raise ExportError(f"int8 needs opset {OPSET} or later, got {graph.opset}; give --opset {OPSET}")
    found = layers(graph)
    if not found:
        raise ExportError("int8: expected a layer with constant weights (Conv, Gemm, MatMul), got none")
    said("float32 model on data")
    judge = Judge(model, held_out)
    kept = kept_in_float(graph, found)
    taken = tuple(layer for layer in found if layer.key not in kept)
    if not taken:
        raise ExportError(f"int8: every layer stays in float: {next(iter(kept.values()))}")
    tried = _calibrated(_Work(model, taken, calibration, judge, wish, said))
    work, rule, plan = tried.work, tried.rule, tried.plan
    seconds = _costs(graph, taken, model, clock)
    if clock is not None:
        for name, group in _doubtful(graph, taken).items():
            said(f"time of {name}")
            less = _without(plan, {layer.key for layer in group})
            if less.weights and _is_no_slower(clock, work, less, plan):
                why = f"int8 is no faster here: {name}"
                kept |= {layer.key: why for layer in group if layer.key in plan.weights}
                plan = less
    keys = [layer.key for layer in taken if layer.key in plan.weights]
    solution = solve(
        keys,
        lambda lifted: work.kept(_without(plan, lifted)),
        wish.least_snr,
        seconds,
        said,
        {layer.key: layer.node for layer in taken},
    )
    if solution.lifted:
        plan = _without(plan, solution.lifted)
        kept |= {key: _why(share) for key, share in solution.lifted.items()}
    if not plan.weights:
        raise GateError(
            f"int8: with any layer in int8 the median image keeps less than {wish.least_snr:g} dB;"
            " ask for less (--snr), or leave out --int8; nothing was written"
        )
    if solution.lifted:
        plan, solution = _corrected_again(replace(tried, plan=plan), solution)
    result = written(work.model, taken, plan)
    ratio = clock.ratio(result, model) if clock is not None else None
    sites = tuple(
        Site(layer.node, layer.op, INT8 if layer.key in plan.weights else FLOAT, kept.get(layer.key, ""))
        for layer in found
    )
    method = rule if work.model is model else f"{rule}, channels levelled"
    return Quantised(result, sites, method, ratio, _front(solution, ratio, sites), _notes(ratio))


def _settled(rules: Sequence[_Tried]) -> _Tried:
    """Round the weights under each rule in each way, and choose: what a few cases teach need not hold for others.

    What several branches read is rounded for all of them, unless that costs the aim.
    """
    ways = [way for rule in rules for way in (rule, _corrected(rule, moved=False), _corrected(rule, moved=True))]
    best = max(ways, key=lambda way: way.low)
    work, least = best.work, best.work.wish.least_snr
    if least is None or best.kept.sure >= least or not _has_sums(work):
        return best
    exact = _corrected(replace(best, plan=replace(best.plan, sums=False)), moved=best.moved)
    return exact if exact.low > best.low + WORTH else best


def _corrected(tried: _Tried, *, moved: bool | None) -> _Tried:
    """Round the weights layer by layer; None leaves them as they are."""
    work, plan = tried.work, tried.plan
    if moved is not None:
        plan = corrected(work.model, work.found, plan, work.calibration[:ROUNDED_ON], work.said, moved=moved)
    return replace(tried, plan=plan, kept=work.kept(plan), moved=moved)


def _has_sums(work: _Work) -> bool:
    """Whether something that is no layer reads what is rounded for one, and would else read it in float."""
    graph = GraphIndex(work.model)
    given = {layer.gives for layer in work.found if layer.ends_rounded}
    reads = {layer.reads for layer in work.found} - given
    keys = {layer.key for layer in work.found}
    return any(node.output[0] not in keys for name in reads for node in graph.readers[name])


def _why(share: float) -> str:
    return f"alone it makes {share:.0%} of the error" if share >= 0.005 else "together with others it makes the error"


def _notes(ratio: Ratio | None) -> tuple[str, ...]:
    if ratio is None or ratio.high < 1:
        return ()
    return (
        f"int8 is not faster than float32 here: {ratio.value:.2f} [{ratio.low:.2f}, {ratio.high:.2f}] of its time;"
        " it is smaller, and may be faster on other processors",
    )


def _front(solution: Solution, ratio: Ratio | None, sites: Sequence[Site]) -> tuple[Point, ...]:
    chosen = Point(
        "chosen", solution.kept.median, ratio.value if ratio else None, sum(site.form == FLOAT for site in sites)
    )
    return (*solution.front, chosen)


def _without(plan: Plan, lifted: Collection[str]) -> Plan:
    return replace(plan, weights={key: weight for key, weight in plan.weights.items() if key not in lifted})


def _corrected_again(tried: _Tried, solution: Solution) -> tuple[Plan, Solution]:
    """Round the weights anew where layers before them went back to float; kept where that is no worse."""
    again = _corrected(tried, moved=tried.moved)
    if again.kept.low < solution.kept.low:
        return tried.plan, solution
    return again.plan, replace(solution, kept=again.kept)


def _doubtful(graph: GraphIndex, found: Sequence[Layer]) -> dict[str, list[Layer]]:
    """Group the layers that may be no faster in int8: each group is tried as a whole."""
    groups: dict[str, list[Layer]] = {}
    for layer in found:
        weight = tuple(graph.tensors[layer.weight].dims)
        if layer.op == "MatMul":
            groups.setdefault("products of matrices", []).append(layer)
        elif layer.op == "Gemm":
            groups.setdefault("dense layers", []).append(layer)
        elif layer.op == "Conv" and weight[1] == 1 and attribute(graph.maker[layer.key], "group", 1) > 1:
            groups.setdefault("depthwise convolutions", []).append(layer)
        elif layer.op == "Conv" and _is_pooled(graph, layer):
            groups.setdefault("convolutions of one pixel", []).append(layer)
        elif layer.op == "Conv" and weight[1] <= 4:
            groups.setdefault("convolutions of a few channels", []).append(layer)
    return groups


def _is_pooled(graph: GraphIndex, layer: Layer) -> bool:
    shape = graph.shape(layer.reads)
    return shape is not None and len(shape) > 2 and all(size == 1 for size in shape[2:])


def _is_no_slower(clock: Clock, work: _Work, less: Plan, plan: Plan) -> bool:
    """Whether a plan with fewer layers in int8 takes no more time."""
    ratio = clock.ratio(written(work.model, work.found, less), written(work.model, work.found, plan))
    return ratio is not None and ratio.high <= 1.01


def _costs(graph: GraphIndex, found: Sequence[Layer], model: onnx.ModelProto, clock: Clock | None) -> dict[str, float]:
    """Give what each layer costs in float: its measured time, or how much its weight multiplies."""
    if clock is not None:
        seconds = clock.costs(model)
        return {layer.key: seconds[layer.node] for layer in found if layer.node in seconds}
    return {layer.key: float(np.prod(graph.tensors[layer.weight].dims)) for layer in found}


def _calibrated(work: _Work) -> _Tried:
    """Choose levels of channels and a rule of ranges, and round the weights: what held-out data comes off best by.

    Levels that do not help with the weights still in float are not tried further. Those that do must help in the end:
    what they even out in a tensor they make uneven in the weights that read it.
    """
    plain = best = _ruled(work)
    graph = GraphIndex(work.model)
    possible = list(channels(work.found, graph)) if work.wish.levels else []
    if possible:
        work.said("levels of channels")
        largest = _largest(work, possible)
        for alpha in ALPHAS:
            other = levelled(work.model, work.found, largest, alpha)
            if other is not None:
                came = _ruled(replace(work, model=other))
                best = came if came[0].low > best[0].low + WORTH else best
    as_it_was = _settled(plain)
    if best is plain:
        return as_it_was
    level = _settled(best)
    return level if level.low > as_it_was.low + WORTH else as_it_was


def _largest(work: _Work, tensors: Sequence[str]) -> dict[str, Array]:
    """Find the largest magnitude of each channel of tensors ``n c …``."""
    found: dict[str, Array] = {}
    for values in looked(work.model, tensors, work.calibration):
        for name in tensors:
            array = np.abs(np.moveaxis(values[name], 1, 0)).reshape(values[name].shape[1], -1)
            now = array.max(1, initial=0.0).astype(np.float64)
            found[name] = np.maximum(found[name], now) if name in found else now
    return found


def _ruled(work: _Work) -> tuple[_Tried, ...]:
    """Choose the rules of ranges for one model: the best first, with weights rounded to the nearest."""
    tensors = list(dict.fromkeys(name for layer in work.found for name in (layer.reads, layer.gives)))
    work.said("ranges of activations")
    seen = ranges.histograms(lambda: looked(work.model, tensors, work.calibration), tensors)
    graph = GraphIndex(work.model)
    weights: dict[str, Weight | None] = {layer.key: _nearest(graph, layer, work.wish) for layer in work.found}
    tried: list[_Tried] = []
    for rule in ranges.RULES:
        work.said(f"ranges by {rule}")
        plan = Plan(weights, _codes(seen, rule, work.wish))
        if all(plan.activations != other.plan.activations for other in tried):
            tried.append(_Tried(work, rule, plan, work.kept(plan)))
    return tuple(sorted(tried, key=lambda one: -one.low)[:FINALISTS])


def _codes(seen: Mapping[str, ranges.Histogram], rule: str, wish: Wish) -> dict[str, codes.Code]:
    cover, unsigned = ranges.RULES[rule], wish.unsigned
    return {
        name: codes.code(*cover(histogram, unsigned=unsigned), unsigned=unsigned) for name, histogram in seen.items()
    }


def _nearest(graph: GraphIndex, layer: Layer, wish: Wish) -> Weight:
    rows = rows_of(layer, graph.maker[layer.key], np.asarray(graph.array(layer.weight)))
    scales = codes.weight_scales(rows, per_channel=wish.per_channel)
    return Weight(codes.weight_codes(rows, scales), scales, whole=not wish.per_channel)
