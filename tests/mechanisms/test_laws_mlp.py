"""MLPs on maps whose reference vectors hold no outputs: slow forms written from their formulas."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from attn_export.mechanisms.mlp.repmlp import RepMLP
from attn_export.mechanisms.mlp.smlp import SparseMLP
from tests.mechanisms.folding import affine, agree, folded, randn, ready


def test_sparse_mlp_mixes_each_column_each_row_and_the_channels() -> None:
    module = ready(SparseMLP(5, 4, 6))
    x = randn(2, 5, 4, 6)
    down, along = torch.zeros_like(x), torch.zeros_like(x)
    for j in range(6):
        down[:, :, :, j] = x[:, :, :, j] @ module.down.weight.T + module.down.bias
    for i in range(4):
        along[:, :, i] = x[:, :, i] @ module.along.weight.T + module.along.bias
    y = torch.einsum("oc,bchw->bohw", module.fuse.weight[:, :, 0, 0], torch.cat([down, along, x], 1))
    assert agree(module(x), y + module.fuse.bias[:, None, None])


@pytest.mark.parametrize(("size", "part"), [((8, 12), (4, 4)), ((4, 6), (2, 6)), ((5, 4), (5, 4))])
def test_repmlp_connects_each_part_and_adds_what_all_parts_say(size: tuple[int, int], part: tuple[int, int]) -> None:
    channels, out, groups, kernels = 4, 6, 2, (1, 3)
    module = ready(RepMLP(channels, out, size, part, 2, groups, kernels))
    x = randn(2, channels, *size)
    (height, width), (rows, columns) = part, (size[0] // part[0], size[1] // part[1])
    places = [
        (slice(i * height, (i + 1) * height), slice(j * width, (j + 1) * width))
        for i in range(rows)
        for j in range(columns)
    ]
    y = torch.zeros(2, out, *size, dtype=torch.float64)
    scale, shift = affine(module.connect_norm)
    for image in range(2):
        parts = [x[image][:, i, j] for i, j in places]
        if rows * columns > 1:
            pool, move = affine(module.pool_norm)
            means = torch.stack([p.mean((1, 2)) * pool + move for p in parts], 1).flatten()  # [channel, part]
            hidden = torch.relu(module.squeeze.weight @ means + module.squeeze.bias)
            added = (module.excite.weight @ hidden + module.excite.bias).reshape(channels, len(parts))
            parts = [p + added[:, k, None, None] for k, p in enumerate(parts)]
        for p, (i, j) in zip(parts, places, strict=True):
            flat, weight = p.flatten(), module.connect.weight[:, :, 0, 0]
            share = len(flat) // groups
            each = [w @ flat[g * share : (g + 1) * share] for g, w in enumerate(weight.chunk(groups))]
            local = sum(folded(conv, 3)(p[None])[0] for conv in module.local)
            y[image][:, i, j] = (torch.cat(each) * scale + shift).reshape(out, height, width) + local
    assert agree(module(x), y)


def test_repmlp_is_one_matrix_on_a_single_part() -> None:
    """The merging identity: convolutions of the unit maps are the rows that the matrix lacks."""
    module = ready(RepMLP(4, 4, (3, 4), (3, 4), groups=1, kernels=(1, 3)))
    unit = torch.eye(4 * 3 * 4, dtype=torch.float64).reshape(-1, 4, 3, 4)
    offset = module(torch.zeros(1, 4, 3, 4, dtype=torch.float64)).flatten()
    matrix = module(unit).flatten(1) - offset
    x = randn(3, 4, 3, 4)
    assert agree(module(x), F.linear(x.flatten(1), matrix.T, offset).reshape(x.shape))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: RepMLP(part=(3, 4)), "part"),
        (lambda: RepMLP(6, 8, groups=4), "groups"),
        (lambda: RepMLP(kernels=(2,)), "odd"),
    ],
)
def test_what_cannot_be_is_refused(build: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
