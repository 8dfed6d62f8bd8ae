"""What is no convolution of its root and can still take a scaling: a transposed convolution before a norm.

    a · (W ᵀ x + b) + t  =  (a·W)ᵀ x + (a·b + t)

Its kernel is scaled along the output channels; this holds at every position, whatever is cropped or added at the end.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from attn_export.reparam import ir
from attn_export.reparam.layout import Layout, channels_first
from attn_export.reparam.linconv import NotFusibleError
from attn_export.reparam.transfer import by_channel


def folded(convolution: ir.ConvTranspose, affine: ir.Affine, place: Layout) -> ir.ConvTranspose:
    """Scale and shift the output of a transposed convolution.

    Raises:
        NotFusibleError: the constants differ between positions.
    """
    inputs, width, *_ = convolution.weight.shape
    outputs = width * convolution.groups
    ones = np.ones(outputs)
    factor = ones if affine.factor is None else by_channel(affine.factor, place, affine.axis)
    term = 0 * ones if affine.term is None else by_channel(affine.term, place, affine.axis)
    rows = np.repeat(factor.reshape(convolution.groups, width), inputs // convolution.groups, axis=0)
    weight = convolution.weight * rows.reshape(inputs, width, *(1,) * (convolution.weight.ndim - 2))
    bias = convolution.bias if convolution.bias is not None else 0 * ones
    return replace(convolution, weight=weight, bias=factor * bias + term)


def pairs(graph: ir.Graph) -> list[tuple[ir.Node, ir.Node, ir.ConvTranspose, Layout]]:
    """Every transposed convolution whose only reader is a scaling it can take: both nodes, and what becomes of them."""
    found = []
    for node in graph.nodes:
        producer = graph.producer.get(node.inputs[0]) if node.inputs else None
        if producer is None or not isinstance(node.op, ir.Affine) or not isinstance(producer.op, ir.ConvTranspose):
            continue
        shape, root = graph.values[producer.output].shape, graph.values[producer.inputs[0]].shape
        if producer.output in graph.outputs or len(graph.consumers[producer.output]) > 1 or not shape or not root:
            continue
        place, home = channels_first(shape), channels_first(root)
        if place is None or home is None:
            continue
        try:
            found.append((producer, node, folded(producer.op, node.op, place), home))
        except NotFusibleError:
            continue
    return found
