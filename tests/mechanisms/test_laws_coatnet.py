"""CoAtNet's blocks against slow forms written from the formulas."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attn_export.export.weights.randomize import randomize
from attn_export.mechanisms._layers.prenorm_mbconv import MBConv
from attn_export.mechanisms._layers.relative_transformer import TransformerBlock
from attn_export.mechanisms.attention.coatnet import CoAtNet


def ready(module: nn.Module) -> Any:
    torch.manual_seed(0)
    randomize(module)
    return module.double().eval()


def halved(x: Tensor) -> Tensor:
    return x.unfold(2, 2, 2).unfold(3, 2, 2).flatten(4).max(-1).values


@pytest.mark.parametrize("down", [False, True])
def test_transformer_block_pair_by_pair(down: bool) -> None:
    inputs = 6 if down else 8
    module = ready(TransformerBlock(inputs, 8, (2, 3), down, expansion=2, head_channels=4))
    x = torch.randn(2, inputs, 4 if down else 2, 6 if down else 3, dtype=torch.float64)
    mean, variance = x.mean(1, keepdim=True), x.var(1, correction=0, keepdim=True)
    normed = (x - mean) / torch.sqrt(variance + 1e-5)
    normed = normed * module.norm.weight[:, None, None] + module.norm.bias[:, None, None]
    short = halved(x) if down else x
    normed = halved(normed) if down else normed
    q, k, v = module.qkv(normed.flatten(2).mT).chunk(3, -1)
    table = module.bias.table.reshape(3, 5, 2)
    places = list(itertools.product(range(2), range(3)))
    mixed = torch.zeros(2, 6, 8, dtype=torch.float64)
    for b, head, i in itertools.product(range(2), range(2), range(6)):
        d, (row, column) = slice(4 * head, 4 * head + 4), places[i]
        logits = [
            q[b, i, d] @ k[b, j, d] / 2 + table[row - other_row + 1, column - other_column + 2, head]
            for j, (other_row, other_column) in enumerate(places)
        ]
        mixed[b, i, d] = torch.softmax(torch.stack(logits), 0) @ v[b, :, d]
    tokens = module.shortcut(short.flatten(2).mT) + module.project(mixed)
    tokens = tokens + module.network(tokens)
    y = module(x)
    assert y.shape == (2, 8, 2, 3)
    assert (y.flatten(2).mT - tokens).abs().max() <= 1e-12 * tokens.abs().max()


def affine(norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    return (x - norm.running_mean[:, None, None]) * scale[:, None, None] + norm.bias[:, None, None]


@pytest.mark.parametrize("down", [False, True])
def test_mbconv_layer_by_layer(down: bool) -> None:
    inputs = 6 if down else 8
    module = ready(MBConv(inputs, 8, down, 2))
    x = torch.randn(2, inputs, 4, 6, dtype=torch.float64)
    y = affine(module.norm, x)
    if down:
        y = y[:, :, ::2, ::2]
    y = F.gelu(affine(module.expand[1], torch.einsum("oc,bchw->bohw", module.expand[0].weight[:, :, 0, 0], y)))
    height, width = y.shape[2:]
    wide = F.pad(y, (1, 1, 1, 1))
    kernel = module.depth[0].weight[:, 0]
    y = sum(
        wide[:, :, i : i + height, j : j + width] * kernel[:, i, j, None, None]
        for i, j in itertools.product(range(3), range(3))
    )
    y = F.gelu(affine(module.depth[1], y))
    squeezed = F.gelu(y.mean((2, 3)) @ module.squeeze.weight[:, :, 0, 0].T + module.squeeze.bias)
    gate = torch.sigmoid(squeezed @ module.excite.weight[:, :, 0, 0].T + module.excite.bias)
    y = torch.einsum("oc,bchw->bohw", module.project.weight[:, :, 0, 0], y * gate[:, :, None, None])
    y = y + module.project.bias[:, None, None] + module.shortcut(halved(x) if down else x)
    assert (module(x) - y).abs().max() <= 1e-12 * y.abs().max()


def test_each_stage_halves_the_map() -> None:
    module = ready(CoAtNet(64, (4, 8, 8, 8, 8), (2, 1, 2, 1, 2), "CCTT", 4))
    sizes = []
    x = module.stem(torch.randn(1, 3, 64, 64, dtype=torch.float64))
    for block in module.body:
        x = block(x)
        sizes.append(x.shape[-1])
    assert sizes == [16, 8, 8, 4, 2, 2]
    assert [type(block).__name__[0] for block in module.body] == list("MMMTTT")


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"image_size": 48}, "multiple of 32"),
        ({"stages": "CTCT"}, "C, then T"),
        ({"stages": "CCXT"}, "C, then T"),
        ({"stages": "CCT"}, "stem and 3 stages"),
        ({"blocks": (1, 1, 1, 0, 1)}, "stem"),
        ({"head_channels": 7}, "divide"),
    ],
)
def test_refuses(arguments: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        CoAtNet(**arguments)
