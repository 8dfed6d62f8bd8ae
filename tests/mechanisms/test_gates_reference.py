"""Gates and convolutional mixers that have no reference vectors: slow forms written from their formulas."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attn_export.mechanisms.attention.ema import EfficientMultiScaleAttention
from attn_export.mechanisms.attention.focal_modulation import FocalModulation
from attn_export.mechanisms.attention.gam import GlobalAttention
from attn_export.mechanisms.attention.gather_excite import GatherExcite
from attn_export.mechanisms.attention.gc import GlobalContext
from attn_export.mechanisms.attention.lka import LargeKernelAttention
from attn_export.mechanisms.attention.lska import LargeSeparableKernelAttention
from attn_export.mechanisms.attention.nam import NormalizationAttention
from attn_export.mechanisms.attention.pooling_mixer import PoolingMixer
from attn_export.mechanisms.attention.split_attention import SplitAttention
from tests.mechanisms.folding import agree, randn, ready


def padded(x: Tensor, reach: int) -> Tensor:
    return F.pad(x, (reach, reach, reach, reach))


def depthwise(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """A depth-wise convolution at stride 1, tap by tap."""
    rows, columns = conv.weight.shape[2:]
    step, (top, left) = conv.dilation[0], conv.padding
    wide = F.pad(x, (left, left, top, top))
    y = torch.zeros_like(x) if conv.bias is None else torch.zeros_like(x) + conv.bias[:, None, None]
    for i in range(rows):
        for j in range(columns):
            shifted = wide[:, :, i * step : i * step + x.shape[2], j * step : j * step + x.shape[3]]
            y = y + conv.weight[:, 0, i, j][:, None, None] * shifted
    return y


def pointwise(x: Tensor, layer: nn.Conv2d | nn.Linear) -> Tensor:
    y = torch.einsum("oc,bchw->bohw", layer.weight.flatten(1), x)
    return y if layer.bias is None else y + layer.bias[:, None, None]


def normed(x: Tensor, norm: Any) -> Tensor:
    shape = (-1, 1, 1)
    centred = (x - norm.running_mean.reshape(shape)) / (norm.running_var.reshape(shape) + norm.eps).sqrt()
    return centred * norm.weight.reshape(shape) + norm.bias.reshape(shape)


def test_ema_is_its_formula_group_by_group() -> None:
    module = ready(EfficientMultiScaleAttention(12, 3))
    x = randn(2, 12, 5, 6)
    found = []
    for group in x.chunk(3, 1):
        h = group.shape[2]
        strips = torch.cat([group.mean(3), group.mean(2)], 2)[:, :, :, None]
        gates = torch.sigmoid(pointwise(strips, module.pointwise))[..., 0]
        gated = group * gates[:, :, :h, None] * gates[:, :, None, h:]
        mean, var = gated.mean((2, 3), keepdim=True), gated.var((2, 3), correction=0, keepdim=True)
        wide = (gated - mean) / (var + module.norm.eps).sqrt()
        wide = wide * module.norm.weight[:, None, None] + module.norm.bias[:, None, None]
        near = F.conv2d(group, module.local.weight, module.local.bias, padding=1)
        first = torch.einsum("bc,bchw->bhw", torch.softmax(wide.mean((2, 3)), 1), near)
        second = torch.einsum("bc,bchw->bhw", torch.softmax(near.mean((2, 3)), 1), wide)
        found.append(group * torch.sigmoid(first + second)[:, None])
    assert agree(module(x), torch.cat(found, 1))


@pytest.mark.parametrize("squash", [True, False])
@pytest.mark.parametrize("groups", [1, 2])
def test_gam_is_its_formula(groups: int, squash: bool) -> None:
    module = ready(GlobalAttention(8, 2, 5, groups=groups, channel_sigmoid=squash))
    x = randn(2, 8, 5, 6)
    hidden = torch.relu(x.permute(0, 2, 3, 1) @ module.squeeze.weight[:, :, 0, 0].T + module.squeeze.bias)
    gate = (hidden @ module.excite.weight[:, :, 0, 0].T + module.excite.bias).permute(0, 3, 1, 2)
    x1 = x * (torch.sigmoid(gate) if squash else gate)
    z = torch.relu(normed(F.conv2d(x1, module.reduce.conv.weight, padding=2, groups=groups), module.reduce.bn))
    z = normed(F.conv2d(z, module.expand.conv.weight, padding=2, groups=groups), module.expand.bn)
    order = [group * (8 // groups) + i for i in range(8 // groups) for group in range(groups)]
    assert agree(module(x), x1 * torch.sigmoid(z)[:, order])


def test_nam_weighs_by_scales() -> None:
    module = ready(NormalizationAttention(6, (3, 4)))
    x = randn(2, 6, 3, 4)
    channel = module.channel_norm
    share = channel.weight.abs() / channel.weight.abs().sum()
    y = x * torch.sigmoid(normed(x, channel) * share[:, None, None])
    z = torch.empty_like(y)
    pixel = module.pixel_norm
    total = sum(abs(w) for w in pixel.weight.tolist())
    for p in range(12):
        value = y[:, :, p // 4, p % 4]
        norm = (value - pixel.running_mean[p]) / (pixel.running_var[p] + pixel.eps).sqrt()
        norm = norm * pixel.weight[p] + pixel.bias[p]
        z[:, :, p // 4, p % 4] = value * torch.sigmoid(norm * pixel.weight[p].abs() / total)
    assert agree(module(x), z)
    plain = NormalizationAttention(6).double().eval()
    plain.channel_norm.load_state_dict(channel.state_dict())
    assert agree(plain(x), y)


def test_lka_is_its_formula() -> None:
    module = ready(LargeKernelAttention(4, 21, 3, block=True))
    x = randn(2, 4, 9, 11)
    u = F.gelu(pointwise(x, module.enter))
    gated = u * pointwise(depthwise(depthwise(u, module.near), module.far), module.mix)
    assert (module.near.kernel_size, module.far.kernel_size) == ((5, 5), (7, 7))
    assert agree(module(x), x + pointwise(gated, module.leave))


@pytest.mark.parametrize(("size", "near", "far"), [(7, 3, 3), (11, 3, 5), (23, 5, 7), (35, 5, 11), (53, 5, 17)])
def test_lska_has_the_kernels_of_the_paper(size: int, near: int, far: int) -> None:
    module = LargeSeparableKernelAttention(4, size, 2 if size < 23 else 3)
    assert module.near_row.kernel_size == (1, near)
    assert module.far_column.kernel_size == (far, 1)


def test_lska_is_lka_with_kernels_of_rank_one() -> None:
    row, square = ready(LargeSeparableKernelAttention(4, 21, 3)), ready(LargeKernelAttention(4, 21, 3))
    with torch.no_grad():
        for part in ("near", "far"):
            across, down = getattr(row, f"{part}_row"), getattr(row, f"{part}_column")
            across.bias.zero_()  # in front of a column it would fade at the border
            getattr(square, part).weight.copy_(down.weight * across.weight)
            getattr(square, part).bias.copy_(down.bias)
        square.mix.load_state_dict(row.mix.state_dict())
    x = randn(2, 4, 9, 11)
    assert agree(row(x), square(x))


def test_lska_is_its_formula() -> None:
    module = ready(LargeSeparableKernelAttention(4, 11, 2))
    x = randn(2, 4, 6, 7)
    z = x
    for name in ("near_row", "near_column"):
        z = depthwise(z, getattr(module, name))
    for name in ("far_row", "far_column"):
        z = F.conv2d(
            z, getattr(module, name).weight, getattr(module, name).bias, 1, getattr(module, name).padding, 2, 4
        )
    assert agree(module(x), x * pointwise(z, module.mix))


@pytest.mark.parametrize("pool", ["attention", "mean"])
@pytest.mark.parametrize("fusion", ["add", "scale", "both"])
def test_gc_is_its_formula(fusion: Any, pool: Any) -> None:
    module = ready(GlobalContext(8, 2, pool, fusion))
    x = randn(2, 8, 3, 4)
    expected = torch.empty_like(x)
    for item in range(2):
        pixels = x[item].flatten(1)
        weights = torch.full((12,), 1 / 12, dtype=torch.float64)
        if pool == "attention":
            weights = torch.softmax(module.weigh.weight[0, :, 0, 0] @ pixels, 0)
        context = sum(weights[p] * pixels[:, p] for p in range(12))
        y = x[item]
        if fusion != "add":
            y = y * torch.sigmoid(module.scale(context))[:, None, None]
        if fusion != "scale":
            y = y + module.add(context)[:, None, None]
        expected[item] = y
    assert agree(module(x), expected)


@pytest.mark.parametrize("kernel", [3, 5])
def test_pooling_mixer_averages_what_lies_inside(kernel: int) -> None:
    x, reach = randn(2, 3, 4, 6), kernel // 2
    y = PoolingMixer(kernel)(x)
    for row in range(4):
        for column in range(6):
            seen = x[:, :, max(0, row - reach) : row + reach + 1, max(0, column - reach) : column + reach + 1]
            assert (y[:, :, row, column] - seen.mean((2, 3)) + x[:, :, row, column]).abs().max() < 1e-14


@pytest.mark.parametrize("options", [{}, {"levels": 3, "normalise": True, "post_norm": True, "bias": False}])
def test_focal_modulation_is_its_formula(options: dict[str, Any]) -> None:
    module = ready(FocalModulation(6, **options))
    x, levels = randn(2, 5, 7, 6), options.get("levels", 2)
    both = module.split(x)
    query, context, gates = both[..., :6], both[..., 6:12].permute(0, 3, 1, 2), both[..., 12:]
    total = torch.zeros_like(context)
    for level in range(levels):
        conv = module.contexts[level]
        assert conv.kernel_size == (3 + 2 * level, 3 + 2 * level)
        context = F.gelu(depthwise(context, conv))
        total = total + context * gates[..., level][:, None]
    total = total + F.gelu(context.mean((2, 3)))[:, :, None, None] * gates[..., levels][:, None]
    if options.get("normalise"):
        total = total / (levels + 1)
    assert agree(module(x), module.project(module.norm(query * pointwise(total, module.modulate).permute(0, 2, 3, 1))))


@pytest.mark.parametrize("extent", [2, 4, 8])
@pytest.mark.parametrize("size", [(8, 16), (7, 9)])
def test_gather_excite_by_means_gates_each_square(extent: int, size: tuple[int, int]) -> None:
    module, x = GatherExcite(3, extent), randn(2, 3, *size)
    y = module(x)
    for row in range(size[0]):
        for column in range(size[1]):
            top, left = row // extent * extent, column // extent * extent
            seen = x[:, :, max(0, top - extent + 1) : top + extent, max(0, left - extent + 1) : left + extent]
            gate = torch.sigmoid(seen.mean((2, 3)))
            assert (y[:, :, row, column] - x[:, :, row, column] * gate).abs().max() < 1e-14


def test_gather_excite_resizes_as_the_paper_where_the_extent_divides_the_map() -> None:
    module, x = ready(GatherExcite(4, 4, learned=True, mlp=True, reduction=2)), randn(2, 4, 8, 12)
    z = x
    for step in (0, 2):
        conv, norm = module.gather[step].conv, module.gather[step].bn
        z = normed(depthwise(z, _same(conv))[:, :, ::2, ::2], norm)
        z = torch.relu(z) if step == 0 else z
    z = pointwise(torch.relu(pointwise(z, module.mlp[0])), module.mlp[2])
    assert agree(module(x), x * torch.sigmoid(F.interpolate(z, x.shape[2:], mode="nearest")))


def _same(conv: nn.Conv2d) -> nn.Conv2d:
    twin = nn.Conv2d(conv.in_channels, conv.out_channels, conv.kernel_size, padding=1, groups=conv.groups, bias=False)
    twin.weight = conv.weight
    return twin


def test_gather_excite_of_the_whole_map() -> None:
    x = randn(2, 4, 3, 5)
    assert agree(GatherExcite(4)(x), x * torch.sigmoid(x.mean((2, 3)))[:, :, None, None])
    module = ready(GatherExcite(4, learned=True, size=(3, 5)))
    summed = torch.einsum("chw,bchw->bc", module.gather[0].conv.weight[:, 0], x)[:, :, None, None]
    assert agree(module(x), x * torch.sigmoid(normed(summed, module.gather[0].bn)))


@pytest.mark.parametrize(("radix", "groups", "stride"), [(2, 1, 1), (3, 2, 2), (1, 2, 1)])
def test_split_attention_is_its_formula_group_by_group(radix: int, groups: int, stride: int) -> None:
    module = ready(SplitAttention(12, 8, radix, groups, 3, stride, least=10))
    x = randn(2, 12, 5, 7)
    wide = torch.relu(
        normed(F.conv2d(x, module.split.conv.weight, None, stride, 1, 1, groups * radix), module.split.bn)
    )
    splits = [wide[:, 8 * i : 8 * i + 8] for i in range(radix)]
    pooled = torch.stack(splits).sum(0).mean((2, 3), keepdim=True)
    hidden = torch.relu(
        normed(F.conv2d(pooled, module.squeeze[0].weight, module.squeeze[0].bias, groups=groups), module.squeeze[1])
    )
    logits = F.conv2d(hidden, module.excite.weight, module.excite.bias, groups=groups)[:, :, 0, 0]
    width = 8 // groups
    expected = torch.zeros_like(splits[0])
    for group in range(groups):
        own = logits[:, group * radix * width : (group + 1) * radix * width]
        rows = torch.stack([own[:, r * width : (r + 1) * width] for r in range(radix)])
        weights = torch.softmax(rows, 0) if radix > 1 else torch.sigmoid(rows)
        for r in range(radix):
            part = slice(group * width, (group + 1) * width)
            expected[:, part] += weights[r][:, :, None, None] * splits[r][:, part]
    assert agree(module(x), expected)


def test_gates_never_enlarge() -> None:
    x = randn(2, 8, 6, 6)
    gates = (
        EfficientMultiScaleAttention(8, 2),
        GlobalAttention(8),
        NormalizationAttention(8, (6, 6)),
        GatherExcite(8, 2),
    )
    for module in gates:
        share = ready(module)(x) / x
        assert (share >= 0).all(), type(module).__name__
        assert (share <= 1).all(), type(module).__name__


@pytest.mark.parametrize(
    "refused",
    [
        lambda: EfficientMultiScaleAttention(12, 5),
        lambda: GlobalAttention(12, 5),
        lambda: GlobalAttention(12, 4, groups=2),
        lambda: GlobalAttention(12, 4, kernel_size=4),
        lambda: NormalizationAttention(0),
        lambda: LargeKernelAttention(4, 24, 3),
        lambda: LargeKernelAttention(4, 21, 0),
        lambda: LargeSeparableKernelAttention(4, 12, 2),
        lambda: GlobalContext(12, 5),
        lambda: GlobalContext(12, 4, "max"),  # type: ignore[arg-type]
        lambda: PoolingMixer(4),
        lambda: FocalModulation(8, window=4),
        lambda: FocalModulation(8, 0),
        lambda: GatherExcite(8, 3),
        lambda: GatherExcite(8, 0, learned=True),
        lambda: GatherExcite(9, mlp=True, reduction=2),
        lambda: SplitAttention(10, groups=2, radix=2),
        lambda: SplitAttention(8, kernel_size=2),
        lambda: SplitAttention(12, groups=3, least=32),
    ],
)
def test_refuses(refused: Callable[[], nn.Module]) -> None:
    with pytest.raises(ValueError, match=r"must|needs"):
        refused()
