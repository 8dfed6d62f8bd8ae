"""SimAM: gate each value by how far it stands out from its channel, without parameters.

d = (x - mean_hw(x))²                                b c h w
e = d / (4 (Σ_hw d / (hw - 1) + λ)) + 1/2            the inverse of the minimal energy
y = x * sigmoid(e)                                   b c h w
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms.spec import Dim, Input, Paper, Preset, Spec


class SimAM(nn.Module):
    """A gate for every value.

    Args:
        regularization: λ, added to the variance; it must not vanish in the number format used.

    Raises:
        ValueError: ``regularization`` is not positive.
    """

    def __init__(self, regularization: float = 1e-4) -> None:
        super().__init__()
        if regularization <= 0:
            raise ValueError(
                f"regularization must be positive, or a constant channel gives NaN; it is {regularization}"
            )
        self.regularization = regularization

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Scale every value by its gate."""
        centred = x - x.mean((2, 3), keepdim=True)
        squares = centred * centred
        pixels = x.shape[2] * x.shape[3]
        # From the mean, as the sum over a large map overflows float16.
        variance = squares.mean((2, 3), keepdim=True) * (pixels / (pixels - 1))
        energy = squares / (4 * (variance + self.regularization)) + 0.5
        return x * torch.sigmoid(energy)


MECHANISM = Spec(
    paper=Paper(
        "SimAM: A Simple, Parameter-Free Attention Module for Convolutional Neural Networks",
        "Yang et al.",
        "ICML 2021",
    ),
    build=SimAM,
    tasks=("classification", "detection"),
    inputs=(Input("x", ("b", "c", "h", "w")),),
    dynamic=(Dim("b"), Dim("c"), Dim("h"), Dim("w", min=2)),
    presets={
        "test": Preset({}, {"c": 32, "h": 7, "w": 9}),
        "readme": Preset({}, {"c": 64, "h": 14, "w": 14}),
    },
)
