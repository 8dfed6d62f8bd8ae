"""Networks of a user's, for the command line to load."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Net(nn.Module):
    """Two convolutions with batch norm."""

    def __init__(self, channels: int = 8) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, 4, 1, bias=False),
            nn.BatchNorm2d(4),
        )

    def forward(self, image: Tensor) -> Tensor:
        return self.body(image)


def build() -> Net:
    return Net(6)


class Baked(nn.Module):
    """Holds on to the batch size it was traced with."""

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(int(x.shape[0]), -1) * 2


class Two(nn.Module):
    """Gives two outputs."""

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return x + y, x @ y.transpose(-1, -2)


class Crash(nn.Module):
    """Does not run."""

    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError("no such luck")


class Breaks(nn.Module):
    """Runs, but cannot be exported: what it does depends on the data."""

    def forward(self, x: Tensor) -> Tensor:
        return x if bool((x.sum() > 0).item()) else -x


number = 3
ready = nn.Sequential(nn.Conv2d(3, 2, 1), nn.Hardswish())
torch.set_num_threads(1)


class Silent(nn.Module):
    """Gives nothing but zeros, so that any check on it is vacuous."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(-torch.relu(x))
