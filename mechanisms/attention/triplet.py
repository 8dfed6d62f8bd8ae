"""Triplet attention: gate the map seen from the front, from above and from the side, and average.

z(v) = [max(v); mean(v)]                 over the first axis of a view
g(v) = sigmoid(BN(conv7(z(v))))          b 1 and the other two axes
y    = x * mean of g over the views      h c w, w h c and c h w
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms.spec import Dim, Input, Paper, Preset, Spec


class ViewGate(nn.Module):
    """A gate for the pixels of a view from the maximum and the mean along its depth.

    Raises:
        ValueError: ``kernel_size`` is even or not positive.
    """

    def __init__(self, kernel_size: int = 7) -> None:
        super().__init__()
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd; it is {kernel_size}")
        self.conv = nn.Conv2d(2, 1, kernel_size, padding=kernel_size // 2, bias=False)
        self.bn = nn.BatchNorm2d(1)

    def forward(self, pooled: Float[Tensor, "b 2 u v"]) -> Float[Tensor, "b 1 u v"]:
        """Return the gate."""
        return torch.sigmoid(self.bn(self.conv(pooled)))


class TripletAttention(nn.Module):
    """Three gates of ``2 * kernel_size ** 2`` weights each; no weight depends on the size of the map.

    Args:
        kernel_size: of the convolutions.
        spatial: keep the view from the front, the gate for the pixels.

    Raises:
        ValueError: ``kernel_size`` is even or not positive.
    """

    def __init__(self, kernel_size: int = 7, spatial: bool = True) -> None:
        super().__init__()
        self.above = ViewGate(kernel_size)
        self.side = ViewGate(kernel_size)
        self.front = ViewGate(kernel_size) if spatial else None

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Scale ``x`` by the mean of its gates."""
        # Each axis is pooled where it stands and the small gates are turned, so x itself is never transposed; the
        # gates are averaged before they meet x.
        gates = [
            self.above(_pooled(x, 2)).transpose(1, 2),  # b c 1 w
            self.side(_pooled(x, 3).transpose(2, 3)).transpose(1, 3),  # b c h 1
        ]
        if self.front is not None:
            gates.append(self.front(_pooled(x, 1)))  # b 1 h w
        share = 1 / len(gates)
        total = gates[0] * share
        for gate in gates[1:]:
            total = total + gate * share
        y: Tensor = x * total
        return y


def _pooled(x: Tensor, axis: int) -> Tensor:
    """Maximum and mean along ``axis`` as the two channels of a map of the other axes."""
    return torch.stack((x.amax(axis), x.mean(axis)), 1)


MECHANISM = Spec(
    paper=Paper("Rotate to Attend: Convolutional Triplet Attention Module", "Misra et al.", "WACV 2021", "2010.03045"),
    build=TripletAttention,
    tasks=("classification", "detection"),
    inputs=(Input("x", ("b", "c", "h", "w")),),
    dynamic=(Dim("b"), Dim("c"), Dim("h"), Dim("w")),
    presets={
        "test": Preset({}, {"c": 16, "h": 7, "w": 9}),
        "readme": Preset({}, {"c": 512, "h": 7, "w": 7}),
    },
    variants={"channel_only": Preset({"spatial": False}, {"c": 16, "h": 7, "w": 9})},
    checkpoint={
        r"^cw\.conv\.": "above.",
        r"^hc\.conv\.": "side.",
        r"^hw\.conv\.": "front.",
    },
)
