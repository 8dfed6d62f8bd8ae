"""Polarized self-attention in sequence: a channel gate, then a pixel gate on what it lets through.

a = softmax_hw(Wq x)                              b 1 hw
u = x * sigmoid(LN(Wz (Wv x · aᵀ)))               b c h w, the gate b c 1 1, Wv to c/2 channels
s = softmax_c(mean_hw(Wq' u))                     b 1 c/2
y = u * sigmoid(s · Wv' u)                        b c h w, the gate b 1 h w
"""

from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms._layers.polarized import PolarizedChannelGate, PolarizedSpatialGate
from attn_export.mechanisms.spec import Dim, Input, Paper, Preset, Spec


class SequentialPolarizedAttention(nn.Module):
    """The channel gate first, the pixel gate on its result.

    Raises:
        ValueError: ``channels`` is odd.
    """

    def __init__(self, channels: int = 32) -> None:
        positive(channels=channels)
        super().__init__()
        self.channel = PolarizedChannelGate(channels)
        self.spatial = PolarizedSpatialGate(channels)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Gate the channels of ``x``, then its pixels."""
        u: Tensor = x * self.channel(x)
        y: Tensor = u * self.spatial(u)
        return y


MECHANISM = Spec(
    paper=Paper(
        "Polarized Self-Attention: Towards High-quality Pixel-wise Regression", "Liu et al.", "2021", "2107.00782"
    ),
    build=SequentialPolarizedAttention,
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
