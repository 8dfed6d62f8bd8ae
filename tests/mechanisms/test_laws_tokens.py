"""Attention among tokens: masks, sums to one, permutations, and slow forms written from the formulas."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from attn_export.mechanisms._parts.heads import masked_softmax, merge_heads, split_heads
from attn_export.mechanisms.attention.external import ExternalAttention, doubly_normalised
from attn_export.mechanisms.attention.self_attention import SelfAttention


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def randn(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


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


@pytest.mark.parametrize("arguments", [{"heads": 5}, {"heads": 0}, {"d_k": 0}, {"d_v": 0, "d_k": 1}])
def test_self_attention_refuses(arguments: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must"):
        SelfAttention(12, **arguments)


def test_external_attention_refuses() -> None:
    with pytest.raises(ValueError, match="positive"):
        ExternalAttention(12, 0)
