"""Rotary position embedding: turn pairs of channels by angles that grow with the position.

(a, b) ↦ (a cos nθ_i - b sin nθ_i, a sin nθ_i + b cos nθ_i)      b h n d, θ_i = base^(-2i/d) for pair i at position n

The product of a turned query and a turned key depends on the difference of their positions only.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from attn_export.mechanisms._layers.constant import Constants
from attn_export.mechanisms.spec import Dim, Input, Paper, Preset, Spec


class RotaryEmbedding(Constants):
    """Turn queries or keys; there are no parameters.

    Args:
        d_head: channels of a head.
        length: the largest number of positions; their cosines and sines are constants.
        base: of the angles' geometric series.
        interleaved: channels 2i and 2i + 1 are a pair, as in the paper; else i and i + rotated / 2.
        rotated: how many of the channels are turned, the first ones; all unless given.

    Raises:
        ValueError: ``rotated`` is odd or not within ``d_head``, or ``length`` is not positive.
    """

    cos: Tensor
    sin: Tensor

    def __init__(
        self,
        d_head: int = 16,
        length: int = 64,
        base: float = 10000.0,
        interleaved: bool = True,
        rotated: int | None = None,
    ) -> None:
        super().__init__()
        self.rotated = d_head if rotated is None else rotated
        if self.rotated < 2 or self.rotated % 2 or self.rotated > d_head:
            raise ValueError(f"rotated must be even and at most d_head {d_head}; it is {self.rotated}")
        if length < 1:
            raise ValueError(f"length must be positive; it is {length}")
        self.d_head, self.interleaved = d_head, interleaved
        pairs = torch.arange(0, self.rotated, 2, dtype=torch.float64) / self.rotated
        angles = torch.arange(length, dtype=torch.float64)[:, None] * base**-pairs
        self.constant("cos", angles.cos())
        self.constant("sin", angles.sin())

    def forward(self, x: Float[Tensor, "b h n d"]) -> Float[Tensor, "b h n d"]:
        """Turn the tokens, the first by nothing.

        Raises:
            ValueError: there are more tokens than ``length``.
        """
        length = x.shape[2]
        if length > self.cos.shape[0]:
            raise ValueError(
                f"expected at most {self.cos.shape[0]} tokens, got {length}; build it with a larger length"
            )
        cos, sin = self.cos[:length], self.sin[:length]
        turned = x[..., : self.rotated]
        if self.interleaved:
            first, second = turned[..., 0::2], turned[..., 1::2]
            both = torch.stack((first * cos - second * sin, first * sin + second * cos), -1).flatten(-2)
        else:
            first, second = turned.chunk(2, -1)
            both = torch.cat((first * cos - second * sin, first * sin + second * cos), -1)
        return both if self.rotated == self.d_head else torch.cat((both, x[..., self.rotated :]), -1)


MECHANISM = Spec(
    paper=Paper(
        "RoFormer: Enhanced Transformer with Rotary Position Embedding",
        "Su et al.",
        "Neurocomputing 2024",
        "2104.09864",
    ),
    build=RotaryEmbedding,
    tasks=("sequence",),
    inputs=(Input("x", ("b", "heads", "n", "d_head")),),
    dynamic=(Dim("b"), Dim("heads"), Dim("n", max=64)),
    presets={
        "test": Preset({"d_head": 8}, {"heads": 3, "n": 7}),
        "readme": Preset(
            {"d_head": 64, "length": 512},
            {"heads": 8, "n": 196},
            dynamic=(Dim("b"), Dim("heads"), Dim("n", max=512)),
        ),
    },
    variants={
        "halves": Preset({"d_head": 8, "interleaved": False}, {"heads": 3, "n": 7}),
        "partial": Preset({"d_head": 8, "rotated": 4}, {"heads": 3, "n": 7}),
    },
)
