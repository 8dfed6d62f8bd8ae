"""Cross-covariance attention: channels attend to channels, compared by their normalised course over the tokens.

q, k, v = W x                                b h d n, h heads of d channels
y = Wo softmax(τ_h q̂ k̂ᵀ) v                   b n c; q̂, k̂ have length one over the tokens
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms.spec import Dim, Input, Paper, Preset, Spec


class CrossCovarianceAttention(nn.Module):
    """Attention whose map is d × d a head, whatever the number of tokens.

    Args:
        channels: of the tokens.
        heads: number of heads.
        qkv_bias: of the projection to queries, keys and values.

    Raises:
        ValueError: ``heads`` does not divide ``channels``.
    """

    def __init__(self, channels: int = 32, heads: int = 4, qkv_bias: bool = False) -> None:
        positive(channels=channels)
        super().__init__()
        if heads < 1 or channels % heads:
            raise ValueError(f"heads must divide channels; {heads} does not divide {channels}")
        self.heads, self.d_head = heads, channels // heads
        self.qkv = nn.Linear(channels, 3 * channels, bias=qkv_bias)
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.out = nn.Linear(channels, channels)

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        """Attend among the channels of each head."""
        q, k, v = (
            part.transpose(1, 2).reshape(-1, self.heads, self.d_head, x.shape[1]) for part in self.qkv(x).chunk(3, -1)
        )
        weights = torch.softmax((_unit(q) * self.temperature) @ _unit(k).transpose(2, 3), -1)
        y: Tensor = self.out((weights @ v).flatten(1, 2).transpose(1, 2))
        return y


def _unit(x: Tensor) -> Tensor:
    """Give each channel length one; the squares run in float32 or wider, since in float16 their sum overflows."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    square = (wide * wide).sum(-1, keepdim=True)
    return (wide / torch.sqrt(square.clamp_min(1e-24))).to(x.dtype)


MECHANISM = Spec(
    paper=Paper("XCiT: Cross-Covariance Image Transformers", "El-Nouby et al.", "NeurIPS 2021", "2106.09681"),
    build=CrossCovarianceAttention,
    tasks=("classification", "detection", "segmentation"),
    inputs=(Input("x", ("b", "n", "channels")),),
    dynamic=(Dim("b"), Dim("n")),
    presets={
        "test": Preset({"channels": 16}, {"n": 7}),
        "readme": Preset({"channels": 384, "heads": 8}, {"n": 196}),
    },
    variants={
        "biased": Preset({"channels": 16, "qkv_bias": True}, {"n": 7}),
    },
)
