"""Windows around each pixel without im2col: shifted slices, and local sums as products with banded matrices.

u[q, i] = x[s q + i - p]                    unfold: one slice for each i of the k × k window
y[q]    = Σ_i w[q, i] x[s q + i - p]        local sum: a matrix with k bands for each row of the map

Col2Im and im2col by index exist in few runtimes. A local sum by slices reads and writes the map 2 k² times; as a
product of matrices of w × k (s w + k) for each row it runs at the speed of a GEMM, although most of them is zeros.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def shifted(
    x: Float[Tensor, "b c h w"], kernel: int, padding: int | None = None, stride: int = 1, dilation: int = 1
) -> list[Tensor]:
    """Return the ``kernel ** 2`` shifted copies of ``x``, row by row; beyond the border lie zeros.

    Args:
        x: a map.
        kernel: side of the window.
        padding: at each border; what keeps the size at stride 1 unless given.
        stride: between windows.
        dilation: between the pixels of a window.
    """
    reach = dilation * (kernel - 1)
    pad = reach // 2 if padding is None else padding
    rows, columns = ((n + 2 * pad - reach - 1) // stride + 1 for n in x.shape[2:])
    wide = F.pad(x, (pad, pad, pad, pad)) if pad else x
    spans = (range(0, reach + 1, dilation),) * 2
    return [
        wide[:, :, i : i + stride * (rows - 1) + 1 : stride, j : j + stride * (columns - 1) + 1 : stride]
        for i in spans[0]
        for j in spans[1]
    ]


def local_sum(
    weights: Float[Tensor, "n h w window"],
    values: Float[Tensor, "n rows columns d"],
    kernel: int,
    stride: int = 1,
    padding: int = 0,
) -> Float[Tensor, "n h w d"]:
    """Sum the window of each pixel with weights of its own.

    Groups with weights of their own are items of the batch: compilers for phones refuse more than four dimensions.

    Args:
        weights: for each output pixel, those of its ``kernel ** 2`` neighbours, row by row.
        values: a map, channels last.
        kernel: side of the window.
        stride: between windows.
        padding: zeros around ``values``; with them there must be ``stride * (h - 1) + kernel`` rows or more.
    """
    height, width = weights.shape[1:3]
    span = stride * (width - 1) + kernel  # columns of values that a row of windows sees
    bottom = stride * (height - 1) + kernel - padding - values.shape[1]
    right = span - padding - values.shape[2]
    wide = F.pad(values, (0, 0, padding, right, padding, bottom))
    seen = torch.cat([wide[:, i : i + stride * (height - 1) + 1 : stride] for i in range(kernel)], 2)
    return _banded(weights, kernel, stride, span) @ seen  # n h w k*span times n h k*span d


def _banded(weights: Tensor, kernel: int, stride: int, span: int) -> Tensor:
    """Give each window its place in the row: ``kernel`` bands, each moved on by ``stride`` from pixel to pixel.

    With ``stride`` zeros behind each line of the matrix, reading it with lines shorter by ``stride`` moves line x by
    ``stride * x``: no index is needed.
    """
    height, width = weights.shape[1:3]
    size = kernel * span
    windows = weights.reshape(-1, height * width, kernel, kernel)
    lines = F.pad(F.pad(windows, (0, span - kernel)).reshape(-1, height, width, size), (0, stride))
    return lines.flatten(2)[..., : width * size].reshape(-1, height, width, size)
