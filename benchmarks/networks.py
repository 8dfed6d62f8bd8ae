"""Whole networks to measure fusing on, written from their papers; sizes as published unless the name says "like"."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def conv_bn(
    cin: int, cout: int, kernel: int = 1, stride: int = 1, groups: int = 1, padding: int | None = None
) -> nn.Sequential:
    """Build a convolution without bias, and its batch norm."""
    pad = kernel // 2 if padding is None else padding
    return nn.Sequential(nn.Conv2d(cin, cout, kernel, stride, pad, 1, groups, bias=False), nn.BatchNorm2d(cout))


class Branches(nn.Module):
    """Equal k×k branches, a 1×1 beside them, identity where shapes allow, all with batch norms; then relu.

    One branch is RepVGG (Ding et al. 2021), several are MobileOne (Vasu et al. 2023).
    """

    def __init__(
        self,
        cin: int,
        cout: int,
        kernel: int = 3,
        stride: int = 1,
        groups: int = 1,
        count: int = 1,
        *,
        act: bool = True,
    ) -> None:
        super().__init__()
        self.convs = nn.ModuleList(conv_bn(cin, cout, kernel, stride, groups) for _ in range(count))
        self.one = conv_bn(cin, cout, 1, stride, groups) if kernel > 1 else None
        self.skip = nn.BatchNorm2d(cin) if cin == cout and stride == 1 else None
        self.act = nn.ReLU() if act else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Sum the branches."""
        y = self.convs[0](x)
        for conv in list(self.convs)[1:]:
            y = y + conv(x)
        if self.one is not None:
            y = y + self.one(x)
        if self.skip is not None:
            y = y + self.skip(x)
        out: Tensor = self.act(y)
        return out


class QaBlock(nn.Module):
    """QARepVGG (Chu et al. 2024): a norm after the sum, none in the 1×1 and identity branches."""

    def __init__(self, cin: int, cout: int, stride: int) -> None:
        super().__init__()
        self.conv, self.one = conv_bn(cin, cout, 3, stride), nn.Conv2d(cin, cout, 1, stride, bias=False)
        self.skip = cin == cout and stride == 1
        self.norm = nn.BatchNorm2d(cout)

    def forward(self, x: Tensor) -> Tensor:
        """Sum, normalise, activate."""
        y = self.conv(x) + self.one(x)
        return torch.relu(self.norm(y + x if self.skip else y))


class Head(nn.Module):
    """Global average, then a linear layer."""

    def __init__(self, channels: int, classes: int = 1000) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Classify."""
        out: Tensor = self.linear(x.mean((2, 3)))
        return out


def repvgg_a0(block: Callable[[int, int, int], nn.Module] | None = None) -> nn.Module:
    """RepVGG-A0: stages of 1, 2, 4, 14, 1 blocks; 48, 48, 96, 192, 1280 channels."""
    make = block or (lambda cin, cout, stride: Branches(cin, cout, 3, stride))
    layers, cin = list[nn.Module](), 3
    for cout, depth in zip((48, 48, 96, 192, 1280), (1, 2, 4, 14, 1), strict=True):
        for n in range(depth):
            layers.append(make(cin, cout, 2 if n == 0 else 1))
            cin = cout
    return nn.Sequential(*layers, Head(cin))


def qarepvgg_a0() -> nn.Module:
    """QARepVGG-A0."""
    return repvgg_a0(QaBlock)


def mobileone_s0() -> nn.Module:
    """MobileOne-S0: four over-parameterised branches; depthwise then pointwise."""
    layers: list[nn.Module] = [Branches(3, 48, 3, 2, 1, 4)]
    cin = 48
    for cout, depth in zip((48, 128, 256, 1024), (2, 8, 10, 1), strict=True):
        for n in range(depth):
            layers += [Branches(cin, cin, 3, 2 if n == 0 else 1, cin, 4), Branches(cin, cout, 1, 1, 1, 4)]
            cin = cout
    return nn.Sequential(*layers, Head(cin))


class RepMixer(nn.Module):
    """FastViT's token mixer: x + γ · (mixer(x) − norm(x))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mixer = Branches(channels, channels, 3, 1, channels, 1, act=False)
        self.norm = nn.BatchNorm2d(channels)
        self.gamma = nn.Parameter(torch.rand(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Mix tokens."""
        out: Tensor = x + self.gamma * (self.mixer(x) - self.norm(x))
        return out


class ConvFfn(nn.Module):
    """FastViT's feed-forward: depthwise 7×7 with norm, then 1×1, GELU, 1×1, with a layer scale."""

    def __init__(self, channels: int, ratio: int = 3) -> None:
        super().__init__()
        self.dw = conv_bn(channels, channels, 7, 1, channels)
        self.up, self.down = nn.Conv2d(channels, ratio * channels, 1), nn.Conv2d(ratio * channels, channels, 1)
        self.gamma = nn.Parameter(torch.rand(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Residual."""
        out: Tensor = x + self.gamma * self.down(F.gelu(self.up(self.dw(x))))
        return out


def fastvit_t8_like() -> nn.Module:
    """FastViT-T8 without its SE: over-parameterised stem, RepMixer stages, large-kernel downsampling."""
    widths, depths = (48, 96, 192, 384), (2, 2, 4, 2)
    layers: list[nn.Module] = [Branches(3, 48, 3, 2), Branches(48, 48, 3, 2, 48), Branches(48, 48, 1)]
    for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
        for _ in range(depth):
            layers += [RepMixer(width), ConvFfn(width)]
        if stage < 3:
            layers += [_Downsample(width, widths[stage + 1]), Branches(widths[stage + 1], widths[stage + 1], 1)]
    return nn.Sequential(*layers, Branches(384, 768, 3, 1, 384), Head(768))


class _Downsample(nn.Module):
    """A large strided kernel and a small one beside it."""

    def __init__(self, cin: int, cout: int) -> None:
        super().__init__()
        self.large, self.small = conv_bn(cin, cout, 7, 2, cin), conv_bn(cin, cout, 3, 2, cin)

    def forward(self, x: Tensor) -> Tensor:
        """Sum."""
        out: Tensor = F.gelu(self.large(x) + self.small(x))
        return out


class RepVitDw(nn.Module):
    """RepViT: norm(3×3-norm(x) + 1×1(x) + x), depthwise."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv, self.one = (
            conv_bn(channels, channels, 3, 1, channels),
            nn.Conv2d(channels, channels, 1, groups=channels),
        )
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Sum and normalise."""
        out: Tensor = self.norm(self.conv(x) + self.one(x) + x)
        return out


class SqueezeExcite(nn.Module):
    """A channel gate."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(channels, channels // 4, 1), nn.Conv2d(channels // 4, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Scale channels."""
        return x * torch.sigmoid(self.up(torch.relu(self.down(x.mean((2, 3), keepdim=True)))))


class RepVitMixer(nn.Module):
    """RepViT's channel mixer with its residual; batch norms behind every 1×1."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.up, self.down = conv_bn(channels, 2 * channels), conv_bn(2 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Residual."""
        out: Tensor = x + self.down(F.gelu(self.up(x)))
        return out


class AveragedHeads(nn.Module):
    """Two BN-Linear heads, averaged."""

    def __init__(self, channels: int, classes: int = 1000) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.BatchNorm1d(channels) for _ in range(2))
        self.heads = nn.ModuleList(nn.Linear(channels, classes) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """Classify twice."""
        x = x.mean((2, 3))
        out: Tensor = (self.heads[0](self.norms[0](x)) + self.heads[1](self.norms[1](x))) / 2
        return out


def repvit_m0_9_like() -> nn.Module:
    """RepViT-M0.9: 48, 96, 192, 384 channels; 2, 2, 14, 2 blocks; SE in every other one."""
    layers: list[nn.Module] = [conv_bn(3, 24, 3, 2), nn.GELU(), conv_bn(24, 48, 3, 2)]
    widths, depths = (48, 96, 192, 384), (2, 2, 14, 2)
    for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
        for n in range(depth):
            layers.append(RepVitDw(width))
            if n % 2 == 0:
                layers.append(SqueezeExcite(width))
            layers.append(RepVitMixer(width))
        if stage < 3:
            layers += [
                conv_bn(width, width, 3, 2, width),
                conv_bn(width, widths[stage + 1]),
                RepVitMixer(widths[stage + 1]),
            ]
    return nn.Sequential(*layers, AveragedHeads(384))


class RepGhostModule(nn.Module):
    """1×1, then a depthwise plus a norm of the same."""

    def __init__(self, cin: int, cout: int, *, act: bool) -> None:
        super().__init__()
        self.primary, self.cheap, self.skip = conv_bn(cin, cout), conv_bn(cout, cout, 3, 1, cout), nn.BatchNorm2d(cout)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        """Ghosts by addition."""
        y = self.primary(x)
        y = torch.relu(y) if self.act else y
        y = self.cheap(y) + self.skip(y)
        return torch.relu(y) if self.act else y


class RepGhostBottleneck(nn.Module):
    """Two ghost modules, a strided depthwise between, and a shortcut."""

    def __init__(self, cin: int, middle: int, cout: int, stride: int) -> None:
        super().__init__()
        self.first, self.second = RepGhostModule(cin, middle, act=True), RepGhostModule(middle, cout, act=False)
        self.dw = conv_bn(middle, middle, 3, stride, middle) if stride > 1 else nn.Identity()
        same = cin == cout and stride == 1
        self.shortcut = nn.Identity() if same else nn.Sequential(conv_bn(cin, cin, 3, stride, cin), conv_bn(cin, cout))

    def forward(self, x: Tensor) -> Tensor:
        """Residual."""
        out: Tensor = self.second(self.dw(self.first(x))) + self.shortcut(x)
        return out


def repghost_like() -> nn.Module:
    """RepGhostNet 1.0 without its SE."""
    rows = [(8, 16, 1), (24, 24, 2), (36, 24, 1), (36, 40, 2), (60, 40, 1), (120, 80, 2), (100, 80, 1), (92, 80, 1)]
    rows += [(92, 80, 1), (240, 112, 1), (336, 112, 1), (336, 160, 2), (480, 160, 1), (480, 160, 1), (480, 160, 1)]
    layers: list[nn.Module] = [conv_bn(3, 16, 3, 2), nn.ReLU()]
    cin = 16
    for middle, cout, stride in rows:
        layers.append(RepGhostBottleneck(cin, middle, cout, stride))
        cin = cout
    return nn.Sequential(*layers, conv_bn(160, 960), nn.ReLU(), Head(960))


class Ecb(nn.Module):
    """ECBSR's edge-oriented block (Zhang et al. 2021)."""

    def __init__(self, cin: int, cout: int, *, act: bool = True) -> None:
        super().__init__()
        self.conv, self.expand = nn.Conv2d(cin, cout, 3, padding=1), nn.Conv2d(cin, 2 * cout, 1)
        self.squeeze = nn.Conv2d(2 * cout, cout, 3)
        self.ones = nn.ModuleList(nn.Conv2d(cin, cout, 1) for _ in range(3))
        self.scales = nn.ParameterList(nn.Parameter(torch.randn(cout, 1, 1, 1) * 0.1) for _ in range(3))
        self.biases = nn.ParameterList(nn.Parameter(torch.randn(cout) * 0.1) for _ in range(3))
        sobel = torch.tensor([[1.0, 0, -1], [2, 0, -2], [1, 0, -1]])
        self.masks: Tensor
        self.register_buffer("masks", torch.stack([sobel, sobel.T, torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]])]))
        self.act = nn.PReLU(cout) if act else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Sum of the branches; the borders of the 1×1 are padded with what they make of zero."""
        y = self.conv(x) + self.squeeze(_ring(self.expand, x))
        for n, one in enumerate(self.ones):
            y = y + F.conv2d(_ring(one, x), self.scales[n] * self.masks[n], self.biases[n], groups=len(self.biases[n]))
        out: Tensor = self.act(y)
        return out


def _ring(one: nn.Module, x: Tensor) -> Tensor:
    assert isinstance(one, nn.Conv2d)
    assert one.bias is not None
    b = one.bias.view(1, -1, 1, 1)
    return F.pad(one(x) - b, (1, 1, 1, 1)) + b


class Ecbsr(nn.Module):
    """ECBSR-M4C16 for ×2 super-resolution."""

    def __init__(self, depth: int = 4, width: int = 16, factor: int = 2) -> None:
        super().__init__()
        self.body = nn.Sequential(
            Ecb(1, width), *(Ecb(width, width) for _ in range(depth)), Ecb(width, factor**2, act=False)
        )
        self.shuffle = nn.PixelShuffle(factor)

    def forward(self, x: Tensor) -> Tensor:
        """Upscale."""
        out: Tensor = self.shuffle(self.body(x) + x)
        return out


@dataclass(frozen=True)
class Network:
    """A network and the input it is measured on."""

    build: Callable[[], nn.Module]
    shape: tuple[int, ...]


_IMAGE = (1, 3, 224, 224)
NETWORKS = {
    "repvgg_a0": Network(repvgg_a0, _IMAGE),
    "qarepvgg_a0": Network(qarepvgg_a0, _IMAGE),
    "mobileone_s0": Network(mobileone_s0, _IMAGE),
    "fastvit_t8_like": Network(fastvit_t8_like, (1, 3, 256, 256)),
    "repvit_m0_9_like": Network(repvit_m0_9_like, _IMAGE),
    "repghost_like": Network(repghost_like, _IMAGE),
    "ecbsr_m4c16": Network(Ecbsr, (1, 1, 128, 128)),
}


def build(name: str, seed: int = 0) -> nn.Module:
    """Build a network with statistics that are awake, in evaluation mode."""
    torch.manual_seed(seed)
    model = NETWORKS[name].build()
    for part in model.modules():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
            assert part.running_mean is not None
            assert part.running_var is not None
            nn.init.normal_(part.running_mean, 0, 0.1)
            nn.init.uniform_(part.running_var, 0.8, 1.2)
            nn.init.uniform_(part.weight, 0.8, 1.2)
            nn.init.normal_(part.bias, 0, 0.1)
    return model.eval()
