"""Involution: each pixel makes a kernel of its own from its channels, shared by all channels of a group.

H = W2 · relu(BN(W1 · pool_s(x)))                    b g k² h/s w/s
y[g, c, q] = Σ_i H[g, i, q] · x[g, c, s q + i − p]   b c h/s w/s
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms._layers.local import shifted
from attn_export.mechanisms.spec import Dim, Input, Paper, Preset, Spec


class Involution(nn.Module):
    """A spatial kernel for each pixel and group of channels.

    Args:
        channels: inputs and outputs.
        kernel: side of the kernel.
        stride: between output pixels; the map is averaged over ``stride × stride`` before kernels are made.
        groups: groups of channels that share a kernel.
        reduction: how many times narrower the bottleneck is.

    Raises:
        ValueError: ``kernel`` is even, or ``groups`` or ``reduction`` does not divide ``channels``.
    """

    def __init__(
        self, channels: int = 16, kernel: int = 3, stride: int = 1, groups: int = 4, reduction: int = 4
    ) -> None:
        positive(channels=channels, kernel=kernel, stride=stride, groups=groups, reduction=reduction)
        super().__init__()
        if kernel % 2 == 0:
            raise ValueError(f"kernel must be odd; got {kernel}")
        if channels % groups or channels % reduction:
            raise ValueError(f"groups ({groups}) and reduction ({reduction}) must divide channels ({channels})")
        self.kernel, self.stride, self.groups = kernel, stride, groups
        self.reduce = nn.Conv2d(channels, channels // reduction, 1)
        self.norm = nn.BatchNorm2d(channels // reduction)
        self.span = nn.Conv2d(channels // reduction, kernel * kernel * groups, 1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c i j"]:
        """Apply to each pixel the kernel that it made."""
        pooled = x
        if self.stride > 1:  # a window over the border averages what it has, so that odd sizes keep their last pixel
            pooled = F.avg_pool2d(x, self.stride, ceil_mode=True, count_include_pad=False)
        weights = self.span(torch.relu(self.norm(self.reduce(pooled))))
        # Groups are items of the batch: compilers for phones take four axes.
        space, size = weights.shape[2:], self.kernel**2
        taps = weights.reshape(-1, size, *space).chunk(size, 1)  # bg 1 i j each
        moved = [
            part.reshape(-1, x.shape[1] // self.groups, *space) for part in shifted(x, self.kernel, stride=self.stride)
        ]
        y: Tensor = taps[0] * moved[0]
        for index in range(1, size):
            y = y + taps[index] * moved[index]
        return y.reshape(-1, x.shape[1], *space)


MECHANISM = Spec(
    paper=Paper("Involution: Inverting the Inherence of Convolution", "Li et al.", "CVPR 2021", "2103.06255"),
    build=Involution,
    tasks=("classification", "detection", "segmentation"),
    inputs=(Input("x", ("b", "channels", "h", "w")),),
    dynamic=(Dim("b"), Dim("h", min=2), Dim("w", min=2)),
    presets={
        "test": Preset({"channels": 16}, {"h": 7, "w": 9}),
        "readme": Preset({"channels": 4, "kernel": 3, "stride": 2, "groups": 1}, {"h": 64, "w": 64}),
    },
    variants={
        "strided": Preset({"channels": 16, "kernel": 5, "stride": 2, "groups": 2}, {"h": 9, "w": 10}),
    },
    checkpoint={r"^conv1\.": "reduce.", r"^bn\.": "norm.", r"^conv2\.": "span."},
)
