"""What people's networks are made of: layers and idioms that an exporter, a simplifier and our own checks must take."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Sizes = tuple[int, ...]


class Does(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Attends(nn.Module):
    """PyTorch's own attention, on itself."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        mixed: Tensor = self.attention(x, x, x)[0]
        return mixed


class Pyramid(nn.Module):
    """Two scales, the coarse one brought to the size of the fine one; several outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.fine, self.coarse, self.side = nn.Conv2d(4, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 2, 1), nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        fine = self.fine(x).relu()
        coarse = self.coarse(fine).relu()
        return self.side(fine) + F.interpolate(coarse, scale_factor=2.0, mode="bilinear"), coarse


class Focus(nn.Module):
    """Every other pixel to the channels, then a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(16, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.SiLU())

    def forward(self, x: Tensor) -> Tensor:
        parts = [x[..., i::2, j::2] for j in (0, 1) for i in (0, 1)]
        y: Tensor = self.layers(torch.cat(parts, 1))
        return y


class Shuffle(nn.Module):
    """Half of the channels through a convolution, then all of them mixed."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(2, 2, 3, padding=1, groups=2)

    def forward(self, x: Tensor) -> Tensor:
        left, right = x.chunk(2, 1)
        y = torch.cat([left, self.layer(right)], 1)
        n, c, h, w = y.shape
        return y.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


class Pools(nn.Module):
    """Maxima over growing windows beside each other."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(torch.cat([x, *(F.max_pool2d(x, k, 1, k // 2) for k in (3, 5, 7))], 1))
        return y


class Recurs(nn.Module):
    """One layer used three times."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        state = torch.zeros_like(x)
        for _ in range(3):
            state = torch.tanh(self.outer(x) + self.inner(state))
        return state


def _bn(layer: nn.Module, channels: int, after: nn.Module, norm: type[nn.Module] = nn.BatchNorm2d) -> nn.Module:
    return nn.Sequential(layer, norm(channels), after)


MAP, TOKENS = (4, 8, 8), (9, 16)
#: By name: the sizes of one item, and how to make the module.
NETS: dict[str, tuple[Sizes, Callable[[], nn.Module]]] = {
    # one node for what were several
    "unsqueezed thrice": ((4,), lambda: Does(lambda x: torch.sigmoid(x)[:, :, None, None, None] * 2.0)),
    "squeezed twice": (MAP, lambda: Does(lambda x: torch.sigmoid(x.mean((2, 3), keepdim=True)).squeeze(3).squeeze(2))),
    "mean of means": (MAP, lambda: Does(lambda x: x.mean(3).mean(2))),
    "padded, then pooled": (MAP, lambda: Does(lambda x: F.avg_pool2d(F.pad(x, (1, 1, 1, 1)), 3, 2))),
    "padded, then maxima": (MAP, lambda: Does(lambda x: F.max_pool2d(F.pad(x.relu(), (1, 1, 1, 1)), 3, 2))),
    "padded, then convolved": (MAP, lambda: nn.Sequential(nn.ZeroPad2d(1), nn.Conv2d(4, 8, 3))),
    "padded twice": (MAP, lambda: Does(lambda x: F.pad(F.pad(x.relu(), (1, 0, 0, 0)), (1, 0, 2, 1)) + 1)),
    "turned thrice": (MAP, lambda: Does(lambda x: x.permute(0, 2, 1, 3).permute(0, 3, 1, 2).permute(0, 1, 3, 2).exp())),
    "sliced thrice": (MAP, lambda: Does(lambda x: x[:, :, 1:7][:, :, :, 2:6][:, :, 1:4].sigmoid())),
    "joined twice": (MAP, lambda: Does(lambda x: torch.cat([torch.cat([x.relu(), x.sigmoid()], 1), x.tanh()], 1))),
    # norms and what they fold into
    "batch norm, clipped": (MAP, lambda: _bn(nn.Conv2d(4, 8, 3), 8, nn.ReLU6())),
    "batch norm first": (MAP, lambda: nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8))),
    "batch norm on a row": ((4, 32), lambda: _bn(nn.Conv1d(4, 8, 5, 2, 2), 8, nn.ReLU(), nn.BatchNorm1d)),
    "batch norm on a volume": ((2, 6, 6, 6), lambda: _bn(nn.Conv3d(2, 4, 3), 4, nn.AvgPool3d(2), nn.BatchNorm3d)),
    "batch norm on features": ((16,), lambda: _bn(nn.Linear(16, 8), 8, nn.Linear(8, 8), nn.BatchNorm1d)),
    "transposed": (MAP, lambda: _bn(nn.ConvTranspose2d(4, 6, 4, 2, 1), 6, nn.LeakyReLU())),
    "transposed in groups": (MAP, lambda: _bn(nn.ConvTranspose2d(4, 6, 3, 2, 1, 1, 2, bias=False), 6, nn.ReLU())),
    "transposed by channel": ((4, 9), lambda: _bn(nn.ConvTranspose1d(4, 4, 3, groups=4), 4, nn.ReLU(), nn.BatchNorm1d)),
    "group norm": (MAP, lambda: nn.Sequential(nn.Conv2d(4, 8, 3), nn.GroupNorm(2, 8), nn.SiLU())),
    "instance norm": (MAP, lambda: nn.Sequential(nn.Conv2d(4, 8, 3), nn.InstanceNorm2d(8, affine=True), nn.Mish())),
    "local norm": (MAP, lambda: nn.Sequential(nn.LocalResponseNorm(3), nn.Conv2d(4, 4, 3))),
    "length one": (MAP, lambda: Does(lambda x: F.normalize(x.flatten(1), dim=1))),
    "weight norm": (MAP, lambda: nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 8, 3))),
    # tokens
    "perceptron": (TOKENS, lambda: nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))),
    "perceptron, tanh": (TOKENS, lambda: nn.Sequential(nn.Linear(16, 32), nn.GELU("tanh"), nn.Linear(32, 16))),
    "encoder": (TOKENS, lambda: nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)),
    "encoder, norm first": (TOKENS, lambda: nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, norm_first=True)),
    "attention": (TOKENS, Attends),
    # pooling, sizes, padding
    "pooled to four": (MAP, lambda: nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(64, 10))),
    "pooled to one": (
        MAP,
        lambda: nn.Sequential(nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Softmax(-1)),
    ),
    "pooled, rounded up": (MAP, lambda: nn.Sequential(nn.AvgPool2d(3, 2, 1, ceil_mode=True), nn.Conv2d(4, 4, 1))),
    "maxima, rounded up": (MAP, lambda: nn.Sequential(nn.MaxPool2d(3, 2, 1, ceil_mode=True), nn.Conv2d(4, 4, 1))),
    "enlarged": (MAP, lambda: nn.Sequential(nn.Upsample(scale_factor=2, mode="bilinear"), nn.Conv2d(4, 4, 3))),
    "enlarged, corners": (MAP, lambda: nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)),
    "enlarged, nearest": (MAP, lambda: nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(4, 4, 3))),
    "pixels shuffled": (MAP, lambda: nn.Sequential(nn.Conv2d(4, 16, 3), nn.PixelShuffle(2), nn.PReLU())),
    "pixels unshuffled": (MAP, lambda: nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(16, 4, 1), nn.Softplus())),
    "reflected": (MAP, lambda: nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect")),
    "wrapped around": (MAP, lambda: nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular")),
    "dilated": (MAP, lambda: nn.Sequential(nn.Conv2d(4, 8, 3, padding=2, dilation=2), nn.Conv2d(8, 8, (1, 5)))),
    # idioms
    "pyramid": (MAP, Pyramid),
    "focus": (MAP, Focus),
    "channels shuffled": (MAP, Shuffle),
    "pools side by side": (MAP, Pools),
    "one layer thrice": ((8,), Recurs),
    "rolled and flipped": (MAP, lambda: Does(lambda x: x.roll((1, 2), (2, 3)).flip(3).transpose(2, 3).flatten(1))),
    "stacked": (MAP, lambda: Does(lambda x: torch.stack([x, x.relu(), -x], 1).amax(1) + x.std((2, 3), keepdim=True))),
    "chosen": (MAP, lambda: Does(lambda x: torch.where(x > 0, x, 0.1 * x).clamp(-2, 2) + x.abs().sqrt())),
    "gathered": (MAP, lambda: Does(lambda x: x[:, [2, 0, 1]] * x[:, 3:4])),
    "summed along": (MAP, lambda: Does(lambda x: x.cumsum(2).softmax(3).log1p())),
    "activations": (MAP, lambda: nn.Sequential(nn.Hardswish(), nn.CELU(), nn.SELU(), nn.Softsign(), nn.Hardtanh())),
}
