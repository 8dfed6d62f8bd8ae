"""Axial image transformer: pairs of axial attentions and of convolutions on two reversible streams.

p, q = x + e_h + e_w,  the same                      b c h w each
p    = p + F(q);  q = q + G(p)                       for (F, G) = (A_h, A_w), (conv, conv), depth times
y    = (p + q) / 2                                   irreversible: one stream, x = x + F(x); x = x + G(x)
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.axial import AxisAttention
from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms.spec import Dim, Input, Paper, Preset, Source, Spec


class DeviationNorm(nn.Module):
    """Normalise the channels of each pixel.

    NOTE: ε is added to the deviation, not to the variance, as in the reversible implementation that is in use.
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(1, channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Normalise."""
        centred = x - x.mean(1, keepdim=True)
        deviation = (centred * centred).mean(1, keepdim=True).sqrt()
        return centred / (deviation + self.eps) * self.weight + self.bias


class AxialImageTransformer(nn.Module):
    """A backbone that keeps the size of the map.

    Args:
        channels: of the map.
        depth: number of blocks of four layers.
        heads: number of heads.
        d_head: channels of a head; None is ``channels // heads``.
        size: height and width of the learned position embedding; None has no positions and takes any map.
        reversible: two streams; False adds every layer to one.

    Raises:
        ValueError: ``heads`` does not divide ``channels`` and ``d_head`` is None.
    """

    def __init__(
        self,
        channels: int = 16,
        depth: int = 1,
        heads: int = 2,
        d_head: int | None = None,
        size: tuple[int, int] | None = (14, 14),
        reversible: bool = True,
    ) -> None:
        positive(channels=channels, depth=depth, heads=heads)
        super().__init__()
        self.reversible = reversible
        self.position_h = nn.Parameter(torch.randn(1, channels, size[0], 1)) if size else None
        self.position_w = nn.Parameter(torch.randn(1, channels, 1, size[1])) if size else None
        self.blocks = nn.ModuleList()
        for _ in range(depth):
            attend = (AxisAttention(channels, heads, d_head, axis, prenorm=True) for axis in (2, 3))
            self.blocks.append(nn.ModuleList(attend))
            self.blocks.append(nn.ModuleList((_convolutions(channels), _convolutions(channels))))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Run all layers; no activations are dropped or computed again, which only training gains from."""
        if self.position_h is not None and self.position_w is not None:
            x = x + self.position_h + self.position_w
        p = q = x
        for pair in self.blocks:
            assert isinstance(pair, nn.ModuleList)
            p = p + pair[0](q)
            q = (q if self.reversible else p) + pair[1](p)
            p = p if self.reversible else q
        return (p + q) * 0.5 if self.reversible else q


def _convolutions(channels: int) -> nn.Sequential:
    return nn.Sequential(
        DeviationNorm(channels),
        nn.Conv2d(channels, 4 * channels, 3, padding=1),
        nn.LeakyReLU(),
        nn.Conv2d(4 * channels, channels, 3, padding=1),
    )


MECHANISM = Spec(
    paper=Paper("Axial Attention in Multidimensional Transformers", "Ho et al.", "2019", "1912.12180"),
    build=AxialImageTransformer,
    inputs=(Input("x", ("b", "channels", "h", "w")),),
    presets={
        "test": Preset({"channels": 16, "depth": 1, "heads": 2, "size": (5, 7)}, {"h": 5, "w": 7}),
        "readme": Preset({"channels": 128, "depth": 12, "heads": 8, "size": (14, 14)}, {"h": 14, "w": 14}),
    },
    variants={
        "any_size": Preset(
            {"channels": 16, "depth": 1, "heads": 2, "size": None},
            {"h": 5, "w": 7},
            dynamic=(Dim("b"), Dim("h"), Dim("w")),
        ),
        "irreversible": Preset(
            {"channels": 16, "depth": 1, "heads": 2, "size": None, "reversible": False},
            {"h": 5, "w": 7},
            dynamic=(Dim("b"), Dim("h"), Dim("w")),
        ),
    },
    sources={
        "reversible": Source(
            "axial-attention by lucidrains, with two streams",
            shown_by=(r"^layers\.blocks\.0\.f\.net\.",),
            arguments={"reversible": True},
        ),
        "irreversible": Source(
            "axial-attention by lucidrains, with one stream",
            shown_by=(r"^layers\.blocks\.0\.0\.fn\.",),
            arguments={"reversible": False},
        ),
    },
    checkpoint={
        r"^pos_emb\.param_0$": "position_h",
        r"^pos_emb\.param_1$": "position_w",
        r"^layers\.": "",
        r"\.f\.net\.": ".0.",
        r"\.g\.net\.": ".1.",
        r"\.fn\.fn\.": ".",
        r"\.fn\.norm\.": ".norm.",
        r"\.to_q\.": ".query.",
        r"\.to_kv\.": ".key_value.",
        r"\.to_out\.": ".out.",
        r"\.g$": ".weight",
        r"\.b$": ".bias",
    },
)
