"""Multi-scale linear attention: relu instead of softmax, so that keys meet values before queries meet keys.

q, k, v = W x,  and for each scale s: grouped(dw_s(W x))       b g n d, g heads of every scale
a = relu(q) (relu(k)ᵀ v) / max(relu(q) Σ relu(k), ε)           b g n d; n d² steps instead of n² d
y = norm(Wo [a_1 … a_g])                                       b c h w

NOTE: products and division run in float32 or wider: relu(k)ᵀ v is a sum over the whole map, too large for float16.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms._layers.conv_bn import ConvBN
from attn_export.mechanisms.spec import Dim, Input, Paper, Preset, Spec


class ReluLinearAttention(nn.Module):
    """Linear attention over all pixels at several scales of tokens.

    Args:
        channels: of the map.
        d_head: channels of a head.
        scales: sides of the depth-wise kernels that make larger tokens; empty for one scale only.
        outputs: channels of the result; as many as come in unless given.
        eps: the least divisor.

    Raises:
        ValueError: ``d_head`` does not divide ``channels``, or a scale is even.
    """

    def __init__(
        self,
        channels: int = 32,
        d_head: int = 8,
        scales: Sequence[int] = (5,),
        outputs: int | None = None,
        eps: float = 1e-15,
    ) -> None:
        positive(channels=channels)
        super().__init__()
        if d_head < 1 or channels % d_head:
            raise ValueError(f"d_head must divide channels; {d_head} does not divide {channels}")
        if any(scale % 2 == 0 for scale in scales):
            raise ValueError(f"scales must be odd; they are {tuple(scales)}")
        self.d_head, self.eps = d_head, eps
        self.total = channels * (1 + len(scales))
        wide = 3 * channels
        self.qkv = nn.Conv2d(channels, wide, 1, bias=False)
        self.aggregate = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(wide, wide, scale, padding=scale // 2, groups=wide, bias=False),
                nn.Conv2d(wide, wide, 1, groups=wide // d_head, bias=False),
            )
            for scale in scales
        )
        self.project = ConvBN(self.total, outputs or channels)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b o h w"]:
        """Attend."""
        tokens: Tensor = self.qkv(x)
        tokens = torch.cat([tokens, *(scale(tokens) for scale in self.aggregate)], 1)
        heads = tokens.reshape(-1, self.total // self.d_head, 3 * self.d_head, x.shape[2] * x.shape[3])
        q, k, v = heads.to(torch.promote_types(heads.dtype, torch.float32)).chunk(3, 2)  # b g d n each
        q, k = torch.relu(q), torch.relu(k)
        summed = (v @ k.transpose(2, 3)) @ q
        # NOTE: the divisor is bounded below where the paper adds ε: exporters take a sum with 1e-15 for one with 0.
        divisor = (k.sum(3).unsqueeze(2) @ q).clamp_min(self.eps)
        mixed = (summed / divisor).to(x.dtype)
        y: Tensor = self.project(mixed.reshape(-1, self.total, *x.shape[2:]))
        return y


MECHANISM = Spec(
    paper=Paper(
        "EfficientViT: Multi-Scale Linear Attention for High-Resolution Dense Prediction",
        "Cai et al.",
        "ICCV 2023",
        "2205.14756",
    ),
    build=ReluLinearAttention,
    tasks=("classification", "segmentation"),
    inputs=(Input("x", ("b", "channels", "h", "w")),),
    dynamic=(Dim("b"), Dim("h"), Dim("w")),
    presets={
        "test": Preset({"channels": 16, "d_head": 4}, {"h": 6, "w": 7}),
        "readme": Preset({"channels": 128, "d_head": 16}, {"h": 14, "w": 14}),
    },
    variants={
        "one_scale": Preset({"channels": 16, "scales": (), "outputs": 8}, {"h": 6, "w": 7}),
    },
)
