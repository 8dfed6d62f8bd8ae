"""Class-specific residual attention: each class's mean score over the map, plus a share of its attended score.

s   = Wt x                                          b classes h w
y   = Σ_t [ mean_hw(s_t) + la * Σ_hw softmax_hw(t s_t) s_t ]    b classes, one head for each temperature t

An infinite temperature (None) attends to the maximum alone.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms.spec import Dim, Input, Paper, Preset, Spec


class ResidualAttention(nn.Module):
    """Class scores of a feature map; gives logits.

    Args:
        channels: of the feature map.
        classes: number of labels.
        la: the weight of the attended score.
        temperatures: one classifier head each; None is infinite.

    Raises:
        ValueError: there is no temperature, or one is not positive.
    """

    def __init__(
        self,
        channels: int = 32,
        classes: int = 20,
        la: float = 0.2,
        temperatures: Sequence[float | None] = (None,),
    ) -> None:
        positive(channels=channels, classes=classes)
        super().__init__()
        if not temperatures or any(t is not None and t <= 0 for t in temperatures):
            raise ValueError(f"temperatures must be positive, or None for infinite; they are {tuple(temperatures)}")
        self.la = la
        self.temperatures = tuple(temperatures)
        self.scores = nn.Conv2d(channels, classes * len(self.temperatures), 1, bias=False)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b classes"]:
        """Score the classes."""
        scores: tuple[Tensor, ...] = (self.scores(x),)
        if len(self.temperatures) > 1:
            scores = scores[0].chunk(len(self.temperatures), 1)
        logits = [s.mean((2, 3)) + self.la * _attended(s, t) for s, t in zip(scores, self.temperatures, strict=True)]
        return torch.stack(logits).sum(0) if len(logits) > 1 else logits[0]


def _attended(scores: Tensor, temperature: float | None) -> Tensor:
    if temperature is None:
        return scores.amax((2, 3))
    flat = scores.flatten(2)
    return (torch.softmax(flat * temperature, -1) * flat).sum(-1)


MECHANISM = Spec(
    paper=Paper(
        "Residual Attention: A Simple but Effective Method for Multi-Label Recognition",
        "Zhu and Wu",
        "ICCV 2021",
        "2108.02456",
    ),
    build=ResidualAttention,
    inputs=(Input("x", ("b", "channels", "h", "w")),),
    dynamic=(Dim("b"), Dim("h"), Dim("w")),
    presets={
        "test": Preset({"channels": 32, "classes": 20}, {"h": 7, "w": 9}),
        "readme": Preset({"channels": 512, "classes": 1000}, {"h": 7, "w": 7}),
    },
    variants={
        "heads": Preset({"channels": 32, "classes": 20, "temperatures": (1.0, 2.0, 4.0, None)}, {"h": 7, "w": 9}),
    },
    checkpoint={r"^fc\.": "scores."},
)
