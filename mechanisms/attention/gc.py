"""Global context: one attention map for all queries, a bottleneck with layer norm, and the result added everywhere.

z = Σ_p softmax_p(Wk · x) x                        b 1 c, over all pixels p
t = W2 · relu(LN(W1 · z))                          b 1 c
y = x + t,  or  x * sigmoid(t),  or the product and another t added         b c h w
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms.spec import Dim, Input, Paper, Preset, Spec


class GlobalContext(nn.Module):
    """A context vector of the whole map, given to every pixel.

    Args:
        channels: of the map.
        reduction: how much narrower the bottleneck is.
        pool: ``attention`` weighs the pixels, ``mean`` takes them alike.
        fusion: ``add``, ``scale``, or ``both`` with a transform each.
        epsilon: of the layer norms; the authors' code has 1e-5, timm 1e-6.

    Raises:
        ValueError: ``reduction`` does not divide ``channels``, or ``pool`` or ``fusion`` is unknown.
    """

    def __init__(
        self,
        channels: int = 32,
        reduction: int = 16,
        pool: Literal["attention", "mean"] = "attention",
        fusion: Literal["add", "scale", "both"] = "add",
        epsilon: float = 1e-5,
    ) -> None:
        positive(channels=channels)
        super().__init__()
        if reduction < 1 or channels % reduction:
            raise ValueError(f"reduction must divide channels; {reduction} does not divide {channels}")
        if pool not in ("attention", "mean") or fusion not in ("add", "scale", "both"):
            raise ValueError(
                f"pool must be attention or mean, fusion add, scale or both; they are {pool!r}, {fusion!r}"
            )
        hidden = channels // reduction

        def transform() -> nn.Sequential:
            return nn.Sequential(
                nn.Linear(channels, hidden), nn.LayerNorm(hidden, epsilon), nn.ReLU(), nn.Linear(hidden, channels)
            )

        # NOTE: without the bias of the paper's 1 × 1 convolution; the softmax takes no notice of a shift.
        self.weigh = nn.Conv2d(channels, 1, 1, bias=False) if pool == "attention" else None
        self.add = transform() if fusion != "scale" else None
        self.scale = transform() if fusion != "add" else None

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Give the context to every pixel."""
        context = self.context(x)
        y = x
        if self.scale is not None:
            y = y * torch.sigmoid(self.scale(context)).transpose(1, 2).unsqueeze(3)
        if self.add is not None:
            y = y + self.add(context).transpose(1, 2).unsqueeze(3)
        return y

    def context(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 1 c"]:
        """Return the average pixel."""
        if self.weigh is None:
            return x.mean((2, 3)).unsqueeze(1)
        weights = torch.softmax(self.weigh(x).flatten(2), -1)
        return weights @ x.flatten(2).transpose(1, 2)


MECHANISM = Spec(
    paper=Paper(
        "GCNet: Non-local Networks Meet Squeeze-Excitation Networks and Beyond",
        "Cao et al.",
        "ICCVW 2019",
        "1904.11492",
    ),
    build=GlobalContext,
    tasks=("classification", "detection", "video"),
    inputs=(Input("x", ("b", "channels", "h", "w")),),
    dynamic=(Dim("b"), Dim("h"), Dim("w")),
    presets={
        "test": Preset({"channels": 32, "reduction": 4}, {"h": 6, "w": 7}),
        "readme": Preset({"channels": 512}, {"h": 14, "w": 14}),
    },
    variants={
        "scale": Preset({"channels": 32, "reduction": 4, "fusion": "scale", "pool": "mean"}, {"h": 6, "w": 7}),
        "both": Preset({"channels": 32, "reduction": 4, "fusion": "both"}, {"h": 6, "w": 7}),
    },
)
