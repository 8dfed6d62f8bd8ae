"""Mixed depth-wise convolution: each part of the channels has kernels of a size of its own.

y = concat( D_1 ∗ x_1, …, D_g ∗ x_g )      b c h/s w/s    x = concat(x_1, …, x_g), D_i: depth-wise k_i × k_i
"""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms.spec import Dim, Input, Paper, Preset, Spec


def partition(channels: int, parts: int, kind: str) -> list[int]:
    """Sizes of the parts: equal, or each half of the one before; what is left over goes to the first.

    >>> partition(34, 4, "equal"), partition(32, 4, "exponential")
    ([10, 8, 8, 8], [16, 8, 4, 4])
    """
    if kind == "equal":
        sizes = [channels // parts] * parts
    else:
        sizes = [max(1, channels >> min(i + 1, parts - 1)) for i in range(parts)]
    return [channels - sum(sizes[1:]), *sizes[1:]]


class MixConv(nn.Module):
    """Depth-wise convolutions of several sizes side by side.

    Args:
        channels: of the map.
        kernels: sides of the kernels, one for each part of the channels.
        stride: of all.
        split: parts of equal size, or each half as large as the one before.

    Raises:
        ValueError: a kernel is even, there are more parts than channels, or ``split`` is unknown.
    """

    def __init__(
        self,
        channels: int = 16,
        kernels: Sequence[int] = (3, 5, 7),
        stride: int = 1,
        split: Literal["equal", "exponential"] = "equal",
    ) -> None:
        positive(stride=stride)
        super().__init__()
        if not kernels or any(kernel % 2 == 0 for kernel in kernels):
            raise ValueError(f"kernels must be odd, and one at least; got {tuple(kernels)}")
        if split not in ("equal", "exponential"):
            raise ValueError(f"split must be equal or exponential; got {split!r}")
        self.sizes = partition(channels, len(kernels), split)
        if min(self.sizes) < 1:
            raise ValueError(f"{channels} channels are too few for {len(kernels)} parts ({split})")
        self.convs = nn.ModuleList(
            nn.Conv2d(size, size, kernel, stride, kernel // 2, groups=size, bias=False)
            for size, kernel in zip(self.sizes, kernels, strict=True)
        )

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c i j"]:
        """Filter each part of the channels."""
        parts = torch.split(x, self.sizes, 1)
        return torch.cat([conv(part) for conv, part in zip(self.convs, parts, strict=True)], 1)


MECHANISM = Spec(
    paper=Paper("MixConv: Mixed Depthwise Convolutional Kernels", "Tan and Le", "BMVC 2019", "1907.09595"),
    build=MixConv,
    tasks=("classification", "detection"),
    inputs=(Input("x", ("b", "channels", "h", "w")),),
    dynamic=(Dim("b"), Dim("h"), Dim("w")),
    presets={
        "test": Preset({"channels": 16}, {"h": 7, "w": 9}),
        "readme": Preset({"channels": 96, "kernels": (3, 5, 7, 9)}, {"h": 28, "w": 28}),
    },
    variants={
        "exponential": Preset(
            {"channels": 16, "kernels": (3, 5, 7, 9), "stride": 2, "split": "exponential"}, {"h": 9, "w": 8}
        ),
    },
)
