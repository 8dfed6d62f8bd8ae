"""HAT-Net: attention within the squares of a grid, then of all pixels to a smaller map, then convolutions. Logits.

N is a norm of all channels and pixels together (group norm of one group)
g = N(x + A(N x))                            b c h w; A within squares of the map
u = g + softmax(q(g) k(z)ᵀ / sqrt(d)) v(z)   z = N(mean of r × r pixels of g)
x = x + W u
x = x + N(W2 silu(D ∗ silu(W1 N x)))         D depth-wise 3 × 3
the last stage has no squares: x = x + W A(N x) of all its pixels;  y = W mean(x)
"""

import re
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms._layers.hierarchical_attention import HierarchicalAttention, whole_norm
from attn_export.mechanisms.spec import Input, Paper, Preset, Spec


class HATBlock(nn.Module):
    """Attention, then an inverted bottleneck, both beside shortcuts."""

    def __init__(self, channels: int, head_channels: int, grid: int, reduction: int, expansion: int) -> None:
        super().__init__()
        wide = channels * expansion
        self.attention = HierarchicalAttention(channels, head_channels, grid, reduction)
        self.conv1 = nn.Sequential(whole_norm(channels), nn.Conv2d(channels, wide, 1, bias=False), nn.SiLU())
        self.conv2 = nn.Sequential(nn.Conv2d(wide, wide, 3, padding=1, groups=wide, bias=False), nn.SiLU())
        self.conv3 = nn.Sequential(nn.Conv2d(wide, channels, 1, bias=False), whole_norm(channels))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Mix places, then channels."""
        x = x + self.attention(x)
        y: Tensor = x + self.conv3(self.conv2(self.conv1(x)))
        return y


class HATNet(nn.Module):
    """A classifier of square images; the defaults are HAT-Net-Tiny.

    Args:
        size: of the image; its quarter is the side of the first map, which is halved from stage to stage.
        widths: channels of the stages.
        depths: blocks of the stages.
        head_channels: of a head, in all stages.
        expansions: width of the bottlenecks over the channels.
        grids: side of the squares of each stage; 1 where attention is of all pixels at once.
        reductions: how many rows and columns are one in the map that all pixels attend to.
        stem: channels of the first convolution.
        classes: outputs.

    Raises:
        ValueError: ``size`` is not a multiple of 32, a grid or a reduction does not divide its map, or
            ``head_channels`` not the channels.
    """

    def __init__(
        self,
        size: int = 224,
        widths: Sequence[int] = (48, 96, 240, 384),
        depths: Sequence[int] = (2, 2, 6, 3),
        head_channels: int = 48,
        expansions: Sequence[int] = (8, 8, 4, 4),
        grids: Sequence[int] = (8, 7, 7, 1),
        reductions: Sequence[int] = (8, 4, 2, 1),
        stem: int = 16,
        classes: int = 1000,
    ) -> None:
        positive(size=size, head_channels=head_channels, stem=stem, classes=classes)
        super().__init__()
        if size % 32:
            raise ValueError(f"size must be a multiple of 32; got {size}")
        between = list[nn.Module]()
        first = (nn.Conv2d(3, stem, 3, 2, 1), whole_norm(stem), nn.SiLU(), nn.Conv2d(stem, widths[0], 3, 2, 1))
        stages, side, before = list[nn.Module](), size // 4, widths[0]
        levels = zip(widths, depths, expansions, grids, reductions, strict=True)
        for level, (width, depth, expansion, grid, reduction) in enumerate(levels):
            if width % head_channels or side % grid or (grid > 1 and side % reduction):
                raise ValueError(
                    f"head_channels must divide widths, grids and reductions the map of {side} pixels; got "
                    f"{head_channels}, {width}, {grid} and {reduction}"
                )
            between.append(
                nn.Sequential(nn.Conv2d(before, width, 3, 2, 1), whole_norm(width)) if level else nn.Sequential(*first)
            )
            blocks = (HATBlock(width, head_channels, grid, reduction, expansion) for _ in range(depth))
            stages.append(nn.Sequential(*blocks))
            side, before = (side + 1) // 2, width
        self.between, self.stages = nn.ModuleList(between), nn.ModuleList(stages)
        self.head = nn.Linear(before, classes)

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b classes"]:
        """Classify."""
        x = image
        for shrink, stage in zip(self.between, self.stages, strict=True):
            x = stage(shrink(x))
        y: Tensor = self.head(x.mean((2, 3)))
        return y


def _numbered(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Count what is between the stages from 0."""
    names = {"conv": "0", "norm": "1"}
    pattern = re.compile(r"^ds(\d)\.(conv|norm)\.")
    return {pattern.sub(lambda m: f"between.{int(m[1]) - 1}.{names[m[2]]}.", n): value for n, value in state.items()}


MECHANISM = Spec(
    paper=Paper("Vision Transformers with Hierarchical Attention", "Liu et al.", "MIR 2024", "2106.03180"),
    build=HATNet,
    inputs=(Input("image", ("b", 3, "size", "size")),),
    presets={
        "test": Preset(
            {
                "size": 64,
                "widths": (16, 16, 24, 32),
                "depths": (1, 1, 1, 1),
                "head_channels": 8,
                "expansions": (2, 2, 2, 2),
                "grids": (4, 4, 2, 1),
                "reductions": (4, 2, 2, 1),
                "classes": 10,
            }
        ),
        "readme": Preset({"size": 224}),
    },
    convert=_numbered,
    checkpoint={
        r"\.attn\.proj_norm\.": None,
        r"^patch_embed\.": "between.0.",
        r"^blocks\.": "stages.",
        r"\.attn\.": ".attention.",
        r"^(stages\.\d+\.\d+)\.conv\.": r"\1.",
        r"^classifier\.1\.": "head.",
    },
)
