"""What each row of a layer's weight is multiplied by: the columns of a convolution, or the rows of a product."""

from __future__ import annotations

import numpy as np
import onnx

from attn_export.export.graph.index import attribute
from attn_export.export.quantise.layers import Layer
from attn_export.types import Array

#: Columns that are looked at of one case; more say little that is new (of 64 cases 128 keep as much as 2,048).
COLUMNS = 512


def groups_of(layer: Layer, node: onnx.NodeProto) -> int:
    """Give how many parts of the weight take inputs of their own."""
    return int(attribute(node, "group", 1)) if layer.op == "Conv" else 1


def can_unfold(layer: Layer, rank: int) -> bool:
    """Whether ``columns`` knows this layer: a convolution of one or two axes, or a product."""
    return layer.op in ("Gemm", "MatMul") or (layer.op == "Conv" and rank in (3, 4))


def columns(
    layer: Layer, node: onnx.NodeProto, kernel: tuple[int, ...], values: Array, rng: np.random.Generator
) -> Array:
    """Give the columns of each group, ``group in n`` in float32, at most ``COLUMNS`` places that ``rng`` draws."""
    if layer.op != "Conv":
        rows = values.reshape(-1, values.shape[-1])
        return np.ascontiguousarray(rows[_chosen(len(rows), rng)].T[None])
    image = values if values.ndim == 4 else values[:, :, None, :]
    sizes = kernel if len(kernel) == 2 else (1, *kernel)
    strides, steps = (_pair(node, name, len(kernel)) for name in ("strides", "dilations"))
    padded = np.pad(image, ((0, 0), (0, 0), *_padding(node, image.shape[2:], sizes, strides, steps, len(kernel))))
    reach = [(size - 1) * step + 1 for size, step in zip(sizes, steps, strict=True)]
    windows = np.lib.stride_tricks.sliding_window_view(padded, reach, (2, 3))
    windows = windows[:, :, :: strides[0], :: strides[1], :: steps[0], :: steps[1]]
    count, channels, high, wide = windows.shape[:4]
    chosen = _chosen(count * high * wide, rng)
    b, y, x = np.unravel_index(chosen, (count, high, wide))
    taken = windows[b, :, y, x]  # n, channels, kernel
    groups = groups_of(layer, node)
    parts = taken.reshape(len(chosen), groups, channels // groups * sizes[0] * sizes[1])
    return np.ascontiguousarray(parts.transpose(1, 2, 0))


def _chosen(total: int, rng: np.random.Generator) -> Array:
    return np.sort(rng.choice(total, COLUMNS, replace=False)) if total > COLUMNS else np.arange(total)


def _pair(node: onnx.NodeProto, name: str, rank: int) -> tuple[int, int]:
    values = tuple(attribute(node, name) or (1,) * rank)
    return (1, int(values[0])) if rank == 1 else (int(values[0]), int(values[1]))


def _padding(
    node: onnx.NodeProto,
    sizes: tuple[int, ...],
    kernel: tuple[int, ...],
    strides: tuple[int, int],
    steps: tuple[int, int],
    rank: int,
) -> list[tuple[int, int]]:
    how = attribute(node, "auto_pad", "NOTSET")
    if how in ("SAME_UPPER", "SAME_LOWER"):
        found = []
        for size, k, stride, step in zip(sizes, kernel, strides, steps, strict=True):
            total = max(0, (-(-size // stride) - 1) * stride + (k - 1) * step + 1 - size)
            less = total // 2
            found.append((less, total - less) if how == "SAME_UPPER" else (total - less, less))
        return found
    pads = [int(pad) for pad in (attribute(node, "pads") or (0,) * (2 * rank))] if how == "NOTSET" else [0] * (2 * rank)
    both = list(zip(pads[:rank], pads[rank:], strict=True))
    return both if rank == 2 else [(0, 0), *both]
