"""Every block of the literature collapses as far as it should and no further, exactly, at every size."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import fx, nn

from attn_export.reparam.fuse_torch import fuse_module
from tests.reparam.blocks import BLOCKS, REFUSED, Block, wake

_ALL = [*BLOCKS, *REFUSED]


def count(model: nn.Module) -> Counter[str]:
    """Count what is left, by the names of PyTorch."""
    assert isinstance(model, fx.GraphModule)
    found: Counter[str] = Counter()
    for node in model.graph.nodes:
        if node.op == "call_module":
            found[type(model.get_submodule(str(node.target))).__name__] += 1
        elif node.op == "call_function":
            found[str(getattr(node.target, "__name__", node.target)).split(".")[0]] += 1
    return found


def left(model: nn.Module) -> tuple[int, int, int, int]:
    """Convolutions, linears, scalings and norms, poolings."""
    found = count(model)
    convs = sum(n for k, n in found.items() if k.lower().startswith("conv"))
    affines = found["mul"] + found["_native_batch_norm_legit_no_training"] + found["div"]
    return convs, found["linear"] + found["Linear"], affines, found["avg_pool2d"]


def build(block: Block) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(3)
    return wake(block.build()), torch.randn(block.shape)


@pytest.mark.parametrize("block", _ALL, ids=lambda block: block.name)
def test_collapses_as_it_should(block: Block) -> None:
    module, x = build(block)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    fusion = fuse_module(module, (x,))
    assert left(fusion.model) == (block.convs, block.linears, block.affines + block.products, block.pools)
    assert fusion.certificate.worst <= 1e-13, fusion.certificate
    assert all(site.structure for site in fusion.sites), fusion.sites
    assert all(site.error is not None and site.error <= 1e-13 for site in fusion.sites)
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    if block in REFUSED and block.says_why:
        assert fusion.refusals, "a refusal says why"
