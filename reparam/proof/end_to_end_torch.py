"""The certificate of a whole module: fused and original in float64, on the same inputs, over every output."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, fx, nn

from attn_export.reparam.proof.certify import relative_error


def compare(module: nn.Module, fused: nn.Module, example: tuple[Any, ...]) -> float:
    """Return the largest relative error in float64 over all outputs; ``fused`` is in float64 already.

    Tracing wrote float32 wherever ``forward`` says ``dtype=x.dtype``, and where it says ``torch.float32`` as well. What
    the module means is one of the two, so the smaller error counts.
    """
    wide = in_float64(example)
    with torch.no_grad():
        expected = list(_tensors(copy.deepcopy(module).double()(*wide)))
        error = _largest(expected, fused(*wide))
        if isinstance(fused, fx.GraphModule) and (other := _widened(fused)) is not None:
            error = min(error, _largest(expected, other(*wide)), key=_size)
    return error


def _largest(expected: list[Tensor], outputs: object) -> float:
    errors = [relative_error(g, w) for g, w in zip(_tensors(outputs), expected, strict=True)]
    return max(errors, key=_size, default=0.0)


def _size(error: float) -> tuple[bool, float]:
    return error != error, error


def _widened(fused: fx.GraphModule) -> fx.GraphModule | None:
    """Give a copy that makes float64 wherever the graph says float32; None where it says so nowhere."""
    graph, found = fx.Graph(), False
    graph.output(graph.graph_copy(fused.graph, {}))

    def wide(value: Any) -> Any:
        return torch.float64 if value is torch.float32 else value

    for node in graph.nodes:
        args, kwargs = fx.node.map_aggregate((node.args, dict(node.kwargs)), wide)
        if (args, kwargs) != (node.args, dict(node.kwargs)):
            node.args, node.kwargs, found = args, kwargs, True
    return fx.GraphModule(fused, graph) if found else None


def in_float64(example: tuple[Any, ...]) -> tuple[Any, ...]:
    """Widen the floating-point tensors among the inputs."""
    return tuple(x.double() if isinstance(x, Tensor) and x.is_floating_point() else x for x in example)


def _tensors(outputs: object) -> Iterable[Tensor]:
    for leaf in torch.utils._pytree.tree_leaves(outputs):
        if isinstance(leaf, Tensor):
            yield leaf if leaf.is_floating_point() else leaf.double()
