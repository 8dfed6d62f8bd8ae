"""Root mean square layer norm: divide each token by its root mean square, without taking a mean off.

y = x / sqrt(mean(x²) + ε) * g      b n c; with ``part`` the mean is over the first channels only

NOTE: the mean of squares runs in float32 or wider: in float16 the square of 256 overflows.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms.spec import Dim, Input, Paper, Preset, Spec


class RMSNorm(nn.Module):
    """A norm with a scale for each channel and no shift.

    Args:
        channels: of the tokens.
        part: share of the channels that the root mean square is estimated from (pRMSNorm).
        eps: added to the mean square.

    Raises:
        ValueError: ``part`` is not in (0, 1].
    """

    def __init__(self, channels: int = 32, part: float = 1.0, eps: float = 1e-6) -> None:
        positive(channels=channels)
        super().__init__()
        if not 0 < part <= 1:
            raise ValueError(f"part must lie in (0, 1]; it is {part}")
        self.seen, self.eps = max(1, round(channels * part)), eps
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        """Normalise each token."""
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        seen = wide if self.seen == x.shape[-1] else wide[..., : self.seen]
        scaled = wide / torch.sqrt((seen * seen).mean(-1, keepdim=True) + self.eps)
        return scaled.to(x.dtype) * self.weight


MECHANISM = Spec(
    paper=Paper("Root Mean Square Layer Normalization", "Zhang and Sennrich", "NeurIPS 2019", "1910.07467"),
    build=RMSNorm,
    tasks=("sequence",),
    inputs=(Input("x", ("b", "n", "channels")),),
    dynamic=(Dim("b"), Dim("n")),
    presets={
        "test": Preset({"channels": 16}, {"n": 7}),
        "readme": Preset({"channels": 512}, {"n": 196}),
    },
    variants={
        "partial": Preset({"channels": 16, "part": 0.25}, {"n": 7}),
    },
)
