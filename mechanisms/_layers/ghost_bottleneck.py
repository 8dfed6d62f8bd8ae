"""The frame of ghost bottlenecks and of the networks that are made of them; what a ghost module is is left open.

y = ghost₂( gate( BN(D_s ∗ ghost₁(x)) ) ) + shortcut(x)      b o h/s w/s    D_s at stride s > 1 only
z = W relu(H mean(relu(BN(L · x))))                          b classes      behind stages of bottlenecks

shortcut: the identity where shapes allow it, else depth-wise at stride s and 1 × 1, each with batch norm.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.channel_gate import ChannelGate
from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms._layers.conv_bn import ConvBN
from attn_export.mechanisms._layers.initial import he_convolutions
from attn_export.mechanisms._layers.inverted_residual import rounded

#: One row: kernel, channels in the middle, outputs, share of the gate, stride.
Row = tuple[int, int, int, float, int]


class GhostBottleneck(nn.Module):
    """Widen by one ghost module, shrink, gate, narrow by another; add the shortcut.

    Args:
        first: from the inputs to the middle.
        second: from the middle to the outputs.
        channels: inputs.
        row: the rest.
        hidden: width of the gate's hidden layer; its share, rounded to a multiple of 4, unless given.

    Raises:
        ValueError: the kernel is even, or the gate's share negative.
    """

    def __init__(self, first: nn.Module, second: nn.Module, channels: int, row: Row, hidden: int | None = None) -> None:
        super().__init__()
        kernel, middle, outputs, squeeze, stride = row
        if kernel % 2 == 0 or squeeze < 0:
            raise ValueError(f"kernel must be odd and squeeze not negative; got {kernel} and {squeeze}")
        self.first = first
        self.shrink = ConvBN(middle, middle, kernel, stride=stride, groups=middle) if stride > 1 else nn.Identity()
        hidden = rounded(middle * squeeze, 4) if hidden is None else hidden
        self.gate = ChannelGate(middle, hidden, hard=True) if squeeze else nn.Identity()
        self.second = second
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or outputs != channels:
            filtered = ConvBN(channels, channels, kernel, stride=stride, groups=channels)
            self.shortcut = nn.Sequential(filtered, ConvBN(channels, outputs))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b o i j"]:
        """Widen, shrink, gate, narrow; add the shortcut."""
        y: Tensor = self.second(self.gate(self.shrink(self.first(x)))) + self.shortcut(x)
        return y


class GhostClassifier(nn.Module):
    """A convolution at stride 2, stages of bottlenecks, and a head of two layers.

    Args:
        stages: rows of the bottlenecks.
        bottleneck: makes one of the inputs' channels, its row, and how many came before it.
        stem: channels of the first convolution.
        last: channels of the last convolution before the mean.
        hidden: channels behind the mean.
        classes: outputs.
    """

    def __init__(
        self,
        stages: Sequence[Sequence[Row]],
        bottleneck: Callable[[int, Row, int], nn.Module],
        stem: int,
        last: int,
        hidden: int,
        classes: int,
    ) -> None:
        positive(stem=stem, last=last, hidden=hidden, classes=classes)
        super().__init__()
        self.stem = nn.Sequential(ConvBN(3, stem, 3, stride=2), nn.ReLU())
        parts, channels, count = list[nn.Module](), stem, 0
        for rows in stages:
            stage = list[nn.Module]()
            for row in rows:
                stage.append(bottleneck(channels, row, count))
                channels, count = row[2], count + 1
            parts.append(nn.Sequential(*stage))
        self.blocks = nn.Sequential(*parts)
        self.last = nn.Sequential(ConvBN(channels, last), nn.ReLU())
        self.conv_head = nn.Conv2d(last, hidden, 1)
        self.classifier = nn.Linear(hidden, classes)
        he_convolutions(self)

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b classes"]:
        """Classify images."""
        mean = self.last(self.blocks(self.stem(x))).mean((2, 3), keepdim=True)
        y: Tensor = self.classifier(torch.relu(self.conv_head(mean)).flatten(1))
        return y
