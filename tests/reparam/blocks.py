"""Blocks that are meant to be collapsed, and some that must not be, written from their papers; test-sized.

Each row says what is left afterwards: convolutions, matrix products, norms and scalings.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Block:
    """A block, its input shape, and what is left of convolutions, linears, affine operators and poolings.

    ``products`` of two values that both vary are left too. Where a block must not collapse, a refusal ``says_why``,
    unless nothing linear stands side by side in it.
    """

    name: str
    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    convs: int = 1
    linears: int = 0
    affines: int = 0
    pools: int = 0
    dynamic: bool = True
    before: int | None = None
    products: int = 0
    says_why: bool = True


def wake(module: nn.Module, seed: int = 0) -> nn.Module:
    """Randomise every parameter and statistic, so that no value helps by being zero or one."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
                part.running_mean.normal_(0, 0.5, generator=rng)
                part.running_var.uniform_(0.5, 2, generator=rng)
        for name, parameter in module.named_parameters():
            if parameter.ndim <= 1 or "gamma" in name or "implicit" in name:
                sign = torch.where(torch.rand(parameter.shape, generator=rng) < 0.2, -1.0, 1.0)
                parameter.copy_(sign * (0.5 + torch.rand(parameter.shape, generator=rng)))
    return module.eval()


def conv_bn(
    cin: int,
    cout: int,
    kernel: int | tuple[int, int],
    stride: int = 1,
    padding: int | tuple[int, int] = 0,
    groups: int = 1,
    dilation: int = 1,
    bias: bool = False,
) -> nn.Sequential:
    """A convolution and its batch norm."""
    return nn.Sequential(nn.Conv2d(cin, cout, kernel, stride, padding, dilation, groups, bias), nn.BatchNorm2d(cout))


class Parallel(nn.Module):
    """The sum of what several branches make of one input, followed by an activation."""

    def __init__(self, *branches: nn.Module, act: bool = True) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)
        self.act = nn.ReLU() if act else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Sum in order."""
        total = self.branches[0](x)
        for branch in list(self.branches)[1:]:
            total = total + branch(x)
        return self.act(total)


def repvgg(cin: int, cout: int, stride: int = 1, groups: int = 1) -> nn.Module:
    """Ding et al. 2021: 3×3, 1×1 and, where shapes allow, identity, each with its batch norm."""
    branches: list[nn.Module] = [conv_bn(cin, cout, 3, stride, 1, groups), conv_bn(cin, cout, 1, stride, 0, groups)]
    if cin == cout and stride == 1:
        branches.append(nn.BatchNorm2d(cin))
    return Parallel(*branches)


class Crop(nn.Module):
    """Crop rows and columns from both sides."""

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.amounts = (-columns, -columns, -rows, -rows)

    def forward(self, x: Tensor) -> Tensor:
        """Crop by negative padding."""
        return F.pad(x, self.amounts)


def acnet(cin: int, cout: int, stride: int = 1, padding: int = 1) -> nn.Module:
    """Ding et al. 2019: square, vertical and horizontal kernels; without padding the thin ones see a crop."""
    if padding:
        thin = [conv_bn(cin, cout, (3, 1), stride, (1, 0)), conv_bn(cin, cout, (1, 3), stride, (0, 1))]
    else:
        thin = [
            nn.Sequential(Crop(0, 1), conv_bn(cin, cout, (3, 1), stride)),
            nn.Sequential(Crop(1, 0), conv_bn(cin, cout, (1, 3), stride)),
        ]
    return Parallel(conv_bn(cin, cout, 3, stride, padding), *thin)


class NormPad(nn.Module):
    """Batch norm, then padding with what it makes of zero, so that a padded convolution may follow a 1×1."""

    def __init__(self, channels: int, padding: int, write: bool) -> None:
        super().__init__()
        self.norm, self.padding, self.write = nn.BatchNorm2d(channels), padding, write

    def forward(self, x: Tensor) -> Tensor:
        """Pad with the norm of zero: by shifting there and back, or by writing over the border."""
        n = self.norm
        value = n.bias - n.running_mean * (n.weight / torch.sqrt(n.running_var + n.eps))
        value = value.view(1, -1, 1, 1)
        p = self.padding
        if not self.write:
            return F.pad(n(x) - value, (p, p, p, p)) + value
        y = F.pad(n(x), (p, p, p, p))
        y[:, :, :p, :] = value
        y[:, :, -p:, :] = value
        y[:, :, :, :p] = value
        y[:, :, :, -p:] = value
        return y


def dbb(cin: int, cout: int, stride: int = 1, write: bool = False) -> nn.Module:
    """Ding et al. 2021, Diverse Branch Block: k×k, 1×1, 1×1 → k×k, 1×1 → average."""
    return Parallel(
        conv_bn(cin, cout, 3, stride, 1),
        conv_bn(cin, cout, 1, stride),
        nn.Sequential(nn.Conv2d(cin, cin, 1, bias=False), NormPad(cin, 1, write), conv_bn(cin, cout, 3, stride)),
        nn.Sequential(
            nn.Conv2d(cin, cout, 1, bias=False), NormPad(cout, 1, write), nn.AvgPool2d(3, stride), nn.BatchNorm2d(cout)
        ),
    )


class Orepa(nn.Module):
    """Hu et al. 2022: the branches are squeezed into one kernel while training; one batch norm behind."""

    def __init__(self, cin: int, cout: int) -> None:
        super().__init__()
        self.origin = nn.Parameter(torch.randn(cout, cin, 3, 3) / 6)
        self.one = nn.Parameter(torch.randn(cout, cin, 1, 1) / 3)
        self.first = nn.Parameter(torch.randn(cin, cin) / 3)
        self.second = nn.Parameter(torch.randn(cout, cin, 3, 3) / 6)
        self.scale = nn.Parameter(torch.randn(4, cout))
        self.norm = nn.BatchNorm2d(cout)

    def forward(self, x: Tensor) -> Tensor:
        """Compose the kernel, convolve, normalise."""
        parts = [
            self.origin,
            F.pad(self.one, (1, 1, 1, 1)),
            torch.einsum("oihw,ij->ojhw", self.second, self.first),
            F.pad(self.one, (1, 1, 1, 1)).mean(1, keepdim=True).expand_as(self.origin),
        ]
        kernel = sum(s.view(-1, 1, 1, 1) * p for s, p in zip(self.scale, parts, strict=True))
        assert isinstance(kernel, Tensor)
        return torch.relu(self.norm(F.conv2d(x, kernel, padding=1)))


def mobileone(cin: int, cout: int, stride: int = 1, groups: int = 1, kernel: int = 3, count: int = 4) -> nn.Module:
    """Vasu et al. 2023: several equal branches, a 1×1, and identity where shapes allow."""
    branches: list[nn.Module] = [conv_bn(cin, cout, kernel, stride, kernel // 2, groups) for _ in range(count)]
    if kernel > 1:
        branches.append(conv_bn(cin, cout, 1, stride, 0, groups))
    if cin == cout and stride == 1:
        branches.append(nn.BatchNorm2d(cin))
    return Parallel(*branches)


def replknet(channels: int, large: int = 13, small: int = 5) -> nn.Module:
    """Ding et al. 2022: a large depthwise kernel and a small one beside it."""
    return Parallel(
        conv_bn(channels, channels, large, 1, large // 2, channels),
        conv_bn(channels, channels, small, 1, small // 2, channels),
    )


def unireplknet(channels: int) -> nn.Module:
    """Ding et al. 2024: a large depthwise kernel and dilated small ones."""
    pairs = [(5, 1), (7, 2), (3, 3), (3, 4), (3, 5)]
    return Parallel(
        conv_bn(channels, channels, 13, 1, 6, channels),
        *(conv_bn(channels, channels, k, 1, d * (k - 1) // 2, channels, d) for k, d in pairs),
    )


class RepVitDw(nn.Module):
    """Wang et al. 2024: norm(3×3-norm(x) + 1×1(x) + x), depthwise."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = conv_bn(channels, channels, 3, 1, 1, channels)
        self.conv1 = nn.Conv2d(channels, channels, 1, groups=channels)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Sum and normalise."""
        return self.norm(self.conv(x) + self.conv1(x) + x)


class Heads(nn.Module):
    """Two BN-Linear heads, averaged (LeViT, EfficientFormer, RepViT)."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.norm1, self.head1 = nn.BatchNorm1d(channels), nn.Linear(channels, classes)
        self.norm2, self.head2 = nn.BatchNorm1d(channels), nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Pool, then average both heads."""
        x = x.mean((2, 3))
        return (self.head1(self.norm1(x)) + self.head2(self.norm2(x))) / 2


class RepMixer(nn.Module):
    """Vasu et al. 2023, FastViT: x + γ · (mixer(x) − norm(x))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mixer = Parallel(
            conv_bn(channels, channels, 3, 1, 1, channels),
            conv_bn(channels, channels, 1, 1, 0, channels),
            nn.BatchNorm2d(channels),
            act=False,
        )
        self.norm = nn.BatchNorm2d(channels)
        self.gamma = nn.Parameter(torch.rand(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Mix tokens."""
        return x + self.gamma * (self.mixer(x) - self.norm(x))


class RepCpe(nn.Module):
    """FastViT's conditional positional encoding: x + depthwise(x)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        """Encode positions."""
        return self.conv(x) + x


class RepGhost(nn.Module):
    """Chen et al. 2022: 1×1, relu, then depthwise plus a norm of the same."""

    def __init__(self, cin: int, cout: int) -> None:
        super().__init__()
        self.primary = nn.Sequential(conv_bn(cin, cout, 1), nn.ReLU())
        self.cheap, self.skip = conv_bn(cout, cout, 3, 1, 1, cout), nn.BatchNorm2d(cout)

    def forward(self, x: Tensor) -> Tensor:
        """Generate ghosts by addition."""
        y = self.primary(x)
        return torch.relu(self.cheap(y) + self.skip(y))


class Implicit(nn.Module):
    """YOLOR, YOLOv7: a learnt vector added before a 1×1 and one multiplied behind it."""

    def __init__(self, cin: int, cout: int) -> None:
        super().__init__()
        self.implicit_a = nn.Parameter(torch.randn(1, cin, 1, 1))
        self.implicit_m = nn.Parameter(torch.randn(1, cout, 1, 1))
        self.conv = nn.Conv2d(cin, cout, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Detect."""
        return self.implicit_m * self.conv(self.implicit_a + x)


class QaRepVgg(nn.Module):
    """Chu et al. 2024: norm(norm(3×3) + 1×1 + x); variants differ in where norms stand."""

    def __init__(
        self,
        channels: int,
        norm3: bool = True,
        norm1: bool = False,
        bias: bool = False,
        skip: str = "plain",
        last: bool = True,
        stride: int = 1,
    ) -> None:
        super().__init__()
        self.conv3 = conv_bn(channels, channels, 3, stride, 1) if norm3 else nn.Conv2d(channels, channels, 3, stride, 1)
        self.conv1 = (
            conv_bn(channels, channels, 1, stride) if norm1 else nn.Conv2d(channels, channels, 1, stride, bias=bias)
        )
        self.skip: nn.Module | None = None
        if stride == 1 and skip:
            self.skip = nn.Identity() if skip == "plain" else nn.BatchNorm2d(channels)
        self.last = nn.BatchNorm2d(channels) if last else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Sum, normalise, activate."""
        y = self.conv3(x) + self.conv1(x)
        if self.skip is not None:
            y = y + self.skip(x)
        return torch.relu(self.last(y))


class Ecb(nn.Module):
    """Zhang et al. 2021, ECBSR: 3×3, 1×1 → 3×3, and 1×1 → scaled Sobel and Laplace filters."""

    def __init__(self, cin: int, cout: int, write: bool = False, skip: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(cin, cout, 3, padding=1)
        self.write, self.skip = write, skip
        wide = 2 * cout
        self.expand = nn.Conv2d(cin, wide, 1)
        self.squeeze = nn.Conv2d(wide, cout, 3)
        self.ones = nn.ModuleList(nn.Conv2d(cin, cout, 1) for _ in range(3))
        self.scales = nn.ParameterList(nn.Parameter(torch.randn(cout, 1, 1, 1)) for _ in range(3))
        self.biases = nn.ParameterList(nn.Parameter(torch.randn(cout)) for _ in range(3))
        sobel = torch.tensor([[1.0, 0, -1], [2, 0, -2], [1, 0, -1]])
        laplace = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]])
        self.register_buffer("masks", torch.stack([sobel, sobel.T, laplace]))

    def ring(self, y: Tensor, bias: Tensor) -> Tensor:
        """Pad a 1×1's result with its bias, which is what it makes of zero."""
        b = bias.view(1, -1, 1, 1)
        if not self.write:
            return F.pad(y - b, (1, 1, 1, 1)) + b
        y = F.pad(y, (1, 1, 1, 1))
        y[:, :, 0:1, :] = b
        y[:, :, -1:, :] = b
        y[:, :, :, 0:1] = b
        y[:, :, :, -1:] = b
        return y

    def forward(self, x: Tensor) -> Tensor:
        """Sum the branches."""
        y = self.conv(x) + self.squeeze(self.ring(self.expand(x), self.expand.bias))
        for one, scale, bias, mask in zip(self.ones, self.scales, self.biases, self.masks, strict=True):
            kernel = scale * mask
            y = y + F.conv2d(self.ring(one(x), one.bias), kernel, bias, groups=len(bias))
        return torch.relu(y + x if self.skip else y)


def expandnet(cin: int, cout: int, bias: bool = True) -> nn.Module:
    """Guo et al. 2020: 1×1, k×k, 1×1 for one k×k; the padding sits on the first."""
    return nn.Sequential(
        nn.Conv2d(cin, 4 * cin, 1, padding=1, bias=bias),
        nn.Conv2d(4 * cin, 4 * cout, 3, bias=bias),
        nn.Conv2d(4 * cout, cout, 1, bias=bias),
        nn.ReLU(),
    )


def vanillanet(channels: int, slope: float) -> nn.Module:
    """Chen et al. 2023: two 1×1 with an activation between whose slope goes to 1."""
    return nn.Sequential(
        conv_bn(channels, channels, 1, bias=True),
        nn.LeakyReLU(slope),
        conv_bn(channels, channels, 1, bias=True),
        nn.ReLU(),
    )


def repnext(channels: int) -> nn.Module:
    """Zhao et al. 2024: seven depthwise kernels of several shapes beside the identity."""
    kernels = [(7, 7), (3, 3), (5, 3), (3, 5), (1, 3), (3, 1), (1, 1)]
    convs = [nn.Conv2d(channels, channels, (a, b), padding=(a // 2, b // 2), groups=channels) for a, b in kernels]
    return nn.Sequential(Parallel(*convs, nn.Identity(), act=False), nn.BatchNorm2d(channels))


class LinearNorm(nn.Module):
    """LeViT: a linear layer on tokens and a batch norm over all tokens."""

    def __init__(self, cin: int, cout: int, heads: int = 1) -> None:
        super().__init__()
        self.linear, self.norm, self.heads = nn.Linear(cin, cout, bias=False), nn.BatchNorm1d(cout), heads

    def forward(self, x: Tensor) -> Tensor:
        """Flatten batch and tokens for the norm, and cut the channels into heads."""
        y = self.normed(x)
        return torch.relu(y.view(*y.shape[:2], self.heads, -1).transpose(1, 2))

    def normed(self, x: Tensor) -> Tensor:
        """Only the norm."""
        y = self.linear(x)
        out: Tensor = self.norm(y.flatten(0, 1)).reshape_as(y)
        return out


class LevitMlp(nn.Module):
    """LeViT: what a norm gives is read by a residual and by a wider linear layer with a norm of its own."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.up = LinearNorm(2 * channels, channels), LinearNorm(channels, 2 * channels)
        self.down = nn.Linear(2 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Residual."""
        y = self.first.normed(x)
        out: Tensor = y + self.down(torch.relu(self.up.normed(y)))
        return out


class ConvNext(nn.Module):
    """Liu et al. 2022: depthwise, norm, two linears on the last axis, layer scale, residual."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dw = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.up, self.down = nn.Linear(channels, 4 * channels), nn.Linear(4 * channels, channels)
        self.gamma = nn.Parameter(torch.rand(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Mix space, then channels."""
        y = self.norm(self.dw(x).permute(0, 2, 3, 1))
        y = self.gamma * self.down(F.gelu(self.up(y)))
        return x + y.permute(0, 3, 1, 2)


class StarNet(nn.Module):
    """Ma et al. 2024: the product of two linear branches; the product stays, every norm goes."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dw = conv_bn(channels, channels, 7, 1, 3, channels, bias=True)
        self.f1, self.f2 = nn.Conv2d(channels, 3 * channels, 1), nn.Conv2d(channels, 3 * channels, 1)
        self.g = conv_bn(3 * channels, channels, 1, bias=True)
        self.dw2 = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        """Multiply the branches."""
        y = self.dw(x)
        return x + self.dw2(self.g(F.relu6(self.f1(y)) * self.f2(y)))


class Affine(nn.Module):
    """HGNetV2's learnable affine: one scale and one bias behind the activation."""

    def __init__(self, cin: int, cout: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = conv_bn(cin, cout, 3, 1, 1), conv_bn(cout, cout, 1)
        self.scale, self.bias = nn.Parameter(torch.tensor([1.3])), nn.Parameter(torch.tensor([0.4]))

    def forward(self, x: Tensor) -> Tensor:
        """Scale what is activated, then mix."""
        return self.conv2(self.scale * torch.relu(self.conv1(x)) + self.bias)


class Shuffle(nn.Module):
    """ShuffleNet: grouped 1×1, channel shuffle, then a depthwise; the norm behind goes."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.first, self.dw = (
            conv_bn(channels, channels, 1, groups=groups),
            conv_bn(channels, channels, 3, 1, 1, channels),
        )
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        """Shuffle between."""
        y = torch.relu(self.first(x))
        b, c, h, w = y.shape
        y = y.view(b, self.groups, c // self.groups, h, w).transpose(1, 2).reshape(b, c, h, w)
        return self.dw(y)


_IMAGE = (2, 8, 14, 13)
BLOCKS = [
    Block("repvgg", lambda: repvgg(8, 8), _IMAGE, before=2),
    Block("repvgg-stride", lambda: repvgg(8, 12, 2), _IMAGE, before=2),
    Block("repvgg-groups", lambda: repvgg(8, 8, 1, 2), _IMAGE, before=2),
    Block("repvgg-groups-stride", lambda: repvgg(8, 16, 2, 4), _IMAGE, before=2),
    Block("acnet", lambda: acnet(8, 8), _IMAGE, before=3),
    Block("acnet-crop", lambda: acnet(8, 6, 1, 0), _IMAGE, before=3),
    Block("acnet-crop-stride", lambda: acnet(8, 6, 2, 0), _IMAGE, before=3),
    Block("acnet-stride", lambda: acnet(8, 6, 2), _IMAGE, before=3),
    Block("dbb", lambda: dbb(8, 8), _IMAGE, before=5),
    Block("dbb-stride", lambda: dbb(8, 6, 2), _IMAGE, before=5),
    Block("dbb-write", lambda: dbb(8, 8, 1, write=True), _IMAGE, before=5),
    Block("orepa", lambda: Orepa(8, 8), _IMAGE, before=1),
    Block("mobileone-dw", lambda: mobileone(8, 8, 1, 8), _IMAGE, before=5),
    Block("mobileone-dw-stride", lambda: mobileone(8, 8, 2, 8), _IMAGE, before=5),
    Block("mobileone-pw", lambda: mobileone(8, 12, 1, 1, 1), _IMAGE, before=4),
    Block("replknet", lambda: replknet(8), _IMAGE, before=2),
    Block("unireplknet", lambda: unireplknet(8), _IMAGE, before=6),
    Block("repvit-dw", lambda: RepVitDw(8), _IMAGE, before=2),
    Block("averaged-heads", lambda: Heads(8, 5), _IMAGE, convs=0, linears=1, before=0),
    Block("bn-linear", lambda: nn.Sequential(nn.BatchNorm1d(8), nn.Linear(8, 5)), (2, 8), convs=0, linears=1, before=0),
    Block("repmixer", lambda: RepMixer(8), _IMAGE, before=2),
    Block("repcpe", lambda: RepCpe(8), _IMAGE, before=1),
    Block("repghost", lambda: RepGhost(8, 8), _IMAGE, convs=2, before=2),
    Block("implicit", lambda: Implicit(8, 6), _IMAGE, before=1),
    Block("qarepvgg", lambda: QaRepVgg(8), _IMAGE, before=2),
    Block("qarepvgg-stride", lambda: QaRepVgg(8, stride=2), _IMAGE, before=2),
    Block("qarepvgg-bias", lambda: QaRepVgg(8, bias=True), _IMAGE, before=2),
    Block("qarepvgg-norm1", lambda: QaRepVgg(8, norm1=True), _IMAGE, before=2),
    Block("qarepvgg-norm3-less", lambda: QaRepVgg(8, norm3=False), _IMAGE, before=2),
    Block("qarepvgg-all-norms", lambda: QaRepVgg(8, norm1=True, skip="norm"), _IMAGE, before=2),
    Block("qarepvgg-skip-less", lambda: QaRepVgg(8, skip=""), _IMAGE, before=2),
    Block("qarepvgg-last-less", lambda: QaRepVgg(8, norm1=True, skip="norm", last=False), _IMAGE, before=2),
    Block("ecb", lambda: Ecb(8, 8), _IMAGE, before=9),
    Block("ecb-skip", lambda: Ecb(8, 8, skip=True), _IMAGE, before=9),
    Block("ecb-write", lambda: Ecb(8, 6, write=True), _IMAGE, before=9),
    Block("expandnet", lambda: expandnet(8, 8), _IMAGE, before=3),
    Block("expandnet-no-bias", lambda: expandnet(8, 6, bias=False), _IMAGE, before=3),
    Block("vanillanet-linear", lambda: vanillanet(8, 1.0), _IMAGE, before=2),
    Block("repnext", lambda: repnext(8), _IMAGE, before=7),
    Block("levit-linear", lambda: LinearNorm(8, 12), (2, 9, 8), convs=0, linears=1, before=0),
    Block("levit-heads", lambda: LinearNorm(8, 12, 3), (2, 9, 8), convs=0, linears=1, before=0),
    Block("levit-batch-1", lambda: LinearNorm(8, 12, 3), (1, 9, 8), convs=0, linears=1, before=0, dynamic=False),
    Block("levit-mlp", lambda: LevitMlp(8), (1, 9, 16), convs=0, linears=3, before=0, dynamic=False),
    Block("convnext", lambda: ConvNext(8), _IMAGE, convs=1, linears=2, before=1),
    Block("starnet", lambda: StarNet(8), _IMAGE, convs=5, before=5, products=1),
    Block("hgnet-affine", lambda: Affine(8, 8), _IMAGE, convs=2, before=2),
    Block("shuffle", lambda: Shuffle(8, 2), _IMAGE, convs=2, before=2),
    Block(
        "conv1d", lambda: nn.Sequential(nn.Conv1d(8, 8, 5, 2, 2, bias=False), nn.BatchNorm1d(8)), (2, 8, 17), before=1
    ),
]


def deconv(groups: int, **more: int) -> nn.Module:
    """A decoder's step: transposed convolution, norm, relu."""
    return nn.Sequential(
        nn.ConvTranspose2d(8, 4, 3, 2, groups=groups, bias=groups > 1, **more), nn.BatchNorm2d(4), nn.ReLU()
    )


BLOCKS += [
    Block("deconv", lambda: deconv(1), _IMAGE, before=1),
    Block("deconv-groups", lambda: deconv(2, padding=1, output_padding=1), _IMAGE, before=1),
]


class Deconvs(nn.Module):
    """Two transposed convolutions of one stride, summed, between a 1×1 without and a 1×1 with a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv2d(8, 8, 1, bias=False)
        self.a, self.b = nn.ConvTranspose2d(8, 8, 4, 2, 1), nn.ConvTranspose2d(8, 8, 2, 2, bias=False)
        self.leave = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Sum the branches."""
        y = self.enter(x)
        return self.leave(self.a(y) + self.b(y))


class Upscale(nn.Module):
    """The head of a super-resolution net: two convolutions, each with its own pixel shuffle, summed and normed."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(8, 12, 3, padding=1), nn.Conv2d(8, 12, 1)
        self.shuffle, self.norm = nn.PixelShuffle(2), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        """Sum the enlarged branches."""
        return self.norm(self.shuffle(self.a(x)) + self.shuffle(self.b(x)))


BLOCKS += [
    Block("deconv-branches", Deconvs, _IMAGE, before=4),
    Block(
        "deconv-bias-2x2", lambda: nn.Sequential(nn.ConvTranspose2d(8, 4, 2, 2), nn.BatchNorm2d(4)), _IMAGE, before=1
    ),
    Block("pixel-shuffle", Upscale, _IMAGE, before=2),
    Block(
        "upsample-then-1x1",
        lambda: nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(8, 6, 1), nn.BatchNorm2d(6)),
        _IMAGE,
        before=1,
    ),
]


class PerPixel(nn.Module):
    """A scale that differs between positions is no convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.map = nn.Parameter(torch.rand(1, 1, 14, 13) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Weigh positions."""
        return self.conv(x) * self.map


class Shared(nn.Module):
    """Two readers of one convolution: folding into both would do its work twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Read it twice, and give it out."""
        y = self.stem(x)
        return self.a(y), self.b(y), y


class RmNet(nn.Module):
    """Meng et al. 2022 reserves the input through a relu, which is not linear."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(8, 16, 3, padding=1), nn.Conv2d(16, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Reserve and merge."""
        return torch.relu(self.b(torch.relu(self.a(x))) + x)


class ChunkedDw(nn.Module):
    """InceptionNeXt: a depthwise on a quarter of the channels; a full depthwise would do more work."""

    def __init__(self) -> None:
        super().__init__()
        self.dw = nn.Conv2d(4, 4, 5, padding=2, groups=4)

    def forward(self, x: Tensor) -> Tensor:
        """Mix one quarter."""
        a, b = x.split([12, 4], 1)
        return torch.cat([a, self.dw(b)], 1)


REFUSED = [
    Block(
        "bias-then-padding", lambda: nn.Sequential(nn.Conv2d(8, 32, 1), nn.Conv2d(32, 8, 3, padding=1)), _IMAGE, convs=2
    ),
    Block(
        "pool-without-padding-count",
        lambda: nn.Sequential(nn.Conv2d(8, 32, 1, bias=False), nn.AvgPool2d(3, 1, 1, count_include_pad=False)),
        _IMAGE,
        convs=1,
        pools=1,
    ),
    Block("activation-between", lambda: vanillanet(8, 0.99), _IMAGE, convs=2, says_why=False),
    Block("per-pixel", PerPixel, _IMAGE, convs=1, affines=1, dynamic=False),
    Block("shared-producer", Shared, _IMAGE, convs=3),
    Block("rmnet", RmNet, _IMAGE, convs=2, says_why=False),
    Block("dw-then-pw", lambda: nn.Sequential(nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 8, 1)), _IMAGE, convs=2),
    Block("low-rank", lambda: nn.Sequential(nn.Conv2d(16, 2, 1), nn.Conv2d(2, 16, 1)), (2, 16, 14, 13), convs=2),
    Block("chunked-dw", ChunkedDw, (2, 16, 14, 13), convs=1, says_why=False),
]
