"""Attention that has no reference vectors: slow forms written from the formulas, pixel by pixel where it tells most."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attn_export.export.weights.randomize import randomize
from attn_export.mechanisms._layers.relative_logits import skew
from attn_export.mechanisms.attention.botnet_mhsa import BottleneckAttention
from attn_export.mechanisms.attention.gqa import GroupedQueryAttention
from attn_export.mechanisms.attention.lambda_layer import LambdaLayer
from attn_export.mechanisms.attention.non_local import NonLocal
from attn_export.mechanisms.attention.relu_linear import ReluLinearAttention
from attn_export.mechanisms.attention.rmsnorm import RMSNorm
from attn_export.mechanisms.attention.rope import RotaryEmbedding
from attn_export.mechanisms.attention.sdta import FourierPosition, SplitDepthwiseTransposeAttention
from attn_export.mechanisms.attention.window import ShiftedWindowAttention
from attn_export.mechanisms.attention.xca import CrossCovarianceAttention
from tests.mechanisms.folding import agree, randn, ready


def pointwise(x: Tensor, layer: nn.Conv2d) -> Tensor:
    y = torch.einsum("oc,bchw->bohw", layer.weight.flatten(1), x)
    return y if layer.bias is None else y + layer.bias[:, None, None]


@pytest.mark.parametrize("scales", [(), (5,), (3, 5)])
def test_relu_linear_is_attention_with_relu_instead_of_exp(scales: tuple[int, ...]) -> None:
    module = ready(ReluLinearAttention(8, 4, scales, outputs=6))
    x = randn(2, 8, 3, 5)
    tokens = [pointwise(x, module.qkv)]
    for size, scale in zip(scales, module.aggregate, strict=True):
        near = F.conv2d(tokens[0], scale[0].weight, padding=size // 2, groups=24)
        tokens.append(F.conv2d(near, scale[1].weight, groups=6))
    mixed = []
    for scale in tokens:
        for head in range(2):
            q, k, v = (scale[:, 12 * head + 4 * i : 12 * head + 4 * i + 4].flatten(2) for i in range(3))
            alike = torch.einsum("bdi,bdj->bij", torch.relu(q), torch.relu(k))
            weights = alike / (alike.sum(2, keepdim=True) + module.eps)
            sums = weights.sum(2)
            assert ((sums - 1).abs().lt(1e-9) | sums.eq(0)).all(), "weights sum to one, or nothing is alike"
            mixed.append(torch.einsum("bij,bdj->bdi", weights, v))
    assert agree(module(x), module.project(torch.cat(mixed, 1).reshape(2, -1, 3, 5)))


def test_relu_linear_in_half_precision_does_not_overflow_on_large_maps() -> None:
    module = ReluLinearAttention(8, 4).eval()
    randomize(module)
    x = torch.randn(1, 8, 64, 64) * 30
    assert torch.isfinite(module.half()(x.half())).all()


@pytest.mark.parametrize("pool", [False, True])
@pytest.mark.parametrize("pair", ["embedded", "gaussian", "dot", "concatenation"])
def test_non_local_is_its_formula(pair: Any, pool: bool) -> None:
    module = ready(NonLocal(6, 4, pair, pool))
    x = randn(2, 6, 5, 4)
    seen = F.max_pool2d(x, 2) if pool else x
    if pair == "gaussian":
        theta, phi = x.flatten(2), seen.flatten(2)
    else:
        theta, phi = pointwise(x, module.query).flatten(2), pointwise(x, module.key)
        phi = (F.max_pool2d(phi, 2) if pool else phi).flatten(2)
    value = pointwise(x, module.value)
    value = (F.max_pool2d(value, 2) if pool else value).flatten(2)
    weights = torch.empty(2, theta.shape[2], phi.shape[2], dtype=torch.float64)
    for i in range(theta.shape[2]):
        for j in range(phi.shape[2]):
            if pair == "concatenation":
                joint = torch.cat((module.of_query.weight.flatten(), module.of_key.weight.flatten()))
                weights[:, i, j] = torch.relu(torch.cat((theta[:, :, i], phi[:, :, j]), 1) @ joint)
            else:
                weights[:, i, j] = (theta[:, :, i] * phi[:, :, j]).sum(1)
    weights = torch.softmax(weights, 2) if pair in ("embedded", "gaussian") else weights / phi.shape[2]
    mixed = torch.einsum("bij,bdj->bdi", weights, value).reshape(2, 4, 5, 4)
    assert agree(module(x), x + module.norm(pointwise(mixed, module.project)))


def turned(x: Tensor, position: int, base: float = 10000.0) -> Tensor:
    """Pairs as complex numbers, times e^(i n θ)."""
    half = x.shape[-1] // 2
    angles = torch.tensor([position * base ** (-2 * i / (2 * half)) for i in range(half)], dtype=torch.float64)
    pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], half, 2).contiguous())
    return torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles)).flatten(-2)


@pytest.mark.parametrize("rotated", [8, 4])
def test_rope_turns_complex_numbers(rotated: int) -> None:
    module, x = RotaryEmbedding(8, 32, rotated=rotated).double(), randn(2, 3, 7, 8)
    y = module(x)
    for n in range(7):
        assert (y[:, :, n, :rotated] - turned(x[:, :, n, :rotated], n)).abs().max() < 1e-13
    assert torch.equal(y[..., rotated:], x[..., rotated:])


def test_rope_by_halves_is_the_same_with_other_channels_paired() -> None:
    x, order = randn(2, 3, 7, 8), torch.tensor([0, 4, 1, 5, 2, 6, 3, 7])
    pairs, halves = RotaryEmbedding(8, 32).double(), RotaryEmbedding(8, 32, interleaved=False).double()
    assert (halves(x)[..., order] - pairs(x[..., order])).abs().max() < 1e-15


@pytest.mark.parametrize(
    "module", [GroupedQueryAttention(length=5, rotary=True), GroupedQueryAttention(length=5, causal=True)]
)
def test_more_tokens_than_the_tables_hold_are_refused(module: GroupedQueryAttention) -> None:
    assert module(torch.ones(1, 5, 32)).shape == (1, 5, 32)
    with pytest.raises(ValueError, match="at most 5 tokens, got 6"):
        module(torch.ones(1, 6, 32))
    with pytest.raises(ValueError, match="at most 5 tokens, got 6"):
        RotaryEmbedding(length=5)(torch.ones(1, 2, 6, 16))


@pytest.mark.parametrize("interleaved", [True, False])
def test_rope_keeps_lengths_and_products_know_differences_only(interleaved: bool) -> None:
    module = RotaryEmbedding(8, 32, interleaved=interleaved).double()
    q, k = randn(8).expand(1, 1, 20, 8), randn(8).expand(1, 1, 20, 8)
    logits = (module(q) @ module(k).mT)[0, 0]
    for offset in (0, 3, 11):
        diagonal = logits.diagonal(offset)
        assert (diagonal - diagonal[0]).abs().max() < 1e-12
    assert (module(q).norm(dim=-1) - q.norm(dim=-1)).abs().max() < 1e-12


@pytest.mark.parametrize("rotary", [False, True])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_gqa_is_its_formula_head_by_head(kv_heads: int, causal: bool, rotary: bool) -> None:
    module = ready(GroupedQueryAttention(8, 4, kv_heads, 6, rotary, causal, bias=True))
    x = randn(1, 5, 8)
    q, k, v = module.query(x)[0], module.key(x)[0], module.value(x)[0]
    heads = []
    for head in range(4):
        shared = head // (4 // kv_heads)
        own = [q[:, 6 * head : 6 * head + 6], k[:, 6 * shared : 6 * shared + 6]]
        if rotary:
            own = [torch.stack([turned(part[n], n) for n in range(5)]) for part in own]
        rows = []
        for n in range(5):
            last = n + 1 if causal else 5
            weights = torch.softmax(own[0][n] @ own[1][:last].T / math.sqrt(6), 0)
            rows.append(weights @ v[:last, 6 * shared : 6 * shared + 6])
        heads.append(torch.stack(rows))
    assert agree(module(x)[0], module.out(torch.cat(heads, 1)))


def test_gqa_without_positions_commutes_with_permutations() -> None:
    module, x, order = ready(GroupedQueryAttention(8, 4, 2)), randn(2, 7, 8), torch.randperm(7)
    assert (module(x[:, order]) - module(x)[:, order]).abs().max() < 1e-13


@pytest.mark.parametrize("part", [1.0, 0.25])
def test_rmsnorm_is_its_formula(part: float) -> None:
    module, x = ready(RMSNorm(8, part)), randn(2, 3, 8)
    expected = torch.empty_like(x)
    for item in range(2):
        for n in range(3):
            seen = x[item, n, : int(8 * part)].tolist()
            root = math.sqrt(sum(value**2 for value in seen) / len(seen) + module.eps)
            expected[item, n] = x[item, n] / root * module.weight
    assert agree(module(x), expected)
    if part == 1:
        assert agree(module(x), F.rms_norm(x, (8,), module.weight, module.eps))


def test_rmsnorm_does_not_know_the_scale_of_its_input_in_half_precision() -> None:
    module, x = RMSNorm(16).half(), torch.randn(2, 3, 16).half()
    assert (module(x * 1024) - module(x)).abs().max() < 1e-2


def test_xca_is_its_formula_channel_by_channel() -> None:
    module = ready(CrossCovarianceAttention(6, 2, qkv_bias=True))
    x = randn(1, 5, 6)
    q, k, v = module.qkv(x)[0].chunk(3, 1)
    mixed = torch.empty(5, 6, dtype=torch.float64)
    for head in range(2):
        own = range(3 * head, 3 * head + 3)
        for i in own:
            cosines = torch.stack([F.cosine_similarity(q[:, i], k[:, j], 0) for j in own])
            weights = torch.softmax(cosines * module.temperature[head, 0, 0], 0)
            mixed[:, i] = v[:, own.start : own.stop] @ weights
    assert agree(module(x)[0], module.out(mixed))


def test_xca_commutes_with_permutations_and_takes_zeros() -> None:
    module, x, order = ready(CrossCovarianceAttention(8, 2)), randn(2, 7, 8), torch.randperm(7)
    assert (module(x[:, order]) - module(x)[:, order]).abs().max() < 1e-13
    assert torch.isfinite(module.half()(torch.zeros(1, 7, 8).half())).all()


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("receptive", [3, 9])
def test_lambda_layer_is_its_formula_query_by_query(receptive: int, depth: int) -> None:
    """With 9 the window spans the 4 × 5 map from each of its pixels: that is the layer without a window."""
    module = ready(LambdaLayer(6, 8, 2, 3, depth, receptive))
    x = randn(1, 6, 4, 5)
    q = module.query_norm(pointwise(x, module.query))[0].reshape(2, 3, 4, 5)
    k = torch.softmax(pointwise(x, module.key)[0].reshape(depth, 3, 20), 2)
    v = module.value_norm(pointwise(x, module.value))[0].reshape(depth, 4, 4, 5)
    content = torch.einsum("ukm,uvm->kv", k, v.flatten(2))
    expected, reach = torch.empty(1, 8, 4, 5, dtype=torch.float64), receptive // 2
    for row in range(4):
        for column in range(5):
            position = torch.zeros(3, 4, dtype=torch.float64)
            for i in range(max(0, row - reach), min(4, row + reach + 1)):
                for j in range(max(0, column - reach), min(5, column + reach + 1)):
                    place = module.position.weight[:, :, i - row + reach, j - column + reach]
                    position = position + torch.einsum("ku,uv->kv", place, v[:, :, i, j])
            expected[0, :, row, column] = (q[:, :, row, column] @ (content + position)).flatten()
    assert agree(module(x), expected)


def test_skew_takes_distances_to_places() -> None:
    table = randn(2, 5, 9)
    places = skew(table)
    assert places.shape == (2, 5, 5)
    for i in range(5):
        for j in range(5):
            assert torch.equal(places[:, i, j], table[:, i, j - i + 4])


@pytest.mark.parametrize("position", ["relative", "absolute"])
def test_bottleneck_attention_is_its_formula_pixel_by_pixel(position: Any) -> None:
    module = ready(BottleneckAttention(6, (3, 4), 2, 5, position))
    x = randn(1, 6, 3, 4)
    q, k, v = (part.reshape(2, 5, 12) for part in pointwise(x, module.qkv)[0].chunk(3))
    expected = torch.empty(2, 5, 12, dtype=torch.float64)
    for head in range(2):
        for i in range(12):
            logits = []
            for j in range(12):
                (row, column), (other_row, other_column) = divmod(i, 4), divmod(j, 4)
                if position == "relative":
                    place = module.rows[other_row - row + 2] + module.columns[other_column - column + 3]
                else:
                    place = module.rows[other_row] + module.columns[other_column]
                logits.append(q[head, :, i] @ (k[head, :, j] + place) / math.sqrt(5))
            expected[head, :, i] = v[head] @ torch.softmax(torch.stack(logits), 0)
    assert agree(module(x), expected.reshape(1, 10, 3, 4))


@pytest.mark.parametrize(("channels", "splits", "widths"), [(8, 2, [4, 4]), (10, 3, [4, 4, 2])])
def test_sdta_is_its_formula(channels: int, splits: int, widths: list[int]) -> None:
    module = ready(SplitDepthwiseTransposeAttention(channels, splits, 2, size=(3, 4)))
    assert module.widths == widths
    x = randn(2, channels, 3, 4)
    parts, before = [], torch.zeros(2, widths[0], 3, 4, dtype=torch.float64)
    for i in range(splits - 1):
        part = x[:, 4 * i : 4 * i + 4] + before
        before = F.conv2d(part, module.cascade[i].weight, module.cascade[i].bias, padding=1, groups=4)
        parts.append(before)
    parts.append(x[:, 4 * (splits - 1) :])
    tokens = (torch.cat(parts, 1) + module.position()).permute(0, 2, 3, 1).reshape(2, 12, channels)
    tokens = tokens + module.attention_scale * module.attention(module.attention_norm(tokens))
    tokens = module.mlp_scale * module.mlp(module.mlp_norm(tokens))
    assert agree(module(x), x + tokens.reshape(2, 3, 4, channels).permute(0, 3, 1, 2))


def test_fourier_positions_are_sines_and_cosines_of_rows_then_columns() -> None:
    waves = FourierPosition(8, (3, 4), 6).double().waves[0]
    assert waves.shape == (12, 3, 4)
    for row in range(3):
        for column in range(4):
            for axis, place, length in ((0, row, 3), (1, column, 4)):
                for i in range(6):
                    angle = (place + 1) / (length + 1e-6) * 2 * math.pi / 10000 ** (2 * (i // 2) / 6)
                    wave = math.cos(angle) if i % 2 else math.sin(angle)
                    assert abs(float(waves[6 * axis + i, row, column]) - wave) < 1e-14


@pytest.mark.parametrize("shift", [0, 1])
def test_window_attention_sees_its_window_and_nothing_beyond(shift: int) -> None:
    """Pixels attend to each other where the window that holds both, in the moved grid, does not wrap around."""
    module = ready(ShiftedWindowAttention(4, 2, 3, shift, (6, 9)))
    x = randn(1, 6, 9, 4).requires_grad_()
    y = module(x)
    for row, column in ((0, 0), (2, 3), (5, 8), (1, 6), (3, 3)):
        (gradient,) = torch.autograd.grad(y[0, row, column].sum(), x, retain_graph=True)
        seen = gradient[0].abs().sum(-1) > 0
        expected = torch.zeros(6, 9, dtype=torch.bool)
        for i in range(6):
            for j in range(9):
                expected[i, j] = _cell(i, shift) == _cell(row, shift) and _cell(j, shift) == _cell(column, shift)
        assert torch.equal(seen, expected)


def _cell(place: int, shift: int) -> int:
    return (place - shift) // 3


@pytest.mark.parametrize(
    "refused",
    [
        lambda: ReluLinearAttention(8, 3),
        lambda: ReluLinearAttention(8, 4, (4,)),
        lambda: NonLocal(8, 0),
        lambda: NonLocal(8, pair="cosine"),  # type: ignore[arg-type]
        lambda: RotaryEmbedding(7),
        lambda: RotaryEmbedding(8, rotated=10),
        lambda: RotaryEmbedding(8, 0),
        lambda: GroupedQueryAttention(8, 4, 3),
        lambda: GroupedQueryAttention(10, 4, 2),
        lambda: RMSNorm(8, 0.0),
        lambda: CrossCovarianceAttention(8, 3),
        lambda: LambdaLayer(8, heads=3),
        lambda: LambdaLayer(8, receptive=4),
        lambda: BottleneckAttention(9),
        lambda: BottleneckAttention(8, position="none"),  # type: ignore[arg-type]
        lambda: SplitDepthwiseTransposeAttention(8, 1),
        lambda: SplitDepthwiseTransposeAttention(4, 8),
        lambda: ShiftedWindowAttention(8, 3),
        lambda: ShiftedWindowAttention(8, 2, 4, 2),
        lambda: ShiftedWindowAttention(8, 2, 4, 4, (8, 8)),
        lambda: ShiftedWindowAttention(8, 2, 4, 2, (8, 9)),
    ],
)
def test_refuses(refused: Callable[[], nn.Module]) -> None:
    with pytest.raises(ValueError, match=r"must|needs"):
        refused()
