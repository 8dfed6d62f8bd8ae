"""The certificate of a whole module: fused and original in float64, on the same inputs, over every output."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from attn_export.reparam.proof.certify import relative_error


@dataclass(frozen=True)
class Call:
    """What a module is called with: by position, and by name."""

    args: tuple[Any, ...]
    keywords: Mapping[str, Any] = field(default_factory=dict)

    def of(self, module: nn.Module) -> Any:
        """Run a module on it, without gradients."""
        with torch.no_grad():
            return module(*self.args, **self.keywords)

    def in_float64(self) -> Call:
        """Widen the floating-point tensors, those inside lists and dicts too."""
        args, keywords = torch.utils._pytree.tree_map(_wide, (self.args, dict(self.keywords)))
        return Call(args, keywords)


def _wide(leaf: Any) -> Any:
    return leaf.double() if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf


def compare(module: nn.Module, fused: nn.Module, example: Call) -> float:
    """Return the largest relative error in float64 over all outputs; ``fused`` is in float64 already.

    Tracing wrote float32 wherever ``forward`` says ``dtype=x.dtype``, and where it says ``torch.float32`` as well. What
    the module means is one of the two, so the smaller error counts.
    """
    wide = example.in_float64()
    expected = list(_tensors(wide.of(copy.deepcopy(module).double())))
    error = _largest(expected, wide.of(fused))
    if isinstance(fused, fx.GraphModule) and (other := _widened(fused)) is not None:
        error = min(error, _largest(expected, wide.of(other)), key=_size)
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


def _tensors(outputs: object) -> Iterable[Tensor]:
    for leaf in torch.utils._pytree.tree_leaves(outputs):
        if isinstance(leaf, Tensor):
            yield leaf if leaf.is_floating_point() else leaf.double()
