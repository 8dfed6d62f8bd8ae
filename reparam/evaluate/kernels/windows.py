"""Convolutions and poolings, on PyTorch's kernels in whatever precision the arrays have.

The reference implementation of ONNX is slow on these, and wrong on some (a transposed convolution that does not change
the number of channels, a pooling whose last window starts in the padding).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from attn_export.reparam.evaluate.tensors import array_of, tensor_of
from attn_export.types import Array


def convolve(attributes: Mapping[str, Any], arguments: Sequence[Array | None]) -> Array:
    """Conv: x [n, c, *spatial], weight [out, c / group, *kernel], bias [out]."""
    x, weight, bias = _three(arguments)
    return array_of(_convolved(attributes, x, weight, bias))


def _convolved(attributes: Mapping[str, Any], x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor | None) -> Any:
    steps, gaps, pads = _window(attributes, x, w.shape[2:])
    kind = (F.conv1d, F.conv2d, F.conv3d)[x.ndim - 3]
    return kind(_pad(x, pads, 0.0), w, bias, steps, 0, gaps, attributes.get("group", 1))


def convolve_transposed(attributes: Mapping[str, Any], arguments: Sequence[Array | None]) -> Array:
    """ConvTranspose: the whole of it, cropped by the padding, or grown by zeros where the padding is negative."""
    x, weight, bias = _three(arguments)
    kernel, rank = weight.shape[2:], x.ndim - 2
    steps, gaps = attributes.get("strides", [1] * rank), attributes.get("dilations", [1] * rank)
    kind = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[rank - 1]
    whole = kind(x, weight, None, steps, 0, 0, attributes.get("group", 1), gaps)
    extra = attributes.get("output_padding", [0] * rank)
    before, after = _crop(attributes, x.shape[2:], kernel, steps, gaps, extra)
    grow = [-n for n in before] + [more - n for n, more in zip(after, extra, strict=True)]
    y = _pad(whole, grow, 0.0)
    return array_of(y if bias is None else y + bias.reshape(-1, *(1,) * rank))


def _crop(
    attributes: Mapping[str, Any],
    shape: Sequence[int],
    kernel: Sequence[int],
    steps: Sequence[int],
    gaps: Sequence[int],
    extra: Sequence[int],
) -> tuple[list[int], list[int]]:
    """Compute how much of a transposed convolution its padding takes away before and after each axis."""
    rank, auto = len(shape), attributes.get("auto_pad", b"NOTSET")
    wanted = list(attributes.get("output_shape", []))[-rank:]
    if auto in (b"SAME_UPPER", b"SAME_LOWER") and not wanted:
        wanted = [n * s for n, s in zip(shape, steps, strict=True)]
    if not wanted:
        pads = [0] * 2 * rank if auto == b"VALID" else list(attributes.get("pads", [0] * 2 * rank))
        return pads[:rank], pads[rank:]
    rows = zip(shape, steps, kernel, gaps, extra, wanted, strict=True)
    total = [s * (n - 1) + e + (k - 1) * d + 1 - w for n, s, k, d, e, w in rows]
    small = [t // 2 if t > 0 else 0 for t in total]
    large = [t - half for t, half in zip(total, small, strict=True)]
    grows = [t < 0 for t in total]  # what is missing is zeros behind, whatever the mode
    if auto == b"SAME_UPPER":
        return small, large
    return (
        [0 if g else n for n, g in zip(large, grows, strict=True)],
        [n if g else m for n, m, g in zip(large, small, grows, strict=True)],
    )


def average(attributes: Mapping[str, Any], arguments: Sequence[Array | None]) -> Array:
    """AveragePool; padding counts if it is to be included, what rounding up adds behind it never does."""
    x = tensor_of(arguments[0])
    return array_of(_summed(attributes, x) / _counted(attributes, x))


def power(attributes: Mapping[str, Any], arguments: Sequence[Array | None]) -> Array:
    """LpPool: (Σ |x|ᵖ)^(1/p) over each window."""
    x, p = tensor_of(arguments[0]), attributes.get("p", 2)
    return array_of(_summed(attributes, x.abs() ** p) ** (1 / p))


def power_global(attributes: Mapping[str, Any], arguments: Sequence[Array | None]) -> Array:
    """GlobalLpPool: the same over everything."""
    x, p = tensor_of(arguments[0]), attributes.get("p", 2)
    return array_of((x.abs() ** p).sum(tuple(range(2, x.ndim)), keepdim=True) ** (1 / p))


def average_global(_: Mapping[str, Any], arguments: Sequence[Array | None]) -> Array:
    """GlobalAveragePool, of any rank.

    In float32 the numbers are added one after the other, as runtimes do where channels lie side by side: NumPy's sums
    by halves are some times closer than any such run, and would grant it too little.
    """
    (x,) = arguments
    assert x is not None
    if x.dtype != np.float32 or not x.size:
        return np.asarray(x.mean(tuple(range(2, x.ndim)), keepdims=True))
    flat = x.reshape(*x.shape[:2], -1)
    mean = np.add.accumulate(flat, axis=2, dtype=np.float32)[..., -1] / np.float32(flat.shape[2])
    return np.asarray(mean.reshape(*x.shape[:2], *(1 for _ in x.shape[2:])), np.float32)


def maximum_global(_: Mapping[str, Any], arguments: Sequence[Array | None]) -> Array:
    """GlobalMaxPool, of any rank: the reference implementation knows pictures only."""
    (x,) = arguments
    assert x is not None
    return np.asarray(x.max(tuple(range(2, x.ndim)), keepdims=True))


def _summed(attributes: Mapping[str, Any], x: torch.Tensor) -> torch.Tensor:
    """Sum over windows of x [n, c, *spatial], axis by axis: a window may be far larger than what it slides over."""
    for axis, slide in enumerate(_slides(attributes, x)):
        x = slide(x, axis + 2, 0.0)
    return x


def _counted(attributes: Mapping[str, Any], x: torch.Tensor) -> torch.Tensor:
    """Count what each window holds."""
    count, inside = torch.ones((), dtype=x.dtype), float(attributes.get("count_include_pad", 0))
    for size, slide in zip(x.shape[2:], _slides(attributes, x), strict=True):
        count = count.unsqueeze(-1) * slide(torch.ones(size, dtype=x.dtype), 0, inside)
    return count


def _slides(attributes: Mapping[str, Any], x: torch.Tensor) -> list[Callable[[torch.Tensor, int, float], torch.Tensor]]:
    """For each spatial axis, how windows are summed along it."""
    kernel, rank = attributes["kernel_shape"], x.ndim - 2
    steps, gaps, pads = _window(attributes, x, kernel)
    beyond = _beyond(attributes, x.shape[2:], kernel)[rank:]
    around = zip(pads[:rank], pads[rank:], beyond, strict=True)
    return [partial(_slide, *row) for row in zip(kernel, steps, gaps, around, strict=True)]


def _slide(
    size: int, step: int, gap: int, around: tuple[int, int, int], x: torch.Tensor, axis: int, value: float
) -> torch.Tensor:
    """Pad along an axis, with ``value`` and then behind with 0, and sum over windows."""
    before, after, beyond = around
    others = (0, 0) * (x.ndim - 1 - axis)
    padded = F.pad(F.pad(x, (*others, before, after), value=value), (*others, 0, beyond))
    return padded.unfold(axis, gap * (size - 1) + 1, step)[..., ::gap].sum(-1)


def maximum(attributes: Mapping[str, Any], arguments: Sequence[Array | None]) -> Array:
    """MaxPool."""
    assert arguments[0] is not None
    y = _largest(attributes, tensor_of(arguments[0]), places=False)
    return np.asarray(array_of(y).astype(arguments[0].dtype))


def maximum_with_places(attributes: Mapping[str, Any], arguments: Sequence[Array | None]) -> tuple[Array, Array]:
    """MaxPool and where each maximum lies in the flattened x; ``storage_order`` 1 counts each image by columns."""
    assert arguments[0] is not None
    x = tensor_of(arguments[0])
    y, flat = _largest(attributes, x, places=True)
    _, _, pads = _window(attributes, x, attributes["kernel_shape"])
    rank = x.ndim - 2
    beyond = _beyond(attributes, x.shape[2:], attributes["kernel_shape"])
    padded = [n + pads[i] + pads[i + rank] + beyond[i + rank] for i, n in enumerate(x.shape[2:])]
    places = [at - pads[i] for i, at in enumerate(np.unravel_index(array_of(flat), padded))]
    image = (x.shape[2:], places) if not attributes.get("storage_order") else (x.shape[:1:-1], places[::-1])
    inside = np.ravel_multi_index(image[1], image[0])
    planes = np.arange(x.shape[0] * x.shape[1]).reshape(*x.shape[:2], *(1,) * rank)
    return np.asarray(array_of(y).astype(arguments[0].dtype)), np.asarray(inside + planes * int(np.prod(x.shape[2:])))


def _largest(attributes: Mapping[str, Any], x: torch.Tensor, *, places: bool) -> Any:
    x = x if x.dtype.is_floating_point else x.double()  # bytes have no −∞ to pad with
    kernel = attributes["kernel_shape"]
    steps, gaps, pads = _window(attributes, x, kernel)
    padded = _pad(_pad(x, pads, float("-inf")), _beyond(attributes, x.shape[2:], kernel), float("-inf"))
    pool: Any = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[x.ndim - 3]
    return pool(padded, kernel, steps, 0, gaps, return_indices=places)


def _three(arguments: Sequence[Array | None]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    x, weight, bias = (*arguments, None)[:3]
    return tensor_of(x), tensor_of(weight), None if bias is None else tensor_of(bias)


def _window(
    attributes: Mapping[str, Any], x: torch.Tensor, kernel: Sequence[int]
) -> tuple[list[int], list[int], list[int]]:
    """Strides, dilations, and the padding before every axis and then after every axis."""
    rank = x.ndim - 2
    steps, gaps = attributes.get("strides", [1] * rank), attributes.get("dilations", [1] * rank)
    auto = attributes.get("auto_pad", b"NOTSET")
    pads = [0] * 2 * rank if auto == b"VALID" else attributes.get("pads", [0] * 2 * rank)
    if auto in (b"SAME_UPPER", b"SAME_LOWER"):
        pads = _same(x.shape[2:], kernel, steps, gaps, lower=auto == b"SAME_LOWER")
    return steps, gaps, pads


def _beyond(attributes: Mapping[str, Any], shape: Sequence[int], kernel: Sequence[int]) -> list[int]:
    """Return what rounding the number of windows up needs behind the padding, as amounts for ``_pad``.

    A window that would start behind the input and the padding before it is none.
    """
    rank = len(shape)
    if not attributes.get("ceil_mode"):
        return [0] * 2 * rank
    steps, gaps, pads = _window(attributes, torch.empty((0, 0, *shape)), kernel)
    amounts = []
    for i, n in enumerate(shape):
        reach = gaps[i] * (kernel[i] - 1) + 1
        count = -(-(n + pads[i] + pads[i + rank] - reach) // steps[i]) + 1
        if (count - 1) * steps[i] >= n + pads[i]:
            count -= 1
        amounts.append(max(0, (count - 1) * steps[i] + reach - (n + pads[i] + pads[i + rank])))
    return [0] * rank + amounts


def _pad(x: torch.Tensor, pads: Sequence[int], value: float) -> torch.Tensor:
    rank = len(pads) // 2
    flat = [p for axis in reversed(range(rank)) for p in (pads[axis], pads[axis + rank])]
    return F.pad(x, flat, value=value) if any(flat) else x


def _same(
    shape: Sequence[int], kernel: Sequence[int], steps: Sequence[int], gaps: Sequence[int], *, lower: bool
) -> list[int]:
    total = [
        max(0, (-(-n // s) - 1) * s + (k - 1) * d + 1 - n)
        for n, k, s, d in zip(shape, kernel, steps, gaps, strict=True)
    ]
    small, large = [t // 2 for t in total], [t - t // 2 for t in total]
    return [*large, *small] if lower else [*small, *large]
