"""Polarized self-attention in parallel: a channel gate and a pixel gate on one input, the results added.

a = softmax_hw(Wq x)                              b 1 hw
g = sigmoid(LN(Wz (Wv x · aᵀ)))                   b c 1 1, Wv to c/2 channels
s = softmax_c(mean_hw(Wq' x))                     b 1 c/2
y = x * g + x * sigmoid(s · Wv' x)                b c h w, the second gate b 1 h w
"""

from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms._layers.polarized import PolarizedChannelGate, PolarizedSpatialGate
from attn_export.mechanisms.spec import Dim, Input, Paper, Preset, Spec


class ParallelPolarizedAttention(nn.Module):
    """Both gates on the input.

    Raises:
        ValueError: ``channels`` is odd.
    """

    def __init__(self, channels: int = 32) -> None:
        positive(channels=channels)
        super().__init__()
        self.channel = PolarizedChannelGate(channels)
        self.spatial = PolarizedSpatialGate(channels)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Gate ``x`` by channel and by pixel, and add."""
        y: Tensor = x * (self.channel(x) + self.spatial(x))
        return y


MECHANISM = Spec(
    paper=Paper(
        "Polarized Self-Attention: Towards High-quality Pixel-wise Regression", "Liu et al.", "2021", "2107.00782"
    ),
    build=ParallelPolarizedAttention,
    tasks=("segmentation",),
    inputs=(Input("x", ("b", "channels", "h", "w")),),
    dynamic=(Dim("b"), Dim("h"), Dim("w")),
    presets={
        "test": Preset({"channels": 32}, {"h": 7, "w": 9}),
        "readme": Preset({"channels": 512}, {"h": 7, "w": 7}),
    },
    checkpoint={
        r"^ch_wq\.": "channel.query.",
        r"^ch_wv\.": "channel.value.",
        r"^ch_wz\.": "channel.expand.",
        r"^ln\.": "channel.norm.",
        r"^sp_wq\.": "spatial.query.",
        r"^sp_wv\.": "spatial.value.",
    },
)
