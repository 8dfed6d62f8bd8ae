"""Gates over channels and pixels: slow forms written from the formulas, and the range of the gates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attn_export.export.weights import checkpoint
from attn_export.mechanisms import MECHANISMS
from attn_export.mechanisms.attention.bam import BAM
from attn_export.mechanisms.attention.cbam import CBAM
from attn_export.mechanisms.attention.eca import EfficientChannelAttention, derived_kernel_size
from attn_export.mechanisms.attention.psa import PyramidSplitAttention
from attn_export.mechanisms.attention.sge import SpatialGroupEnhance
from attn_export.mechanisms.attention.shuffle_attention import ShuffleAttention
from attn_export.mechanisms.attention.sk import SelectiveKernel
from attn_export.mechanisms.attention.triplet import TripletAttention
from tests.mechanisms.folding import randn, ready
from tests.mechanisms.goldens import load


@pytest.mark.parametrize(
    ("channels", "size"), [(1, 1), (8, 3), (32, 3), (64, 3), (128, 5), (256, 5), (512, 5), (2048, 7)]
)
def test_eca_derives_its_kernel_from_the_channels(channels: int, size: int) -> None:
    assert derived_kernel_size(channels) == size
    assert EfficientChannelAttention(channels).conv.kernel_size == (size,)


def test_eca_slides_over_the_channels() -> None:
    module = ready(EfficientChannelAttention(8, 5))
    x = randn(2, 8, 3, 4)
    means, weight = x.mean((2, 3)), module.conv.weight[0, 0]
    for channel in range(8):
        near = [(t, channel + t - 2) for t in range(5) if 0 <= channel + t - 2 < 8]
        gate = torch.sigmoid(torch.stack([weight[t] * means[:, c] for t, c in near]).sum(0))
        assert (module(x)[:, channel] - x[:, channel] * gate[:, None, None]).abs().max() < 1e-13


def test_triplet_gates_lie_between_zero_and_one() -> None:
    module = ready(TripletAttention())
    gate = module(torch.ones(2, 5, 6, 7, dtype=torch.float64))
    assert (gate > 0).all()
    assert (gate < 1).all()


def test_triplet_without_the_front_does_not_care_which_axis_is_called_rows() -> None:
    module = ready(TripletAttention(spatial=False))
    twin = ready(TripletAttention(spatial=False))
    twin.above.load_state_dict({k: v.mT if v.ndim == 4 else v for k, v in module.side.state_dict().items()})
    twin.side.load_state_dict({k: v.mT if v.ndim == 4 else v for k, v in module.above.state_dict().items()})
    x = randn(2, 5, 6, 7)
    assert (twin(x.transpose(2, 3)).transpose(2, 3) - module(x)).abs().max() < 1e-13


@pytest.mark.parametrize("size", [2, 0, 65])
def test_eca_refuses(size: int) -> None:
    with pytest.raises(ValueError, match="odd"):
        EfficientChannelAttention(32, size)


def test_triplet_refuses() -> None:
    with pytest.raises(ValueError, match="odd"):
        TripletAttention(6)


def slow_conv(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """A convolution of stride 1 pixel by pixel, from its definition."""
    reach, step = conv.kernel_size[0], conv.dilation[0]
    pad = step * (reach // 2)
    wide = torch.zeros(*x.shape[:2], x.shape[2] + 2 * pad, x.shape[3] + 2 * pad, dtype=x.dtype)
    wide[:, :, pad : pad + x.shape[2], pad : pad + x.shape[3]] = x
    inputs, outputs = conv.in_channels // conv.groups, conv.out_channels // conv.groups
    y = torch.zeros(x.shape[0], conv.out_channels, *x.shape[2:], dtype=x.dtype)
    for o in range(conv.out_channels):
        first = (o // outputs) * inputs
        for i in range(x.shape[2]):
            for j in range(x.shape[3]):
                seen = wide[:, first : first + inputs, i : i + 2 * pad + 1 : step, j : j + 2 * pad + 1 : step]
                y[:, o, i, j] = (seen * conv.weight[o]).sum((1, 2, 3)) + (0 if conv.bias is None else conv.bias[o])
    return y


def test_sk_is_its_formula_and_its_shares_sum_to_one() -> None:
    module = ready(SelectiveKernel(8, (3, 5), reduction=2, least=4, groups=2))
    x = randn(2, 8, 5, 6)
    maps = [torch.relu(branch[1](slow_conv(branch[0], x))) for branch in module.branches]
    assert module.branches[1][0].kernel_size == (3, 3)
    assert module.branches[1][0].dilation == (2, 2)
    z = module.norm(module.squeeze((maps[0] + maps[1]).mean((2, 3), keepdim=True)))
    logits = module.choose(z).reshape(2, 2, 8)
    first = torch.sigmoid(logits[:, 0] - logits[:, 1])[:, :, None, None]  # a softmax of two
    expected = first * maps[0] + (1 - first) * maps[1]
    assert (module(x) - expected).abs().max() < 1e-12
    shares = module.shares(randn(3, 8, 1, 1))
    assert (shares.sum(1) - 1).abs().max() < 1e-14


def test_sk_of_the_paper_takes_the_originals_weights_where_its_bottleneck_is_positive() -> None:
    golden = load("sk")
    arguments: dict[str, Any] = {"channels": 16, "kernels": (1, 3, 5), "reduction": 2, "least": 8, "groups": 4}
    module = SelectiveKernel(**arguments, dilated=False).eval()
    norm = module.norm[0]
    state = checkpoint.rename(golden.state, MECHANISMS["sk"])
    bias = state.pop("squeeze.bias")
    zeros, ones = torch.zeros_like(bias), torch.ones_like(bias)
    state |= {"norm.0.weight": ones, "norm.0.bias": bias, "norm.0.running_mean": zeros, "norm.0.running_var": ones}
    checkpoint.load(module, state)
    module.double()
    norm.weight.data *= (1 + norm.eps) ** 0.5
    output = module(golden.inputs[0].double())
    assert (output - golden.outputs[0]).abs().max() <= 1e-10 * golden.outputs[0].abs().max()


def test_cbam_gates_pixel_by_pixel() -> None:
    module = ready(CBAM(8, 2, 3))
    x = randn(2, 8, 4, 5)
    most, mean = x.flatten(2).max(2).values, x.flatten(2).mean(2)
    squeeze, excite = module.channel.squeeze.weight[:, :, 0, 0], module.channel.excite.weight[:, :, 0, 0]
    mlp = [torch.relu(z @ squeeze.T) @ excite.T for z in (most, mean)]
    gated = x * torch.sigmoid(mlp[0] + mlp[1])[:, :, None, None]
    pooled = torch.stack((gated.max(1).values, gated.mean(1)), 1)
    expected = gated * torch.sigmoid(slow_conv(module.spatial.conv, pooled))
    assert (module(x) - expected).abs().max() < 1e-13
    for gate in (module.channel(x), module.spatial(x)):
        assert (gate > 0).all()
        assert (gate < 1).all()


def test_bam_sees_as_far_as_its_dilation_reaches() -> None:
    module = ready(BAM(8, 2, dilation=3))
    x = randn(2, 8, 5, 6)
    s = module.spatial.hidden[0](x)
    for layer in module.spatial.hidden[1:]:
        s = torch.relu(slow_conv(layer.conv, s))
    s = module.spatial.norm(module.spatial.last(s))
    means = x.mean((2, 3), keepdim=True)
    c = module.channel.norm(module.channel.last(torch.relu(module.channel.hidden[0].conv(means))))
    assert (module(x) - x * (1 + torch.sigmoid(c + s))).abs().max() < 1e-12


def test_bam_keeps_the_size_whatever_the_dilation() -> None:
    for dilation in (1, 2, 4):
        assert ready(BAM(8, 2, dilation)).spatial(randn(2, 8, 3, 5)).shape == (2, 1, 3, 5)


@pytest.mark.parametrize("split", [False, True])
def test_psa_scale_by_scale(split: bool) -> None:
    module = ready(PyramidSplitAttention(16, (3, 5), (1, 2), 2, split=split, bias=True))
    x = randn(2, 16, 4, 5)
    parts = x.chunk(2, 1) if split else (x, x)
    maps = [slow_conv(conv, part) for conv, part in zip(module.convs, parts, strict=True)]
    gates = []
    for scale, u in enumerate(maps):
        squeeze = module.squeeze.weight[4 * scale : 4 * scale + 4, :, 0, 0]
        excite = module.excite.weight[8 * scale : 8 * scale + 8, :, 0, 0]
        gates.append(torch.sigmoid(torch.relu(u.mean((2, 3)) @ squeeze.T) @ excite.T))
    weights = torch.softmax(torch.stack(gates), 0)
    expected = torch.cat([u * w[:, :, None, None] for u, w in zip(maps, weights, strict=True)], 1)
    assert (module(x) - expected).abs().max() < 1e-12
    assert (module.shares(randn(2, 16, 1, 1)).sum(1) - 1).abs().max() < 1e-14


def test_sge_group_by_group() -> None:
    module = ready(SpatialGroupEnhance(12, 3))
    x = randn(2, 12, 4, 5) + 1
    expected = torch.empty_like(x)
    for group in range(3):
        part = x[:, 4 * group : 4 * group + 4]
        t = (part * part.mean((2, 3), keepdim=True)).sum(1).flatten(1)
        t = (t - t.mean(1, keepdim=True)) / (t.std(1, keepdim=True) + 1e-5)
        gate = torch.sigmoid(t * module.weight[0, group] + module.bias[0, group])
        expected[:, 4 * group : 4 * group + 4] = part * gate.reshape(2, 1, 4, 5)
    assert (module(x) - expected).abs().max() < 1e-13


def test_sge_does_not_overflow_in_half_precision() -> None:
    module = SpatialGroupEnhance(64, 1).half().eval()
    x = (torch.rand(1, 64, 8, 8) * 40).half()
    assert torch.isfinite(module(x)).all()
    assert torch.isfinite(module(torch.ones_like(x))).all(), "a flat map has no deviation"


def test_shuffle_attention_channel_by_channel() -> None:
    module = ready(ShuffleAttention(12, 3))
    x = randn(2, 12, 4, 5)
    gated = torch.empty_like(x)
    for channel in range(12):
        place, u = channel % 4, x[:, channel].flatten(1)
        if place < 2:
            z, kind = u.mean(1, keepdim=True), "channel"
        else:
            place -= 2
            z = (u - u.mean(1, keepdim=True)) / torch.sqrt(u.var(1, correction=0, keepdim=True) + module.norm.eps)
            z, kind = z * module.norm.weight[place] + module.norm.bias[place], "spatial"
        weight, bias = getattr(module, f"{kind}_weight").flatten(), getattr(module, f"{kind}_bias").flatten()
        gated[:, channel] = (u * torch.sigmoid(weight[place] * z + bias[place])).reshape(2, 4, 5)
    order = [i for pair in zip(range(6), range(6, 12), strict=True) for i in pair]
    assert (module(x) - gated[:, order]).abs().max() < 1e-13


@pytest.mark.parametrize(
    ("build", "arguments", "match"),
    [
        (SelectiveKernel, {"kernels": (3, 4)}, "odd"),
        (SelectiveKernel, {"kernels": ()}, "odd"),
        (SelectiveKernel, {"groups": 5}, "divide"),
        (SelectiveKernel, {"reduction": 0}, "positive"),
        (CBAM, {"channels": 8, "reduction": 16}, "divide"),
        (CBAM, {"kernel_size": 6}, "odd"),
        (BAM, {"channels": 8, "reduction": 16}, "divide"),
        (BAM, {"dilation": 0}, "positive"),
        (PyramidSplitAttention, {"groups": (1, 4)}, "each scale"),
        (PyramidSplitAttention, {"kernels": (3, 5, 7, 8)}, "odd"),
        (PyramidSplitAttention, {"channels": 66}, "divide"),
        (PyramidSplitAttention, {"channels": 32}, "groups must divide"),
        (SpatialGroupEnhance, {"channels": 8, "groups": 3}, "divide"),
        (ShuffleAttention, {"channels": 12, "groups": 4}, "divide"),
    ],
)
def test_refuses(build: Callable[..., nn.Module], arguments: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        build(**arguments)
