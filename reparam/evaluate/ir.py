"""Run nodes of the small graph in float64 with PyTorch: the meaning of each operator, independent of the algebra."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from attn_export.reparam import ir
from attn_export.reparam.evaluate.tensors import tensor_of
from attn_export.types import Array

_CONV: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED: dict[int, Callable[..., Tensor]] = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def run(nodes: Iterable[ir.Node], feeds: Mapping[str, Tensor], wanted: Iterable[str]) -> dict[str, Tensor]:
    """Execute nodes in order and return the wanted values."""
    values = dict(feeds)
    with torch.no_grad():
        for node in nodes:
            values[node.output] = apply(node.op, [values[name] for name in node.inputs])
    return {name: values[name] for name in wanted}


def apply(op: ir.Op, args: list[Tensor]) -> Tensor:
    """Execute one operator."""
    if isinstance(op, ir.Sum):
        return _sum(op, args)
    if isinstance(op, ir.Concat):
        return torch.cat(args, op.axis)
    meaning = _MEANINGS.get(type(op))
    if meaning is None:
        raise AssertionError(f"no meaning for {op}")
    return meaning(op, args[0])


def reshape(x: Tensor, shape: Iterable[int]) -> Tensor:
    """Reshape; apart because the sizes come from the graph, not from the operator."""
    return x.reshape(tuple(shape))


def _tensor(array: Array | None) -> Tensor | None:
    return None if array is None else tensor_of(array)


def _broadcast(array: Array, x: Tensor, axis: int | None) -> Tensor:
    tensor = tensor_of(array)
    return tensor if axis is None else tensor.reshape(-1, *(1,) * (x.ndim - axis - 1))


def _pad(x: Tensor, pads: Iterable[tuple[int, int]], value: float) -> Tensor:
    flat = [amount for pair in reversed(list(pads)) for amount in pair]
    return F.pad(x, flat, value=value) if any(flat) else x


def _sum(op: ir.Sum, args: list[Tensor]) -> Tensor:
    total = op.factors[0] * args[0]
    for factor, other in zip(op.factors[1:], args[1:], strict=True):
        total = total + factor * other
    return total


def _conv(op: ir.Conv, x: Tensor) -> Tensor:
    x = _pad(x, ((0, 0), (0, 0), *op.pads), 0.0)
    weight, bias = _tensor(op.weight), _tensor(op.bias)
    return _CONV[x.ndim - 2](x, weight, bias, op.strides, 0, op.dilations, op.groups)


def _linear(op: ir.Linear, x: Tensor) -> Tensor:
    y = x @ tensor_of(op.weight)
    return y if op.bias is None else y + tensor_of(op.bias)


def _affine(op: ir.Affine, x: Tensor) -> Tensor:
    if op.factor is not None:
        x = x * _broadcast(op.factor, x, op.axis)
    return x if op.term is None else x + _broadcast(op.term, x, op.axis)


def _slice(op: ir.Slice, x: Tensor) -> Tensor:
    index = [slice(None)] * x.ndim
    index[op.axis] = slice(op.start, op.stop, op.step)
    return x[tuple(index)]


def _upsample(op: ir.Upsample, x: Tensor) -> Tensor:
    for axis, factor in enumerate(op.factors):
        x = x.repeat_interleave(factor, axis + 2)
    return x


def _border(op: ir.Border, x: Tensor) -> Tensor:
    x = _pad(x, ((0, 0), (0, 0), *op.pads), 0.0)
    inner = torch.zeros(x.shape[2:], dtype=torch.bool)
    cut = tuple(slice(left, size - right) for (left, right), size in zip(op.ring, x.shape[2:], strict=True))
    inner[cut] = True
    value = tensor_of(op.value).reshape(1, -1, *(1,) * (x.ndim - 2))
    return torch.where(inner, x, value.expand_as(x))


def _pool(op: ir.AvgPool, x: Tensor) -> Tensor:
    lead = ((0, 0), (0, 0))
    weight = torch.ones(x.shape[1], 1, *op.kernel, dtype=torch.float64)
    pads = list(op.pads)
    if op.ceil:  # a last window may hang over the right border, but must start inside
        for n, (kernel, step) in enumerate(zip(op.kernel, op.strides, strict=True)):
            total = x.shape[n + 2] + sum(pads[n])
            windows = -(-(total - kernel) // step) + 1
            if (windows - 1) * step >= x.shape[n + 2] + pads[n][0]:
                windows -= 1
            pads[n] = (pads[n][0], pads[n][1] + max(0, (windows - 1) * step + kernel - total))
    count = torch.ones_like(x)
    if op.count_pad:
        count = _pad(count, (*lead, *op.pads), 1.0)
        count = _pad(count, (*lead, *((0, new[1] - old[1]) for new, old in zip(pads, op.pads, strict=True))), 0.0)
    else:
        count = _pad(count, (*lead, *pads), 0.0)
    conv = _CONV[x.ndim - 2]
    total_ = conv(_pad(x, (*lead, *pads), 0.0), weight, None, op.strides, groups=x.shape[1])
    return total_ / (op.norm or conv(count, weight, None, op.strides, groups=x.shape[1]))


def _transposed(op: ir.ConvTranspose, x: Tensor) -> Tensor:
    full = _TRANSPOSED[x.ndim - 2](x, tensor_of(op.weight), None, op.strides, 0, op.extra, op.groups, op.dilations)
    full = _pad(full, ((0, 0), (0, 0), *((-left, -right) for left, right in op.pads)), 0.0)
    return full if op.bias is None else full + tensor_of(op.bias).reshape(-1, *(1,) * (x.ndim - 2))


def _depth_to_space(op: ir.DepthToSpace, x: Tensor) -> Tensor:
    b, c, h, w = x.shape
    r = op.block
    if op.crd:
        return F.pixel_shuffle(x, r)
    return x.reshape(b, r, r, c // r // r, h, w).permute(0, 3, 4, 1, 5, 2).reshape(b, c // r // r, h * r, w * r)


def _space_to_depth(op: ir.SpaceToDepth, x: Tensor) -> Tensor:
    b, c, h, w = x.shape
    r = op.block
    if op.crd:
        return F.pixel_unshuffle(x, r)
    return x.reshape(b, c, h // r, r, w // r, r).permute(0, 3, 5, 1, 2, 4).reshape(b, c * r * r, h // r, w // r)


#: What each operator of one input means; sums and concatenations have several.
_MEANINGS: dict[type[ir.Op], Callable[[Any, Tensor], Tensor]] = {
    ir.Conv: _conv,
    ir.ConvTranspose: _transposed,
    ir.Linear: _linear,
    ir.Affine: _affine,
    ir.Pad: lambda op, x: _pad(x, op.pads, op.value),
    ir.Border: _border,
    ir.Slice: _slice,
    ir.Take: lambda op, x: x.index_select(op.axis, tensor_of(op.index)),
    ir.AvgPool: _pool,
    ir.Flatten: lambda op, x: x.reshape(len(x), -1, *(1,) * op.ones),
    ir.Transpose: lambda op, x: x.permute(op.perm),
    ir.DepthToSpace: _depth_to_space,
    ir.SpaceToDepth: _space_to_depth,
    ir.Upsample: _upsample,
}
