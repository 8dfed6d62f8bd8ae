"""Whoever wrote a file, fusing leaves the same convolutions: both exporters, optimised and not, and two optimisers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from benchmarks import networks
from benchmarks.producers import PRODUCERS, agree, counts
from tests.reparam.blocks import BLOCKS, wake

#: One of each kind of trouble; all blocks and the whole networks are compared by the benchmark.
CHOSEN = ("ecb-write", "shuffle", "deconv-branches")
NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int]] = {
    **{row.name: (row.build, row.shape, row.convs) for row in BLOCKS if row.name in CHOSEN},
    "repvit": (lambda: nn.Sequential(networks.RepVitDw(8), networks.RepVitMixer(8)), (2, 8, 12, 12), 3),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", NETS)
def test_all_files_of_a_net_collapse_alike(name: str) -> None:
    build, shape, left = NETS[name]
    torch.manual_seed(3)
    found = counts((wake(build()), (torch.randn(shape),)))
    assert list(found) == PRODUCERS
    assert {after for _, after in found.values()} == {left}, found
    assert agree(found)


def test_files_that_disagree_are_seen() -> None:
    assert not agree({"one": (9, 1), "other": (9, 9)})
