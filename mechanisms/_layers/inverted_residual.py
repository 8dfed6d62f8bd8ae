"""Inverted bottleneck of MobileNetV3: widen, filter each channel, gate the channels by a hard sigmoid, narrow."""

from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.channel_gate import ChannelGate
from attn_export.mechanisms._layers.checks import positive


def rounded(channels: float, divisor: int = 8) -> int:
    """Round to a multiple of ``divisor``, and by no more than a tenth down.

    >>> rounded(16 * 0.25), rounded(72 * 0.25), rounded(11)
    (8, 24, 16)
    """
    nearest = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return nearest if nearest >= 0.9 * channels else nearest + divisor


class InvertedResidual(nn.Module):
    """One block.

    Args:
        inputs: channels.
        wide: channels in the middle.
        outputs: channels.
        kernel: side of the depth-wise kernel.
        stride: of the depth-wise convolution.
        gate: whether there is a gate, of a quarter of the middle's channels.
        activation: behind the first two convolutions.
        norms: batch norms behind the first two convolutions, or biases in them.

    Raises:
        ValueError: ``kernel`` is even.
    """

    def __init__(
        self,
        inputs: int = 8,
        wide: int = 32,
        outputs: int = 8,
        kernel: int = 3,
        stride: int = 1,
        gate: bool = True,
        activation: type[nn.Module] = nn.Hardswish,
        norms: bool = True,
    ) -> None:
        positive(inputs=inputs, wide=wide, outputs=outputs, kernel=kernel, stride=stride)
        super().__init__()
        if kernel % 2 == 0:
            raise ValueError(f"kernel must be odd; got {kernel}")

        def unit(before: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Module:
            convolution = nn.Conv2d(before, wide, kernel, stride, kernel // 2, groups=groups, bias=not norms)
            return nn.Sequential(convolution, nn.BatchNorm2d(wide) if norms else nn.Identity(), activation())

        self.expand = unit(inputs, 1) if wide != inputs else nn.Sequential()
        self.filter = unit(wide, kernel, stride, wide)
        self.gate = ChannelGate(wide, rounded(wide / 4), hard=True) if gate else nn.Identity()
        self.project = nn.Sequential(nn.Conv2d(wide, outputs, 1, bias=False), nn.BatchNorm2d(outputs))
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b o i j"]:
        """Widen, filter, gate, narrow."""
        y: Tensor = self.project(self.gate(self.filter(self.expand(x))))
        return y + x if self.residual else y
