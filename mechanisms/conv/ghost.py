"""Ghost module: some channels by a full convolution, the others from those by cheap depth-wise filters.

u = relu(BN(W ∗ x))       b m h/s w/s              m = o / ratio, rounded up
v = relu(BN(D ∗ u))       b m·(ratio−1) h/s w/s    depth-wise, ratio − 1 kernels a channel
y = concat(u, v)[: o]     b o h/s w/s
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms._layers.conv_bn import ConvBN
from attn_export.mechanisms.spec import Dim, Input, Paper, Preset, Spec


class GhostModule(nn.Module):
    """A convolution, and filters of what it gives, side by side.

    Args:
        channels: inputs.
        out_channels: outputs.
        kernel: side of the full kernel.
        ratio: one in ``ratio`` channels comes from the full convolution.
        cheap: side of the depth-wise kernel.
        stride: of the full convolution.
        activation: ReLUs behind both; the second module of a ghost bottleneck has none.

    Raises:
        ValueError: ``ratio`` is below 2, or a kernel is even.
    """

    def __init__(
        self,
        channels: int = 16,
        out_channels: int = 24,
        kernel: int = 1,
        ratio: int = 2,
        cheap: int = 3,
        stride: int = 1,
        activation: bool = True,
    ) -> None:
        positive(channels=channels, out_channels=out_channels, kernel=kernel, cheap=cheap, stride=stride)
        super().__init__()
        if ratio < 2 or kernel % 2 == 0 or cheap % 2 == 0:
            raise ValueError(f"ratio must be at least 2 and kernels odd; got {ratio}, {kernel} and {cheap}")
        full = -(-out_channels // ratio)
        self.primary = ConvBN(channels, full, kernel, stride=stride)
        self.cheap = ConvBN(full, full * (ratio - 1), cheap, groups=full)
        # Where ratio does not divide the outputs, a few filters too many are computed and cut off, as in the paper.
        self.surplus, self.outputs = full * ratio > out_channels, out_channels
        self.activation = activation

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b o i j"]:
        """Convolve, filter what came, and keep both."""
        u: Tensor = self._act(self.primary(x))
        y = torch.cat([u, self._act(self.cheap(u))], 1)
        return y[:, : self.outputs] if self.surplus else y

    def _act(self, x: Tensor) -> Tensor:
        return torch.relu(x) if self.activation else x


MECHANISM = Spec(
    paper=Paper("GhostNet: More Features from Cheap Operations", "Han et al.", "CVPR 2020", "1911.11907"),
    build=GhostModule,
    tasks=("classification", "detection"),
    inputs=(Input("x", ("b", "channels", "h", "w")),),
    dynamic=(Dim("b"), Dim("h"), Dim("w")),
    presets={
        "test": Preset({"channels": 16, "out_channels": 24}, {"h": 7, "w": 9}),
        "readme": Preset({"channels": 64, "out_channels": 128}, {"h": 28, "w": 28}),
    },
    variants={
        "uneven": Preset(
            {"channels": 8, "out_channels": 10, "kernel": 3, "ratio": 3, "stride": 2, "activation": False},
            {"h": 9, "w": 8},
        ),
    },
)
