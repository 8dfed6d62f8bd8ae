"""Edge-oriented convolution block: plain, widened and edge-detecting branches summed; one 3×3 when deployed.

    y = prelu( W ∗ x + W2 ∗ (W1 · x̃) + Σ_m s_m (m ∗ (V_m · x̃)) + t_m (+ x) )      b o h w
                                            m: the two Sobel filters and the Laplacian, depth-wise

x̃ is x with its border, so that behind a 1 × 1 with bias the border holds that bias; all convolutions have biases.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms._layers.constant import Constants
from attn_export.mechanisms.spec import Dim, Input, Paper, Preset, Spec

_SOBEL_X = ((1, 0, -1), (2, 0, -2), (1, 0, -1))
_SOBEL_Y = ((1, 2, 1), (0, 0, 0), (-1, -2, -1))
_LAPLACE = ((0, 1, 0), (1, -4, 1), (0, 1, 0))


class EdgeBranch(Constants):
    """A 1×1, then a fixed 3×3 in each channel with a scale and a shift that are learnt; needs a border of one."""

    mask: Tensor

    def __init__(self, channels: int, out_channels: int, mask: tuple[tuple[int, ...], ...]) -> None:
        super().__init__()
        self.mix = nn.Conv2d(channels, out_channels, 1)
        self.scale = nn.Parameter(torch.randn(out_channels, 1, 1, 1) * 1e-3)
        self.shift = nn.Parameter(torch.randn(out_channels) * 1e-3)
        self.constant("mask", torch.tensor(mask, dtype=torch.float64))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b o i j"]:
        """Mix channels and take the edges."""
        u = self.mix(x)
        return torch.conv2d(u, self.scale * self.mask, self.shift, groups=self.scale.shape[0])


class EdgeBlock(nn.Module):
    """One block of ECBSR as it is trained.

    Args:
        channels: inputs.
        out_channels: outputs; as many as inputs unless given.
        widen: how many times wider than ``out_channels`` the middle of the 1×1-3×3 branch is.
        identity: also add the input.

    Raises:
        ValueError: ``identity`` is asked for where the channels change.
    """

    def __init__(
        self, channels: int = 16, out_channels: int | None = None, widen: int = 2, identity: bool = False
    ) -> None:
        positive(channels=channels, widen=widen)
        super().__init__()
        out = channels if out_channels is None else out_channels
        if identity and out != channels:
            raise ValueError(f"the identity needs as many outputs as inputs; got {channels} and {out}")
        self.plain = nn.Conv2d(channels, out, 3)
        self.before = nn.Conv2d(channels, out * widen, 1)
        self.then = nn.Conv2d(out * widen, out, 3)
        self.edges = nn.ModuleList(EdgeBranch(channels, out, mask) for mask in (_SOBEL_X, _SOBEL_Y, _LAPLACE))
        self.activation = nn.PReLU(out)
        self.identity = identity

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b o h w"]:
        """Sum the branches."""
        wide = F.pad(x, (1, 1, 1, 1))
        y: Tensor = self.plain(wide) + self.then(self.before(wide))
        for edge in self.edges:
            y = y + edge(wide)
        out: Tensor = self.activation(y + x if self.identity else y)
        return out


MECHANISM = Spec(
    paper=Paper("Edge-oriented Convolution Block for Real-time Super Resolution", "Zhang et al.", "ACM MM 2021"),
    build=EdgeBlock,
    inputs=(Input("x", ("b", "channels", "h", "w")),),
    dynamic=(Dim("b"), Dim("h"), Dim("w")),
    presets={
        "test": Preset({"channels": 8}, {"h": 7, "w": 9}),
        "readme": Preset({"channels": 16}, {"h": 64, "w": 64}),
    },
    variants={"identity": Preset({"channels": 8, "identity": True}, {"h": 7, "w": 9})},
)
