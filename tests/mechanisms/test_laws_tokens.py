"""Attention among tokens: masks, sums to one, permutations, and slow forms written from the formulas."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from attn_export.mechanisms._layers.heads import masked_softmax, merge_heads, split_heads
from attn_export.mechanisms._layers.permute_mlp import by_branch
from attn_export.mechanisms.attention.a2 import DoubleAttention
from attn_export.mechanisms.attention.aft_full import AFTFull
from attn_export.mechanisms.attention.aft_simple import AFTSimple
from attn_export.mechanisms.attention.danet import DualAttention
from attn_export.mechanisms.attention.emsa import EfficientMultiHeadSelfAttention
from attn_export.mechanisms.attention.external import ExternalAttention, doubly_normalised
from attn_export.mechanisms.attention.muse import MultiScaleAttention
from attn_export.mechanisms.attention.self_attention import SelfAttention
from attn_export.mechanisms.attention.simplified_self_attention import SimplifiedSelfAttention
from attn_export.mechanisms.attention.vip import VisionPermutatorMixing
from tests.mechanisms.folding import randn, ready


def test_merging_undoes_splitting() -> None:
    x = randn(2, 5, 12)
    assert split_heads(x, 3).shape == (2, 3, 5, 4)
    assert torch.equal(merge_heads(split_heads(x, 3)), x)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_rows_sum_to_one_among_what_is_seen_and_hidden_rows_give_zero(dtype: torch.dtype) -> None:
    logits = (randn(2, 4, 6) * 8).to(dtype)
    mask = torch.rand(2, 4, 6) < 0.4
    mask[:, 1] = True
    mask[:, 2] = False
    weights = masked_softmax(logits, mask)
    assert torch.isfinite(weights).all()
    assert (weights[mask] == 0).all()
    sums = weights.double().sum(-1)
    assert torch.equal(sums[:, 1], torch.zeros(2, dtype=torch.float64))
    seen = ~mask.all(-1)
    assert (sums[seen] - 1).abs().max() <= 4 * torch.finfo(dtype).eps
    apart = torch.softmax(logits[0, 0][~mask[0, 0]].double(), -1)
    assert (weights[0, 0][~mask[0, 0]].double() - apart).abs().max() <= 4 * torch.finfo(dtype).eps


def test_self_attention_is_its_formula() -> None:
    module = SelfAttention(12, 3, d_k=2, d_v=5).double()
    q, k, v = randn(1, 4, 12), randn(1, 6, 12), randn(1, 6, 12)
    queries, keys, values = module.query(q)[0], module.key(k)[0], module.value(v)[0]
    heads = []
    for head in range(3):
        logits = queries[:, 2 * head : 2 * head + 2] @ keys[:, 2 * head : 2 * head + 2].T / 2**0.5
        heads.append(torch.softmax(logits, -1) @ values[:, 5 * head : 5 * head + 5])
    expected = module.project(torch.cat(heads, -1))
    assert (module(q, k, v)[0] - expected).abs().max() < 1e-13


def test_self_attention_commutes_with_permutations() -> None:
    module = SelfAttention(12, 3).double()
    x, order = randn(2, 7, 12), torch.randperm(7)
    y, other = module(x, x, x), x[:, order]
    assert (module(other, other, other) - y[:, order]).abs().max() < 1e-13
    assert (module(x, other, other) - y).abs().max() < 1e-13, "the order of the keys does not matter"


def test_external_attention_commutes_with_permutations() -> None:
    module = ExternalAttention(12, 5).double()
    x, order = randn(2, 7, 12), torch.randperm(7)
    assert (module(x[:, order]) - module(x)[:, order]).abs().max() < 1e-13


def test_double_normalisation_is_softmax_then_sum_and_survives_large_logits() -> None:
    logits = randn(2, 7, 5)
    once = torch.softmax(logits, 1)
    assert (doubly_normalised(logits) - once / once.sum(2, keepdim=True)).abs().max() < 1e-15
    large = doubly_normalised((logits * 1000).half())
    assert (large.double().sum(2) - 1).abs().max() < 1e-2


def test_simplified_attention_is_its_formula_and_commutes_with_permutations() -> None:
    module = ready(SimplifiedSelfAttention(12, 3))
    x, keys, values = randn(2, 4, 12), randn(2, 7, 12), randn(2, 7, 12)
    heads = [
        torch.softmax(q @ k.mT / 2, -1) @ v
        for q, k, v in zip(x.split(4, -1), keys.split(4, -1), values.split(4, -1), strict=True)
    ]
    y = module(x, keys, values)
    assert (y - module.project(torch.cat(heads, -1))).abs().max() < 1e-13
    order = torch.randperm(7)
    assert (module(x, keys[:, order], values[:, order]) - y).abs().max() < 1e-13


@pytest.mark.parametrize("build", [SelfAttention, SimplifiedSelfAttention])
def test_a_hidden_key_has_no_influence_and_a_query_that_sees_none_gives_the_bias(build: Any) -> None:
    module = ready(build(12, 3))
    x, mask = randn(2, 5, 12), torch.zeros(2, 3, 5, 5, dtype=torch.bool)
    mask[..., 4] = True
    mask[:, :, 0] = True
    changed = x.clone()
    changed[:, 4] += 3
    y = module(x, x, x, mask)
    assert torch.equal(y, module(x, changed, changed, mask))
    assert (y[:, 0] - module.project.bias).abs().max() < 1e-15


@pytest.mark.parametrize("inverted", [False, True])
def test_danet_pixel_by_pixel_and_channel_by_channel(inverted: bool) -> None:
    module = ready(DualAttention(8, 4, inverted))
    x = randn(2, 8, 3, 4)
    q, k, v = (
        torch.einsum("oc,bcn->bon", layer.weight[:, :, 0, 0], x.flatten(2)) + layer.bias[:, None]
        for layer in (module.position.query, module.position.key, module.position.value)
    )
    rows = x.flatten(2)
    positions, channels = torch.zeros_like(rows), torch.zeros_like(rows)
    for b in range(2):
        for i in range(12):
            weights = torch.softmax(torch.stack([q[b, :, i] @ k[b, :, j] for j in range(12)]), 0)
            positions[b, :, i] = sum(w * v[b, :, j] for j, w in enumerate(weights))
        for i in range(8):
            energy = torch.stack([rows[b, i] @ rows[b, j] for j in range(8)])
            weights = torch.softmax(energy.max() - energy if inverted else energy, 0)
            channels[b, i] = sum(w * rows[b, j] for j, w in enumerate(weights))
    expected = 2 * rows + module.position.gamma * positions + module.channel.gamma * channels
    assert (module(x).flatten(2) - expected).abs().max() < 1e-12


@pytest.mark.parametrize("residual", [False, True])
def test_double_attention_gathers_and_distributes(residual: bool) -> None:
    module = ready(DoubleAttention(6, 4, 3, residual))
    x = randn(2, 6, 3, 5)
    a, b, v = (layer(x).flatten(2) for layer in (module.feature, module.gather, module.distribute))
    where, which = b.exp() / b.exp().sum(2, keepdim=True), v.exp() / v.exp().sum(1, keepdim=True)
    z = torch.zeros(2, 4, 15, dtype=torch.float64)
    for descriptor in range(3):
        gathered = (a * where[:, descriptor : descriptor + 1]).sum(2)
        z += gathered[:, :, None] * which[:, descriptor : descriptor + 1]
    expected = module.project(z.reshape(2, 4, 3, 5)) + (x if residual else 0)
    assert (module(x) - expected).abs().max() < 1e-13


def test_aft_full_is_its_sum_over_pairs_and_survives_large_keys() -> None:
    module = ready(AFTFull(6, 5))
    x = randn(2, 5, 6)
    q, k, v = module.query(x), module.key(x), module.value(x)
    weights = torch.exp(k[:, None] + module.position[None, :, :, None])  # b t s c
    expected = torch.sigmoid(q) * (weights * v[:, None]).sum(2) / weights.sum(2)
    assert (module(x) - expected).abs().max() < 1e-13
    assert torch.isfinite(module.half()((x * 1000).half())).all()


def test_aft_simple_is_aft_full_without_positions() -> None:
    simple, full = ready(AFTSimple(6)), AFTFull(6, 5).double()
    full.load_state_dict(simple.state_dict(), strict=False)
    x, order = randn(2, 5, 6), torch.randperm(5)
    assert (simple(x) - full(x)).abs().max() < 1e-13
    assert (simple(x[:, order]) - simple(x)[:, order]).abs().max() < 1e-13


@pytest.mark.parametrize("ratio", [1, 2, 3])
def test_emsa_head_by_head(ratio: int) -> None:
    module = ready(EfficientMultiHeadSelfAttention(8, 2, d_k=3, d_v=5, height=6, width=4, ratio=ratio))
    x = randn(2, 24, 8)
    keys = x
    if ratio > 1:
        image = x.mT.reshape(2, 8, 6, 4)
        wide = nn.functional.pad(image, [ratio // 2] * 4)
        rows, columns = ((n + 2 * (ratio // 2) - ratio - 1) // ratio + 1 for n in (6, 4))
        small = torch.stack(
            [
                (wide[:, :, i * ratio :, j * ratio :][:, :, : ratio + 1, : ratio + 1] * module.reduce.weight[:, 0]).sum(
                    (2, 3)
                )
                for i in range(rows)
                for j in range(columns)
            ],
            1,
        )
        keys = module.norm(small + module.reduce.bias)
    q, k, v = module.query(x), module.key(keys), module.value(keys)
    logits = torch.stack([q[..., 3 * h : 3 * h + 3] @ k[..., 3 * h : 3 * h + 3].mT / 3**0.5 for h in range(2)])
    mixed = torch.einsum("gh,hbnm->gbnm", module.mix.weight[:, :, 0, 0], logits) + module.mix.bias[:, None, None, None]
    weights = torch.softmax(mixed, -1)
    mean, variance = weights.mean((2, 3), keepdim=True), weights.var((2, 3), correction=0, keepdim=True)
    weights = (weights - mean) / torch.sqrt(variance + 1e-5)
    heads = torch.cat([weights[h] @ v[..., 5 * h : 5 * h + 5] for h in range(2)], -1)
    expected = module.project(heads)
    assert (module(x) - expected).abs().max() <= 1e-12 * expected.abs().max()


def test_emsa_refuses_other_keys_where_it_reduces() -> None:
    module = ready(EfficientMultiHeadSelfAttention(8, 2, height=2, width=2))
    with pytest.raises(ValueError, match="ratio above 1"):
        module(randn(2, 4, 8), randn(2, 4, 8), randn(2, 4, 8))


def test_muse_is_the_sum_of_its_branches() -> None:
    module = ready(MultiScaleAttention(8, 2, d_k=3, d_v=5, hidden=6))
    x = randn(2, 7, 8)
    alone = SelfAttention(8, 2, 3, 5).double()
    alone.load_state_dict({k: v for k, v in module.state_dict().items() if k in alone.state_dict()})
    expected = alone(x, x, x) + module.network(x)
    values, shares = module.value(x), module.alpha.exp() / module.alpha.exp().sum()
    for share, (size, conv) in zip(shares, module.convs.items(), strict=True):
        reach, mixed = int(size) // 2, values
        if conv.depth is not None:
            mixed = conv.depth.bias.repeat(2, 7, 1)
            for n in range(7):
                for offset in range(-reach, reach + 1):
                    if 0 <= n + offset < 7:
                        mixed[:, n] = mixed[:, n] + conv.depth.weight[:, 0, offset + reach] * values[:, n + offset]
        expected = expected + share * (mixed @ conv.point.weight[:, :, 0].T + conv.point.bias)
    assert (module(x) - expected).abs().max() <= 1e-12 * expected.abs().max()


def test_permutator_mixes_rows_columns_and_channels() -> None:
    module = ready(VisionPermutatorMixing(6, 3, height=4, width=5, reduction=2))
    x = randn(2, 4, 5, 6)
    rows, columns = torch.empty_like(x), torch.empty_like(x)
    for s in range(3):
        part = x[..., 2 * s : 2 * s + 2]
        for j in range(5):
            rows[:, :, j, 2 * s : 2 * s + 2] = module.rows(part[:, :, j].flatten(1)).reshape(2, 4, 2)
        for i in range(4):
            columns[:, i, :, 2 * s : 2 * s + 2] = module.columns(part[:, i].flatten(1)).reshape(2, 5, 2)
    branches = torch.stack((rows, columns, x @ module.channels.weight.T))
    shares = module.shares(branches.sum(0).mean((1, 2)))
    assert (shares.sum(1) - 1).abs().max() < 1e-14
    expected = module.project((branches * shares.transpose(0, 1)[:, :, None, None]).sum(0))
    assert (module(x) - expected).abs().max() < 1e-13
    with pytest.raises(ValueError, match="4 × 5"):
        module(x.transpose(1, 2))


def test_by_branch_reorders_what_a_layer_gives() -> None:
    weight = torch.arange(6.0)  # channel 0: 0 1 2, channel 1: 3 4 5
    assert by_branch(weight, (2, 1, 0)).tolist() == [2, 5, 1, 4, 0, 3]


@pytest.mark.parametrize(
    ("build", "arguments"),
    [
        (SelfAttention, {"heads": 5}),
        (SelfAttention, {"heads": 0}),
        (SelfAttention, {"d_k": 0}),
        (SelfAttention, {"d_v": 0, "d_k": 1}),
        (SimplifiedSelfAttention, {"heads": 5}),
        (ExternalAttention, {"memory": 0}),
        (DualAttention, {"reduction": 5}),
        (DoubleAttention, {"descriptors": 0}),
        (AFTFull, {"tokens": 0}),
        (AFTSimple, {"channels": 0}),
        (EfficientMultiHeadSelfAttention, {"heads": 5}),
        (EfficientMultiHeadSelfAttention, {"ratio": 0}),
        (MultiScaleAttention, {"heads": 5}),
        (MultiScaleAttention, {"kernels": (2,)}),
        (MultiScaleAttention, {"kernels": ()}),
        (VisionPermutatorMixing, {"segments": 5}),
        (VisionPermutatorMixing, {"reduction": 5}),
        (VisionPermutatorMixing, {"height": 0}),
    ],
)
def test_refuses(build: Callable[..., nn.Module], arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must"):
        build(**arguments)
