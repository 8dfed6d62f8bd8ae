"""A float32 model into int8: ranges, codes, weights rounded layer by layer, and layers that go back to float32."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx

from attn_export.errors import ExportError
from attn_export.export.graph.index import GraphIndex
from attn_export.export.quantise import codes, ranges
from attn_export.export.quantise.judge import Judge
from attn_export.export.quantise.layers import Layer, kept_in_float, layers, rows_of
from attn_export.export.quantise.layerwise import corrected
from attn_export.export.quantise.quantised import FLOAT, INT8, Point, Quantised, Site, Wish
from attn_export.export.quantise.rewrite import Plan, Weight, written
from attn_export.export.quantise.watch import looked
from attn_export.types import Feeds

#: The first set of operators in which a scale may belong to a channel.
OPSET = 13

#: Told what is being done.
Said = Callable[[str], None]


def quantise(
    model: onnx.ModelProto,
    calibration: Sequence[Feeds],
    held_out: Sequence[Feeds],
    wish: Wish,
    said: Said,
) -> Quantised:
    """Give the model in int8, as exact as ``wish`` asks for.

    Args:
        model: float32, of opset 13 or later; it is not changed.
        calibration: inputs that ranges and roundings are learnt from; read more than once, never kept.
        held_out: others, on which what is chosen is measured.
        wish: what is to hold.
        said: told what is being done.

    Raises:
        ExportError: there is nothing to quantise, or the data does not run.
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
    rule, plan = _calibrated(model, graph, taken, calibration, judge, wish, said)
    plan = corrected(model, found, plan, calibration, said)
    result = written(model, found, plan)
    point = Point("all in int8", judge.snr(result), None, 0)
    sites = tuple(
        Site(layer.node, layer.op, INT8 if layer.key in plan.weights else FLOAT, kept.get(layer.key, ""))
        for layer in found
    )
    return Quantised(result, sites, rule, (point,))


def _calibrated(
    model: onnx.ModelProto,
    graph: GraphIndex,
    found: tuple[Layer, ...],
    calibration: Sequence[Feeds],
    judge: Judge,
    wish: Wish,
    said: Said,
) -> tuple[str, Plan]:
    """Choose the rule of ranges that held-out data comes off best by, with the weights still in float."""
    tensors = list(dict.fromkeys(name for layer in found for name in (layer.reads, layer.gives)))
    said("ranges of activations")
    seen = ranges.histograms(lambda: looked(model, tensors, calibration), tensors)
    weights = {layer.key: _nearest(graph, layer, wish) for layer in found}
    best: tuple[float, str, Plan] | None = None
    for rule in ranges.RULES:
        said(f"ranges by {rule}")
        activations = _codes(seen, rule, wish)
        snr = judge.snr(written(model, found, Plan(dict.fromkeys(weights), activations)))
        if best is None or snr > best[0]:
            best = snr, rule, Plan(weights, activations)
    assert best is not None
    return best[1:]


def _codes(seen: Mapping[str, ranges.Histogram], rule: str, wish: Wish) -> dict[str, codes.Code]:
    cover, unsigned = ranges.RULES[rule], wish.unsigned
    return {
        name: codes.code(*cover(histogram, unsigned=unsigned), unsigned=unsigned) for name, histogram in seen.items()
    }


def _nearest(graph: GraphIndex, layer: Layer, wish: Wish) -> Weight:
    rows = rows_of(layer, graph.maker[layer.key], np.asarray(graph.array(layer.weight)))
    scales = codes.weight_scales(rows, per_channel=wish.per_channel)
    return Weight(codes.weight_codes(rows, scales), scales)
