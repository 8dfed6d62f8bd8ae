"""A later merge may take one output of an earlier one that has several: each value is answered for by who makes it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from attn_export.reparam import fuse_module


class Nested(nn.Module):
    """A convolution split twice, each part with a convolution of its own; one part is used as it is."""

    def __init__(self, wide: bool) -> None:
        super().__init__()
        self.enter = nn.Conv2d(4, 12, 1)
        self.parts = nn.ModuleList(nn.Conv2d(2, 2, 1, bias=False) for _ in range(3))
        self.leave = nn.Conv2d(6, 4, 3 if wide else 1, padding=int(wide))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        left, right = self.enter(x).chunk(2, 1)
        parts = [conv(part) for conv, part in zip(self.parts, left.chunk(3, 1), strict=True)]
        return self.leave(torch.cat(parts, 1)) * right[:, :4], torch.relu(parts[1])


@pytest.mark.parametrize("wide", [False, True])
def test_nested_splits_are_fused_or_left_but_never_lost(wide: bool) -> None:
    torch.manual_seed(0)
    module = Nested(wide).eval()
    x = torch.randn(2, 4, 6, 5)
    fusion = fuse_module(module, (x,))
    assert fusion.certificate.ok
    with torch.no_grad():
        for one, other in zip(module(x), fusion.model(x), strict=True):
            assert (one - other).abs().max() <= 1e-5 * one.abs().max()
