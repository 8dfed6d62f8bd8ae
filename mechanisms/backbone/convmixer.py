"""ConvMixer: patches mixed by a large depth-wise convolution, channels by a point-wise one, at one size throughout.

x = BN(gelu(P ∗ image))                   P: patch × patch at that stride
x = x + BN(gelu(D ∗ x))                   D: depth-wise k × k        depth times
x = BN(gelu(C ∗ x))                       C: 1 × 1
y = W mean(x)                             b classes
"""

import re

from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms.spec import Dim, Input, Paper, Preset, Spec


class ConvGeluNorm(nn.Sequential):
    """Convolution, GELU or ReLU, and batch norm behind it."""

    def __init__(self, convolution: nn.Conv2d, relu: bool = False) -> None:
        act = nn.ReLU() if relu else nn.GELU()
        super().__init__(convolution, act, nn.BatchNorm2d(convolution.out_channels))


class MixerBlock(nn.Module):
    """Places, beside a shortcut; then channels.

    Raises:
        ValueError: ``kernel`` is even.
    """

    def __init__(self, channels: int, kernel: int = 9, relu: bool = False) -> None:
        super().__init__()
        if kernel % 2 == 0:
            raise ValueError(f"kernel must be odd; got {kernel}")
        self.places = ConvGeluNorm(nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels), relu)
        self.channels = ConvGeluNorm(nn.Conv2d(channels, channels, 1), relu)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Mix."""
        y: Tensor = self.channels(x + self.places(x))
        return y


class ConvMixer(nn.Module):
    """A classifier; the defaults are ConvMixer-1536/20 (paper, table 1).

    Args:
        channels: throughout.
        depth: number of blocks.
        kernel: side of the depth-wise kernels.
        patch: side of the patches.
        relu: ReLU in the place of GELU, as the published 768/32 has.
        classes: outputs.
    """

    def __init__(
        self,
        channels: int = 1536,
        depth: int = 20,
        kernel: int = 9,
        patch: int = 7,
        relu: bool = False,
        classes: int = 1000,
    ) -> None:
        positive(channels=channels, depth=depth, kernel=kernel, patch=patch, classes=classes)
        super().__init__()
        self.stem = ConvGeluNorm(nn.Conv2d(3, channels, patch, patch), relu)
        self.blocks = nn.Sequential(*(MixerBlock(channels, kernel, relu) for _ in range(depth)))
        self.head = nn.Linear(channels, classes)

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b classes"]:
        """Classify images."""
        y: Tensor = self.head(self.blocks(self.stem(x)).mean((2, 3)))
        return y


def _by_place(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Name the parts of the authors' sequence (stem of three, blocks, pooling, flattening, head), and timm's."""
    last = max((int(name.split(".")[0]) for name in state if name[0].isdigit()), default=0)
    named = {}
    for name, value in state.items():
        place, _, rest = name.partition(".")
        if place.isdigit():
            start = "head" if place == str(last) else f"blocks.{int(place) - 3}" if int(place) > 2 else f"stem.{place}"
        whole = f"{start}.{rest}" if place.isdigit() else name
        new = re.sub(r"^(blocks\.\d+)\.0\.fn\.", r"\1.places.", whole)
        named[re.sub(r"^(blocks\.\d+)\.([13])\.", lambda m: f"{m[1]}.channels.{int(m[2]) - 1}.", new)] = value
    return named


MECHANISM = Spec(
    paper=Paper("Patches Are All You Need?", "Trockman and Kolter", "TMLR 2023", "2201.09792"),
    build=ConvMixer,
    inputs=(Input("x", ("b", 3, "h", "w")),),
    dynamic=(Dim("b"), Dim("h", min=8), Dim("w", min=8)),
    presets={
        "test": Preset({"channels": 16, "depth": 2, "kernel": 5, "patch": 4, "classes": 10}, {"h": 32, "w": 32}),
        "readme": Preset({"channels": 512, "depth": 12}, {"h": 224, "w": 224}),
        "convmixer_1536_20": Preset({}, {"h": 224, "w": 224}),
        "convmixer_768_32": Preset({"channels": 768, "depth": 32, "kernel": 7, "relu": True}, {"h": 224, "w": 224}),
        "convmixer_1024_20": Preset({"channels": 1024, "patch": 14}, {"h": 224, "w": 224}),
    },
    convert=_by_place,
)
