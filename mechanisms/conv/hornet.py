"""HorNet: blocks of recursive gated convolution and an MLP, in four stages of growing width. Logits.

u = x + γ₁ · gnconv(LN(x))                  b c h w
y = u + γ₂ · W2 · gelu(W1 · LN(u))          b c h w
"""

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.channel_norm import ChannelNorm
from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms._layers.dft import RealDFT2d
from attn_export.mechanisms.conv.gnconv import GnConv
from attn_export.mechanisms.spec import Dim, Input, Paper, Preset, Spec


class GlobalLocalFilter(nn.Module):
    """Half of the channels through a 3 × 3 depth-wise convolution, half through a global filter; interleaved.

    Args:
        channels: inputs and outputs.
        size: side of the map; with a global filter it is fixed.
    """

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        half = channels // 2
        self.before, self.after = ChannelNorm(channels), ChannelNorm(channels)
        self.local = nn.Conv2d(half, half, 3, padding=1, groups=half, bias=False)
        self.dft = RealDFT2d(size, size)
        self.spectrum = nn.Parameter(torch.randn(half, size, size // 2 + 1, 2) * 0.02)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Look near and far."""
        near, far = self.before(x).chunk(2, 1)
        far = self.dft.filter(far, self.spectrum[..., 0], self.spectrum[..., 1])
        y: Tensor = self.after(torch.stack((self.local(near), far), 2).flatten(1, 2))
        return y


class HorNetBlock(nn.Module):
    """One block. ``size`` is the side of the map where the view is a global filter."""

    def __init__(self, channels: int, order: int, size: int | None = None) -> None:
        super().__init__()
        view = None if size is None else partial(GlobalLocalFilter, size=size)
        self.gate_norm = ChannelNorm(channels)
        self.gate = GnConv(channels, order, view=view)  # type: ignore[arg-type]  # a partial is no type
        self.mlp_norm = nn.LayerNorm(channels, 1e-6)
        self.widen = nn.Linear(channels, 4 * channels)
        self.narrow = nn.Linear(4 * channels, channels)
        self.gate_scale = nn.Parameter(torch.full((channels,), 1e-6))
        self.mlp_scale = nn.Parameter(torch.full((channels,), 1e-6))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Gate, then the MLP, each residual."""
        u = x + self.gate_scale[:, None, None] * self.gate(self.gate_norm(x))
        v = self.narrow(F.gelu(self.widen(self.mlp_norm(u.permute(0, 2, 3, 1)))))
        y: Tensor = u + (self.mlp_scale * v).permute(0, 3, 1, 2)
        return y


class HorNet(nn.Module):
    """The whole classifier. Stages are 4, 8, 16 and 32 times smaller than the image.

    Args:
        width: channels of the first stage; each stage doubles them.
        depths: blocks of each stage.
        orders: gates of each stage's blocks.
        classes: outputs.
        filter_size: side of the image, to use global filters in the last two stages; their size is then fixed.
    """

    def __init__(
        self,
        width: int = 64,
        depths: Sequence[int] = (2, 3, 18, 2),
        orders: Sequence[int] = (2, 3, 4, 5),
        classes: int = 1000,
        filter_size: int | None = None,
    ) -> None:
        positive(width=width, classes=classes)
        super().__init__()
        widths = [width * 2**i for i in range(4)]
        downs = [nn.Sequential(nn.Conv2d(3, width, 4, 4), ChannelNorm(width))]
        downs += [nn.Sequential(ChannelNorm(c), nn.Conv2d(c, 2 * c, 2, 2)) for c in widths[:-1]]
        self.down = nn.ModuleList(downs)
        sizes = [None if filter_size is None or i < 2 else filter_size // (4 * 2**i) for i in range(4)]
        self.stages = nn.ModuleList(
            nn.Sequential(*(HorNetBlock(c, order, size) for _ in range(depth)))
            for c, order, depth, size in zip(widths, orders, depths, sizes, strict=True)
        )
        self.norm = nn.LayerNorm(widths[-1], 1e-6)
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b classes"]:
        """Classify images."""
        for down, stage in zip(self.down, self.stages, strict=True):
            x = stage(down(x))
        y: Tensor = self.head(self.norm(x.mean((2, 3))))
        return y


MECHANISM = Spec(
    paper=Paper("HorNet: Efficient High-Order Spatial Interactions", "Rao et al.", "NeurIPS 2022", "2207.14284"),
    build=HorNet,
    tasks=("classification", "detection", "segmentation"),
    inputs=(Input("x", ("b", 3, "h", "w")),),
    dynamic=(Dim("b"), Dim("h", min=32), Dim("w", min=32)),
    presets={
        "test": Preset({"width": 8, "depths": (1, 1, 1, 1), "orders": (2, 3, 4, 4), "classes": 10}, {"h": 64, "w": 64}),
        "readme": Preset({}, {"h": 224, "w": 224}),
    },
    variants={
        "filters": Preset(
            {"width": 8, "depths": (1, 1, 1, 1), "orders": (2, 2, 3, 3), "classes": 10, "filter_size": 64},
            {"h": 64, "w": 64},
            dynamic=(Dim("b"),),
        ),
    },
    checkpoint={
        r"\bproj_in\.": "enter.",
        r"\bdwconv\.": "view.",
        r"\bpws\.": "widen.",
        r"\bproj_out\.": "leave.",
        r"\bgnconv\.": "gate.",
        r"\bgamma1$": "gate_scale",
        r"\bgamma2$": "mlp_scale",
        r"\bnorm1\.": "gate_norm.",
        r"\bnorm2\.": "mlp_norm.",
        r"\bpwconv1\.": "widen.",
        r"\bpwconv2\.": "narrow.",
        r"^downsample_layers\.": "down.",
        r"\bcomplex_weight$": "spectrum",
        r"\bdw\.": "local.",
        r"\bpre_norm\.": "before.",
        r"\bpost_norm\.": "after.",
    },
)
