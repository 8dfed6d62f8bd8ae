"""Pooling as a token mixer: the mean around a pixel minus the pixel, which the residual around it adds again.

y = mean_(k × k)(x) - x      b c h w; at the border the mean is over what lies inside
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms.spec import Dim, Input, Paper, Preset, Spec


class PoolingMixer(nn.Module):
    """The token mixer of PoolFormer; it has no parameters.

    Args:
        kernel_size: side of the square.

    Raises:
        ValueError: ``kernel_size`` is even or less than 3.
    """

    def __init__(self, kernel_size: int = 3) -> None:
        super().__init__()
        if kernel_size < 3 or kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd and at least 3; it is {kernel_size}")
        self.kernel_size = kernel_size

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Mix each pixel with its neighbours."""
        return F.avg_pool2d(x, self.kernel_size, 1, self.kernel_size // 2, count_include_pad=False) - x


MECHANISM = Spec(
    paper=Paper("MetaFormer Is Actually What You Need for Vision", "Yu et al.", "CVPR 2022", "2111.11418"),
    build=PoolingMixer,
    tasks=("classification", "detection", "segmentation"),
    inputs=(Input("x", ("b", "c", "h", "w")),),
    dynamic=(Dim("b"), Dim("c"), Dim("h"), Dim("w")),
    presets={
        "test": Preset({}, {"c": 8, "h": 6, "w": 7}),
        "readme": Preset({}, {"c": 64, "h": 56, "w": 56}),
    },
    variants={
        "wide": Preset({"kernel_size": 5}, {"c": 8, "h": 6, "w": 7}),
    },
)
