"""A convolution with a kernel of its own for each image.

    y[b] = kernels[b] ∗ x[b]        b o i j

With a known batch that is one convolution, with as many groups as there are images. Groups are a constant of the graph,
so a batch that varies needs products of matrices instead: the columns of a window are stacked as channels, and its rows
are products. On a CPU that takes about 1.3 of the convolution's time (3 × 3, 32 to 64 channels).
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def convolve_each(
    x: Float[Tensor, "b c h w"],
    kernels: Float[Tensor, "b o d k k"],
    *,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
    groups: int = 1,
) -> Float[Tensor, "b o i j"]:
    """Convolve each image with its kernel, in ``groups`` groups of ``d`` channels; an exported batch may vary."""
    # In an export, a size that varies is a symbol, and no int.
    whole = grouped if isinstance(x.shape[0], int) else by_rows
    return whole(x, kernels, stride, padding, dilation, groups)


def grouped(x: Tensor, kernels: Tensor, stride: int, padding: int, dilation: int, groups: int) -> Tensor:
    """One convolution for a batch that is known."""
    batch = x.shape[0]
    images = x.reshape(1, -1, *x.shape[2:])
    y = F.conv2d(images, kernels.flatten(0, 1), None, stride, padding, dilation, batch * groups)
    return y.reshape(batch, -1, *y.shape[2:])


def by_rows(x: Tensor, kernels: Tensor, stride: int, padding: int, dilation: int, groups: int) -> Tensor:
    """Multiply matrices for each row of the kernel, for any batch."""
    out, width, size = kernels.shape[1:4]
    reach = dilation * (size - 1)
    rows, columns = ((n + 2 * padding - reach - 1) // stride + 1 for n in x.shape[2:])
    parts = x.reshape(-1, width, *x.shape[2:]) if groups > 1 else x  # b·g d h w
    wide = F.pad(parts, (padding,) * 4) if padding else parts
    starts = range(0, reach + 1, dilation)
    seen = torch.cat([wide[..., j : j + stride * (columns - 1) + 1 : stride] for j in starts], 1)
    # A row of the kernel as a matrix: its columns before its channels, as they are stacked.
    matrices = kernels.reshape(-1, out // groups, width, size, size).permute(0, 3, 1, 4, 2).flatten(3)  # b·g k o k·d
    if stride == 1:  # one product for all rows of the kernel, each of which is then cut to where it is read
        whole, each = matrices.flatten(1, 2) @ seen.flatten(2), out // groups
        products = [
            whole[:, n * each : (n + 1) * each, i * columns : (i + rows) * columns] for n, i in enumerate(starts)
        ]
    else:
        products = [
            matrices[:, n] @ seen[:, :, i : i + stride * (rows - 1) + 1 : stride].flatten(2)
            for n, i in enumerate(starts)
        ]
    return sum(products[1:], products[0]).reshape(-1, out, rows, columns)
