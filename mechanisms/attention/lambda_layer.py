"""Lambda layer: the context becomes a linear function of few channels, applied to each query; no attention map.

q, k, v = norm(Wq x), Wk x, norm(Wv x)                 b h k n, b u k m, b u d m; k in few channels
λ = Σ_u softmax_m(k) vᵀ + Σ_u E ∗ v                    content, b k d; position, b n k d, E a kernel of k × u × r × r
y = λᵀ q                                               b h*d n

NOTE: the layer is called lambda, which Python keeps for itself: hence the name of this file.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms.spec import Dim, Input, Paper, Preset, Spec


class LambdaLayer(nn.Module):
    """Content and position lambdas, shared by all heads.

    Args:
        channels: that come in.
        outputs: that go out; as many as come in unless given.
        heads: of the queries.
        d_key: channels of a query.
        depth: pairs of keys and values that are summed (intra-depth).
        receptive: side of the window of the position lambdas; from twice the side of the map minus 1 on it is the
            layer of the paper without a window, and smaller ones serve maps of every size.
        position_bias: the position lambdas have one, as in timm.

    Raises:
        ValueError: ``heads`` does not divide ``outputs``, or ``receptive`` is even.
    """

    def __init__(
        self,
        channels: int = 32,
        outputs: int | None = None,
        heads: int = 4,
        d_key: int = 16,
        depth: int = 1,
        receptive: int = 23,
        position_bias: bool = False,
    ) -> None:
        positive(channels=channels, d_key=d_key, depth=depth)
        super().__init__()
        outputs = outputs or channels
        if heads < 1 or outputs % heads:
            raise ValueError(f"heads must divide outputs; {heads} does not divide {outputs}")
        if receptive < 1 or receptive % 2 == 0:
            raise ValueError(f"receptive must be odd; it is {receptive}")
        self.heads, self.d_key, self.depth, self.d_value = heads, d_key, depth, outputs // heads
        self.query = nn.Conv2d(channels, heads * d_key, 1, bias=False)
        self.key = nn.Conv2d(channels, depth * d_key, 1, bias=False)
        self.value = nn.Conv2d(channels, depth * self.d_value, 1, bias=False)
        self.query_norm, self.value_norm = nn.BatchNorm2d(heads * d_key), nn.BatchNorm2d(depth * self.d_value)
        self.position = nn.Conv2d(depth, d_key, receptive, padding=receptive // 2, bias=position_bias)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b o h w"]:
        """Apply the lambda of each pixel to its queries."""
        h, w = x.shape[2:]
        q = self.query_norm(self.query(x)).reshape(-1, self.heads, self.d_key, h * w)
        k = torch.softmax(self.key(x).reshape(-1, self.depth, self.d_key, h * w), -1)
        values = self.value_norm(self.value(x))
        v = values.reshape(-1, self.depth, self.d_value, h * w)
        content = (k @ v.transpose(2, 3)).sum(1)  # b k d
        planes = v.transpose(1, 2).reshape(-1, self.depth, h, w)  # each channel of the values is an image of its own
        position = self.position(planes).reshape(-1, self.d_value, self.d_key, h * w).permute(0, 3, 2, 1)
        mixed: Tensor = q.permute(0, 3, 1, 2) @ (content.unsqueeze(1) + position)  # b n h d
        return mixed.flatten(2).transpose(1, 2).reshape(-1, self.heads * self.d_value, h, w)


MECHANISM = Spec(
    paper=Paper(
        "LambdaNetworks: Modeling Long-Range Interactions Without Attention", "Bello", "ICLR 2021", "2102.08602"
    ),
    build=LambdaLayer,
    tasks=("classification", "detection"),
    inputs=(Input("x", ("b", "channels", "h", "w")),),
    dynamic=(Dim("b"), Dim("h"), Dim("w")),
    presets={
        "test": Preset({"channels": 16, "d_key": 6, "receptive": 5}, {"h": 6, "w": 7}),
        "readme": Preset({"channels": 128}, {"h": 14, "w": 14}),
    },
    variants={
        "deep": Preset({"channels": 8, "outputs": 12, "heads": 2, "depth": 2, "receptive": 3}, {"h": 6, "w": 7}),
    },
)
