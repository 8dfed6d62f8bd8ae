"""Five networks of test size for 32×32 pictures of ten classes, each of a kind that INT8 treats in its own way.

    attn-export tests/data/trained/nets.py:RepVGG --weights tests/data/trained/repvgg.safetensors --input x:1x3x32x32

What the catalogue has is taken from it; the others are written after their papers, with nothing left out that is hard
to quantise. All halve the picture three times, to maps of 4×4.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attn_export.mechanisms.rep.mobileone_block import MobileOneBlock, OverParameterised
from attn_export.mechanisms.rep.qarepvgg import QARepVGGBlock
from attn_export.mechanisms.rep.repvgg import RepVGGBlock

CLASSES = 10


class Stack(nn.Module):
    """A stem, stages of blocks of which all but the first stage begin at stride 2, mean, linear. Logits.

    Args:
        stem: from the picture to half of its side.
        block: makes a block of its inputs, outputs and stride.
        widths: channels of the stem and of the stages.
        depths: blocks of the stages.
    """

    def __init__(
        self, stem: nn.Module, block: Callable[[int, int, int], nn.Module], widths: Sequence[int], depths: Sequence[int]
    ) -> None:
        super().__init__()
        self.stem = stem
        before, stages = widths[0], []
        for stage, (width, depth) in enumerate(zip(widths[1:], depths, strict=True)):
            blocks = [block(before if i == 0 else width, width, 2 if i == 0 and stage else 1) for i in range(depth)]
            stages.append(nn.Sequential(*blocks))
            before = width
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(before, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Classify ``b 3 32 32`` pictures: ``b 10``."""
        y: Tensor = self.head(self.stages(self.stem(x)).mean((2, 3)))
        return y


class RepVGG(Stack):
    """Three branches a block, a norm in each: what fusing makes hard to quantise."""

    def __init__(self) -> None:
        super().__init__(RepVGGBlock(3, 16, 2), RepVGGBlock, (16, 16, 32, 64), (3, 4, 3))


class QARepVGG(Stack):
    """The same with norms placed so that the sum can be quantised."""

    def __init__(self) -> None:
        super().__init__(QARepVGGBlock(3, 16, 2), QARepVGGBlock, (16, 16, 32, 64), (3, 4, 3))


class MobileOne(Stack):
    """Depth-wise and point-wise convolutions, two of each over one another."""

    def __init__(self) -> None:
        def block(channels: int, out: int, stride: int) -> nn.Module:
            return MobileOneBlock(channels, out, 3, stride, branches=2)

        super().__init__(OverParameterised(3, 16, 3, stride=2), block, (16, 32, 64, 96), (2, 4, 3))


class Bottleneck(nn.Module):
    """MobileNetV3's block: widen, filter each channel, gate the channels, narrow, and add the input where it fits.

    Args:
        channels: inputs.
        wide: of the middle.
        out: outputs.
        kernel: side of the depth-wise kernel.
        stride: of the depth-wise convolution.
        gated: whether there is a squeeze-and-excitation.
        bend: the activation.
    """

    def __init__(
        self, channels: int, wide: int, out: int, kernel: int, stride: int, *, gated: bool, bend: type[nn.Module]
    ) -> None:
        super().__init__()
        self.expand = nn.Sequential(nn.Conv2d(channels, wide, 1, bias=False), nn.BatchNorm2d(wide), bend())
        self.depthwise = nn.Sequential(
            nn.Conv2d(wide, wide, kernel, stride, kernel // 2, groups=wide, bias=False), nn.BatchNorm2d(wide)
        )
        self.squeeze = nn.Conv2d(wide, wide // 4, 1) if gated else None
        self.excite = nn.Conv2d(wide // 4, wide, 1) if gated else None
        self.bend = bend()
        self.project = nn.Sequential(nn.Conv2d(wide, out, 1, bias=False), nn.BatchNorm2d(out))
        self.residual = stride == 1 and channels == out

    def forward(self, x: Tensor) -> Tensor:
        """Widen, filter, gate, narrow: ``b c h w`` to ``b o h/s w/s``."""
        y: Tensor = self.depthwise(self.expand(x))
        if self.squeeze is not None and self.excite is not None:
            y = y * F.hardsigmoid(self.excite(torch.relu(self.squeeze(y.mean((2, 3), keepdim=True)))))
        y = self.project(self.bend(y))
        return x + y if self.residual else y


#: Of MobileNetV3's blocks: wide, out, kernel, stride, gated, activation.
_ROWS: tuple[tuple[int, int, int, int, bool, type[nn.Module]], ...] = (
    (16, 16, 3, 1, True, nn.ReLU),
    (64, 24, 3, 2, False, nn.ReLU),
    (72, 24, 3, 1, False, nn.ReLU),
    (96, 40, 5, 2, True, nn.Hardswish),
    (120, 40, 5, 1, True, nn.Hardswish),
    (120, 48, 5, 1, True, nn.Hardswish),
    (144, 48, 5, 1, True, nn.Hardswish),
)


class MobileNetV3(nn.Module):
    """Depth-wise kernels, gates and h-swish: channels of one tensor differ widely in their ranges."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.Hardswish())
        before, blocks = 16, []
        for wide, out, kernel, stride, gated, bend in _ROWS:
            blocks.append(Bottleneck(before, wide, out, kernel, stride, gated=gated, bend=bend))
            before = out
        self.blocks = nn.Sequential(*blocks)
        self.last = nn.Sequential(nn.Conv2d(before, 144, 1, bias=False), nn.BatchNorm2d(144), nn.Hardswish())
        self.head = nn.Sequential(nn.Linear(144, 96), nn.Hardswish(), nn.Linear(96, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        """Classify ``b 3 32 32`` pictures: ``b 10``."""
        y: Tensor = self.head(self.last(self.blocks(self.stem(x))).mean((2, 3)))
        return y


class Encoder(nn.Module):
    """A transformer's block with its norms in front: attention among tokens, then an MLP.

    Args:
        dim: of a token.
        heads: of the attention.
        hidden: of the MLP.
    """

    def __init__(self, dim: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.qkv, self.out = nn.LayerNorm(dim), nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))

    def forward(self, x: Tensor) -> Tensor:
        """Mix ``b n d`` tokens."""
        q, k, v = self.qkv(self.norm(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        y: Tensor = x + self.mlp(x)
        return y


class ViT(nn.Module):
    """Patches of 4×4 as tokens, four encoders, mean: LayerNorm, softmax and GELU, and a stream of residuals."""

    def __init__(self, dim: int = 48, depth: int = 4, heads: int = 3) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, dim, 4, 4)
        self.position = nn.Parameter(torch.zeros(1, 64, dim))
        self.encoders = nn.Sequential(*(Encoder(dim, heads, 3 * dim) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(dim), nn.Linear(dim, CLASSES)
        nn.init.normal_(self.position, 0, 0.1)

    def forward(self, x: Tensor) -> Tensor:
        """Classify ``b 3 32 32`` pictures: ``b 10``."""
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.position
        y: Tensor = self.head(self.norm(self.encoders(tokens)).mean(1))
        return y


#: By the name of their files.
NETS: dict[str, Callable[[], nn.Module]] = {
    "repvgg": RepVGG,
    "qarepvgg": QARepVGG,
    "mobileone": MobileOne,
    "mobilenetv3": MobileNetV3,
    "vit": ViT,
}
