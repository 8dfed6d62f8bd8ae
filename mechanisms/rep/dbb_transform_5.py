"""Transform V of the diverse branch block: average pooling is a depth-wise convolution with equal weights.

y[c, q] = 1/k² Σ_t x̃[c, s q + t − p]      b c h/s w/s    x̃ has zeros around x, and they count
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import not_negative, positive
from attn_export.mechanisms.spec import Dim, Input, Paper, Preset, Spec


class AveragePool(nn.Module):
    """Average over windows; zeros of the padding count, or else the border would be no convolution.

    Raises:
        ValueError: ``padding`` exceeds half of ``kernel``.
    """

    def __init__(self, channels: int = 8, kernel: int = 3, stride: int = 1, padding: int = 0) -> None:
        positive(channels=channels, kernel=kernel, stride=stride)
        not_negative(padding=padding)
        super().__init__()
        if padding > kernel // 2:
            raise ValueError(f"padding must not exceed half of the kernel; got {padding} and {kernel}")
        self.channels, self.kernel, self.stride, self.padding = channels, kernel, stride, padding

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c i j"]:
        """Average."""
        return F.avg_pool2d(x, self.kernel, self.stride, self.padding)


MECHANISM = Spec(
    paper=Paper("Diverse Branch Block: Building a Convolution", "Ding et al.", "CVPR 2021", "2103.13425"),
    build=AveragePool,
    inputs=(Input("x", ("b", "channels", "h", "w")),),
    dynamic=(Dim("b"), Dim("h", min=3), Dim("w", min=3)),
    presets={
        "test": Preset({"channels": 8}, {"h": 7, "w": 9}),
        "readme": Preset({"channels": 64}, {"h": 56, "w": 56}),
    },
    variants={"strided": Preset({"channels": 8, "kernel": 3, "stride": 2, "padding": 1}, {"h": 7, "w": 9})},
)
