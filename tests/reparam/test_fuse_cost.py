"""What each ``--fuse-cost`` minimises: cases where the profiles decide differently, and the table in the docs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from attn_export.reparam import fuse_module
from attn_export.reparam.planning.cost import PROFILES
from tests.reparam.blocks import Parallel, wake
from tests.reparam.test_blocks import count

DOCS = (Path(__file__).parents[2] / "docs" / "fusion.md").read_text(encoding="utf-8")


class Padded(nn.Module):
    """A padding of its own before a convolution: nodes and bytes, but no multiply-accumulate."""

    def __init__(self) -> None:
        super().__init__()
        self.pad, self.conv = nn.ZeroPad2d(1), nn.Conv2d(8, 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Pad, then convolve."""
        out: Tensor = self.conv(self.pad(x))
        return out


def branches() -> nn.Module:
    """Four depthwise kernels beside each other on two channels, then a 1×1."""
    kernels = [nn.Conv2d(2, 2, 3, padding=1, groups=2, bias=False) for _ in range(4)]
    return nn.Sequential(Parallel(*kernels, act=False), nn.Conv2d(2, 2, 1))


def nodes(module: nn.Module, shape: tuple[int, ...], profile: str) -> int:
    fusion = fuse_module(wake(module), (torch.randn(shape),), fuse_cost=profile)
    assert fusion.certificate.ok
    return count(fusion.model).total()


#: Operators left of each case, by profile.
LEFT = {
    "a padding before a convolution": (Padded, (1, 8, 32, 32), {"flops": 2, "cpu": 1, "gpu": 1, "npu": 1}),
    "four depthwise branches and a 1×1, of 2 channels": (
        branches,
        (1, 2, 96, 96),
        {"flops": 2, "cpu": 2, "gpu": 1, "npu": 1},
    ),
}


@pytest.mark.parametrize("case", LEFT)
def test_profiles_decide_differently(case: str) -> None:
    build, shape, wanted = LEFT[case]
    assert {profile: nodes(build(), shape, profile) for profile in wanted} == wanted
    assert f"| {case} | {' | '.join(map(str, wanted.values()))} |" in DOCS


def test_small_maps_are_ruled_by_the_constant() -> None:
    """What a call costs decides on few pixels: the same net then collapses for the processor, too."""
    assert (nodes(branches(), (1, 2, 96, 96), "cpu"), nodes(branches(), (1, 2, 8, 8), "cpu")) == (2, 1)


@pytest.mark.parametrize("name", PROFILES)
def test_the_docs_show_every_coefficient(name: str) -> None:
    profile = PROFILES[name]
    numbers = [profile.dense, profile.depthwise, profile.bandwidth, profile.constant, profile.lanes]
    row = next(line for line in DOCS.splitlines() if line.startswith(f"| `{name}` |"))
    cells = [cell.strip() for cell in row.strip("|").split("|")][1:6]
    assert [float(cell.replace("∞", "inf")) for cell in cells] == numbers
