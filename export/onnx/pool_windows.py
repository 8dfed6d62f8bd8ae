"""Write poolings that round up so that every runtime gives as many windows as PyTorch does.

With ``ceil_mode`` PyTorch leaves out a last window that begins beyond the input and its padding; ONNX counts it in some
versions, in some not. Where sizes are fixed, the same windows come without rounding, with less padding behind:

    O = windows of PyTorch    w = d·(k − 1) + 1    p' = (O − 1)·s + w − (H + p)    floor((H + p + p' − w) / s) + 1 = O
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx

from attn_export.export.graph.index import attribute, set_attribute

KINDS = ("AveragePool", "MaxPool")


@dataclass(frozen=True)
class _Axis:
    """One axis: its size, and the window's length with its dilation, step and padding before and behind."""

    size: int
    window: int
    step: int
    before: int
    behind: int

    @property
    def rounded(self) -> int:
        """Count of windows when rounding up."""
        return -(-(self.size + self.before + self.behind - self.window) // self.step) + 1

    @property
    def kept(self) -> int:
        """Count of windows that PyTorch keeps of these."""
        return self.rounded - ((self.rounded - 1) * self.step >= self.size + self.before)

    @property
    def padding(self) -> int:
        """How much padding behind gives these without rounding."""
        return max(0, (self.kept - 1) * self.step + self.window - self.size - self.before)


def settle_windows(model: onnx.ModelProto) -> int:
    """Rewrite in place each pooling with a window that PyTorch leaves out; return how many there were."""
    shapes = {value.name: _sizes(value) for value in (*model.graph.input, *model.graph.value_info)}
    count = 0
    for node in model.graph.node:
        if node.op_type in KINDS and attribute(node, "ceil_mode", 0):
            axes = _axes(node, shapes.get(node.input[0], ()))
            if any(axis.kept < axis.rounded for axis in axes) and all(axis.padding <= axis.behind for axis in axes):
                _write(node, axes)
                count += 1
    return count


def _sizes(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    """Give the sizes of a tensor; nothing where one is open."""
    dims = value.type.tensor_type.shape.dim
    return tuple(dim.dim_value for dim in dims[2:]) if all(dim.dim_value for dim in dims[2:]) else ()


def _axes(node: onnx.NodeProto, sizes: Sequence[int]) -> list[_Axis]:
    kernel = attribute(node, "kernel_shape", [])
    if len(sizes) != len(kernel):
        return []
    ones, zeros = [1] * len(kernel), [0] * 2 * len(kernel)
    steps, pads = attribute(node, "strides", ones), attribute(node, "pads", zeros)
    dilations = attribute(node, "dilations", ones)
    half = len(kernel)
    return [
        _Axis(size, dilations[i] * (kernel[i] - 1) + 1, steps[i], pads[i], pads[half + i])
        for i, size in enumerate(sizes)
    ]


def _write(node: onnx.NodeProto, axes: Sequence[_Axis]) -> None:
    set_attribute(node, "pads", [axis.before for axis in axes] + [axis.padding for axis in axes])
    set_attribute(node, "ceil_mode", 0)
