"""Non-local block: each pixel becomes a weighted mean of all, by how alike they are.

f = softmax_j(θ(x_i)ᵀ φ(x_j))                     embedded Gaussian; Gaussian has no θ and φ
f = θ(x_i)ᵀ φ(x_j) / n                            dot product
f = relu(w_θᵀ θ(x_i) + w_φᵀ φ(x_j)) / n           concatenation
y = x + norm(W Σ_j f(x_i, x_j) g(x_j))            b c h w; j over the map, or over its maxima in 2 × 2 squares
"""

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms._layers.heads import attend
from attn_export.mechanisms.spec import Dim, Input, Paper, Preset, Spec

Pair = Literal["embedded", "gaussian", "dot", "concatenation"]


class NonLocal(nn.Module):
    """Attention over all pixels of a map, with one head and a residual.

    Args:
        channels: of the map.
        hidden: channels of the embeddings; half of ``channels`` unless given.
        pair: how two pixels are compared.
        pool: look at the maxima of 2 × 2 squares instead of at every pixel.
        norm: a batch norm behind the last projection.

    Raises:
        ValueError: ``hidden`` is not positive or ``pair`` unknown.
    """

    def __init__(
        self,
        channels: int = 32,
        hidden: int | None = None,
        pair: Pair = "embedded",
        pool: bool = False,
        norm: bool = True,
    ) -> None:
        positive(channels=channels)
        super().__init__()
        hidden = channels // 2 if hidden is None else hidden
        if hidden < 1:
            raise ValueError(f"hidden must be positive; it is {hidden}")
        if pair not in get_args(Pair):
            raise ValueError(f"pair must be one of {', '.join(get_args(Pair))}; it is {pair!r}")
        self.pair, self.pool, self.channels, self.hidden = pair, pool, channels, hidden
        embedded = pair != "gaussian"
        self.query = nn.Conv2d(channels, hidden, 1) if embedded else nn.Identity()
        self.key = nn.Conv2d(channels, hidden, 1) if embedded else nn.Identity()
        self.value = nn.Conv2d(channels, hidden, 1)
        if pair == "concatenation":
            self.of_query, self.of_key = nn.Conv2d(hidden, 1, 1, bias=False), nn.Conv2d(hidden, 1, 1, bias=False)
        self.project = nn.Conv2d(hidden, channels, 1)
        self.norm = nn.BatchNorm2d(channels) if norm else nn.Identity()

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Add to each pixel what it takes from all."""
        query = self.query(x)
        key, value = self.key(x), self.value(x)
        if self.pool:
            key, value = F.max_pool2d(key, 2), F.max_pool2d(value, 2)
        if self.pair == "concatenation":
            values = value.flatten(2).transpose(1, 2)
            logits = self.of_query(query).flatten(2).transpose(1, 2) + self.of_key(key).flatten(2)
            mixed = torch.relu(logits) @ (values / values.shape[1])
        elif self.pair == "dot":  # without a softmax the products may be taken in the cheaper order
            values = value.flatten(2).transpose(1, 2)
            mixed = (query.flatten(2).transpose(1, 2) / values.shape[1]) @ (key.flatten(2) @ values)
        else:
            q, k, v = (part.flatten(2).unsqueeze(1).transpose(2, 3) for part in (query, key, value))  # one head
            mixed = attend(q, k, v, scale=1.0)
        maps = mixed.transpose(-2, -1).reshape(-1, self.hidden, *x.shape[2:])
        y: Tensor = x + self.norm(self.project(maps))
        return y


MECHANISM = Spec(
    paper=Paper("Non-local Neural Networks", "Wang et al.", "CVPR 2018", "1711.07971"),
    build=NonLocal,
    tasks=("detection", "video"),
    inputs=(Input("x", ("b", "channels", "h", "w")),),
    dynamic=(Dim("b"), Dim("h", min=2), Dim("w", min=2)),
    presets={
        "test": Preset({"channels": 16}, {"h": 6, "w": 7}),
        "readme": Preset({"channels": 256, "pool": True}, {"h": 14, "w": 14}),
    },
    variants={
        "pooled": Preset({"channels": 16, "pool": True}, {"h": 6, "w": 7}),
        "gaussian": Preset({"channels": 8, "pair": "gaussian"}, {"h": 6, "w": 7}),
        "dot": Preset({"channels": 16, "pair": "dot"}, {"h": 6, "w": 7}),
        "concatenation": Preset({"channels": 16, "pair": "concatenation"}, {"h": 6, "w": 7}),
    },
)
