"""What the laws of convolutions and of blocks leave open: MBConv tap by tap, and every block collapses when fused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from attn_export.export.sources.catalogue import from_spec
from attn_export.mechanisms import MECHANISMS
from attn_export.mechanisms.conv.mbconv import MBConv
from attn_export.reparam import fuse_module
from tests.mechanisms.folding import affine, agree, randn, ready
from tests.reparam.test_blocks import count, left


def mixed(conv: Any, x: Tensor) -> Tensor:
    """A 1×1 as the product of a matrix and the channels of each pixel."""
    y = torch.stack([(row[:, None, None] * x).sum(1) for row in conv.weight[:, :, 0, 0]], 1)
    return y if conv.bias is None else y + conv.bias[:, None, None]


def normed(norm: Any, x: Tensor) -> Tensor:
    scale, shift = affine(norm)
    return x * scale[:, None, None] + shift[:, None, None]


def filtered(conv: Any, x: Tensor, stride: int, pads: tuple[int, int, int, int]) -> Tensor:
    """A depth-wise filter one tap at a time; ``pads`` are left, right, top, bottom."""
    wide, side = F.pad(x, pads), conv.weight.shape[-1]
    rows, columns = wide.shape[2] - side + 1, wide.shape[3] - side + 1
    y = torch.zeros(*x.shape[:2], rows, columns, dtype=x.dtype)
    for i in range(side):
        for j in range(side):
            y += conv.weight[:, 0, i, j][:, None, None] * wide[:, :, i : i + rows, j : j + columns]
    return y[:, :, ::stride, ::stride]


def swish(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


def mbconv(module: Any, x: Tensor, stride: int, pads: tuple[int, int, int, int]) -> Tensor:
    u = swish(normed(module.expand_norm, mixed(module.expand, x))) if module.widens else x
    v = swish(normed(module.depthwise_norm, filtered(module.depthwise, u, stride, pads)))
    gate = mixed(module.excite, swish(mixed(module.squeeze, v.mean((2, 3), keepdim=True))))
    return normed(module.project_norm, mixed(module.project, v / (1 + torch.exp(-gate))))


@pytest.mark.parametrize("size", [(8, 9), (7, 10)])
@pytest.mark.parametrize("expand", [1, 3])
@pytest.mark.parametrize(("out", "kernel", "stride"), [(6, 3, 1), (8, 5, 1), (6, 3, 2), (8, 5, 2)])
def test_mbconv_pads_both_sides_alike(out: int, kernel: int, stride: int, expand: int, size: tuple[int, int]) -> None:
    module = ready(MBConv(6, out, expand, kernel, stride))
    x, k = randn(2, 6, *size), kernel // 2
    y = mbconv(module, x, stride, (k, k, k, k))
    assert y.shape[2:] == tuple(-(-n // stride) for n in size)
    assert agree(module(x), y + x if stride == 1 and out == 6 else y)


@pytest.mark.parametrize(
    ("size", "kernel", "pads"), [((8, 9), 3, (1, 1, 0, 1)), ((8, 9), 5, (2, 2, 1, 2)), ((7, 10), 3, (0, 1, 1, 1))]
)
def test_mbconv_pads_as_tensorflow_does_when_asked(
    size: tuple[int, int], kernel: int, pads: tuple[int, int, int, int]
) -> None:
    """At stride 2 an even size gets its odd zero behind; an odd size gets as many before as behind."""
    module = ready(MBConv(6, 8, 2, kernel, 2, tensorflow_size=size))
    x = randn(2, 6, *size)
    assert agree(module(x), mbconv(module, x, 2, pads))


# Convolutions left by fusing. Two stay where something that is not linear stands between them, or a 1×1 behind a
# depth-wise filter, which would cost more as one dense kernel.
LEFT = {
    "acnet:test": 1,
    "dbb:test": 1,
    "mobileone_block:test": 2,
    "dilated_reparam:test": 1,
    "dilated_reparam:given": 1,
    "ecb:test": 1,
    "ecb:identity": 1,
    "qarepvgg:test": 1,
    "qarepvgg:grouped": 1,
    "repghost:test": 4,
    "repghost:strided": 9,  # two pairs, one that shrinks, two of the gate, two of the shortcut: 4 + 1 + 2 + 2
    "repghost:module": 2,
    "replk:test": 3,
    "repmixer:test": 1,
    "repmixer:wide": 1,
    "repvit_block:test": 5,  # the filter, two of the gate, two of the channel mixer
    "repvit_block:halving": 6,
}


@pytest.mark.parametrize("name", LEFT)
def test_blocks_collapse_and_stay_right_at_other_sizes(name: str) -> None:
    entry, _, preset = name.partition(":")
    subject = from_spec(entry, MECHANISMS[entry], preset)
    module = subject.module.double()
    auto = torch.export.Dim.AUTO
    x = randn(2, *subject.example()["x"].shape[1:])
    fused = fuse_module(module, (x,), dynamic=({0: auto, 2: auto, 3: auto},))
    found = count(fused.model)
    assert not any("batch_norm" in kind.lower() for kind in found)
    assert left(fused.model)[0] == LEFT[name]
    assert fused.certificate.worst <= 1e-12
    other = randn(3, x.shape[1], 12, 13)
    assert agree(fused.model(other), module(other))
