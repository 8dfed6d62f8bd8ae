"""Places on a map between -1 and 1, and what a map holds between its pixels.

x[p] = Σ over the four pixels around p of their values, by how near they are      bilinear, zeros outside
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def sample(image: Tensor, grid: Tensor) -> Tensor:
    """Read an image between its pixels, in float32 or wider: in float16 the CPU's sampler gives NaN at some points."""
    wide = torch.promote_types(image.dtype, torch.float32)
    return F.grid_sample(image.to(wide), grid.to(wide), align_corners=True).to(image.dtype)


def centres(height: int, width: int) -> Tensor:
    """Centres of the cells of a grid on [-1, 1] x [-1, 1], row by row, x before y."""
    y = (2 * torch.arange(height, dtype=torch.float64) + 1) / height - 1
    x = (2 * torch.arange(width, dtype=torch.float64) + 1) / width - 1
    return torch.stack((x.repeat(height), y.repeat_interleave(width)), -1)


def corners(height: int, width: int, ahead: float) -> Tensor:
    """Places ``i + ahead`` of a grid whose first and last pixels are at -1 and 1, as ``centres`` orders them."""
    y = 2 * (torch.arange(height, dtype=torch.float64) + ahead) / (height - 1) - 1
    x = 2 * (torch.arange(width, dtype=torch.float64) + ahead) / (width - 1) - 1
    return torch.stack((x.repeat(height), y.repeat_interleave(width)), -1)
