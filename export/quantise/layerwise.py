"""Round one layer after the other, each to make up for what those before it have lost.

for each layer in the order of the graph:  X from the float model, X̂ from the model as far as it is rounded
                                           codes and bias from both (``rounding``)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx

from attn_export.export.graph.index import GraphIndex
from attn_export.export.quantise.codes import rounded
from attn_export.export.quantise.layers import Layer, rows_of
from attn_export.export.quantise.patches import can_unfold, columns
from attn_export.export.quantise.rewrite import Plan, Weight, rounded_name, written
from attn_export.export.quantise.rounding import Moments, bias_of, rounded_codes
from attn_export.export.quantise.walk import Walk
from attn_export.types import Feeds

#: Inputs of one row of a weight, beyond which the products of all of them are not kept: 4,608 take 340 MB.
WIDEST = 4608


def corrected(
    model: onnx.ModelProto,
    found: tuple[Layer, ...],
    plan: Plan,
    calibration: Sequence[Feeds],
    said: Callable[[str], None],
    *,
    moved: bool,
) -> Plan:
    """Give the plan with codes and biases that make up for what is lost; a layer that is not known stays as it is.

    ``moved``: whether weights are moved before they are rounded, see ``rounding``.

    Layers that read the same tensor are done together.
    """
    graph = GraphIndex(model)
    done = dict(plan.weights)
    groups = _by_input([layer for layer in found if done.get(layer.key) is not None and _known(graph, layer)])
    walks = Walk(model, calibration), Walk(model, calibration)
    for count, (tensor, group) in enumerate(groups.items()):
        said(f"rounding weights, {count + 1} of {len(groups)}")
        before = {layer.key for layer in found[: found.index(group[0])]}
        so_far = replace(plan, weights={key: weight for key, weight in done.items() if key in before})
        moments = _moments(model, written(model, found, so_far), graph, tensor, group, plan, walks)
        for layer in group:
            if (weight := done[layer.key]) is not None:
                done[layer.key] = _rounded(graph, layer, weight, moments[layer.key], moved=moved)
    return replace(plan, weights=done)


def _known(graph: GraphIndex, layer: Layer) -> bool:
    node = graph.maker[layer.key]
    weight = tuple(graph.tensors[layer.weight].dims)
    return can_unfold(layer, len(weight)) and rows_of(layer, node, np.empty(weight, np.int8)).shape[1] <= WIDEST


def _by_input(todo: Sequence[Layer]) -> dict[str, list[Layer]]:
    groups: dict[str, list[Layer]] = {}
    for layer in todo:
        groups.setdefault(layer.reads, []).append(layer)
    return groups


def _moments(
    model: onnx.ModelProto,
    so_far: onnx.ModelProto,
    graph: GraphIndex,
    tensor: str,
    group: Sequence[Layer],
    plan: Plan,
    walks: tuple[Walk, Walk],
) -> Mapping[str, Moments]:
    found: dict[str, Moments] = {}
    inside = rounded_name(so_far, tensor)
    pairs = zip(walks[0].advance(model, tensor), walks[1].advance(so_far, inside), strict=True)
    for index, (wanted, came) in enumerate(pairs):
        less = came if inside != tensor else rounded(came, plan.activations[tensor])
        for layer in group:
            node, shape = graph.maker[layer.key], tuple(graph.tensors[layer.weight].dims)
            kernel = shape[2:] if layer.op == "Conv" else ()
            x, y = (columns(layer, node, kernel, values, _places(index)) for values in (less, wanted))
            found.setdefault(layer.key, Moments(x.shape[1], len(x))).add(x, y)
    return found


def _places(index: int) -> np.random.Generator:
    """Choose the same places of both runs of a case."""
    return np.random.default_rng(index)


def _rounded(graph: GraphIndex, layer: Layer, weight: Weight, moments: Moments, *, moved: bool) -> Weight:
    node = graph.maker[layer.key]
    rows = rows_of(layer, node, np.asarray(graph.array(layer.weight)))
    bias = np.asarray(graph.array(layer.bias)).reshape(-1) if layer.bias else np.zeros(1, np.float32)
    new = rounded_codes(rows, weight.scales, moments, moved=moved)
    biases = bias_of(rows, new, weight.scales, np.broadcast_to(bias, (len(rows),)), moments)
    return replace(weight, codes=new, bias=None if layer.op == "MatMul" else biases)
