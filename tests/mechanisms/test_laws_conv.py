"""Convolutions without reference vectors: slow forms written from their formulas."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from attn_export.mechanisms._layers import per_sample_conv
from attn_export.mechanisms.conv.cond_conv import CondConv
from attn_export.mechanisms.conv.depthwise_separable import DepthwiseSeparable
from attn_export.mechanisms.conv.dynamic_conv import DynamicConv
from attn_export.mechanisms.conv.ghost import GhostModule
from attn_export.mechanisms.conv.inception_dw import InceptionDepthwise
from attn_export.mechanisms.conv.involution import Involution
from attn_export.mechanisms.conv.mbconv import MBConv
from attn_export.mechanisms.conv.mixconv import MixConv, partition
from attn_export.mechanisms.conv.odconv import OmniDimensionalConv
from attn_export.mechanisms.conv.pconv import FasterNetBlock, PartialConv
from attn_export.mechanisms.conv.uib import UniversalInvertedBottleneck
from tests.mechanisms.folding import Kernel, affine, agree, folded, plain, randn, ready


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("stride", [1, 2])
def test_depthwise_separable_with_norms_is_two_kernels(kernel: int, stride: int) -> None:
    module = ready(DepthwiseSeparable(6, 8, kernel, stride))
    x = randn(2, 6, 9, 8)
    scale, shift = affine(module.depthwise_norm)
    u = torch.relu(Kernel(module.depthwise.weight * scale[:, None, None, None], shift, 6)(x, stride))
    scale, shift = affine(module.pointwise_norm)
    y = torch.einsum("oc,bchw->bohw", module.pointwise.weight[:, :, 0, 0] * scale[:, None], u)
    assert agree(module(x), torch.relu(y + shift[:, None, None]))


@pytest.mark.parametrize(("out", "ratio", "activation"), [(8, 2, True), (10, 3, False), (9, 2, True)])
def test_ghost_channels_are_filters_of_the_full_ones(out: int, ratio: int, activation: bool) -> None:
    module = ready(GhostModule(6, out, 3, ratio, 5, 2, activation))
    x = randn(2, 6, 9, 8)
    u = folded(module.primary, 3)(x, 2)
    u = torch.relu(u) if activation else u
    cheap = folded(module.cheap, 5)
    found = list(u.unbind(1))
    for channel in range(u.shape[1]):
        for index in range(ratio - 1):
            row = channel * (ratio - 1) + index
            v = F.conv2d(u[:, channel : channel + 1], cheap.weight[row : row + 1], cheap.bias[row : row + 1], padding=2)
            found.append(torch.relu(v[:, 0]) if activation else v[:, 0])
    assert agree(module(x), torch.stack(found, 1)[:, :out])


@pytest.mark.parametrize(("divisor", "kernel"), [(4, 3), (3, 5)])
def test_partial_convolution_leaves_the_other_channels(divisor: int, kernel: int) -> None:
    module = ready(PartialConv(10, divisor, kernel))
    x, part = randn(2, 10, 6, 7), 10 // divisor
    y = module(x)
    assert torch.equal(y[:, part:], x[:, part:])
    assert agree(y[:, :part], plain(module.conv, kernel)(x[:, :part]))


def test_fasternet_block_is_its_formula() -> None:
    module = ready(FasterNetBlock(8, 4, 3))
    x = randn(2, 8, 6, 7)
    u = torch.cat([plain(module.mix.conv, 3)(x[:, :2]), x[:, 2:]], 1)
    assert agree(module(x), x + plain(module.narrow, 1)(torch.relu(folded(module.widen, 1)(u))))


@pytest.mark.parametrize(
    ("channels", "out", "kernel", "experts", "stride", "dilation", "groups"),
    [
        (6, 8, 3, 4, 1, 1, 1),
        (8, 12, 3, 1, 2, 1, 4),
        (6, 6, 5, 3, 2, 2, 6),
        (6, 4, 1, 2, 1, 1, 2),
        (6, 4, 1, 1, 2, 1, 1),
    ],
)
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_omni_dimensional_convolution_has_a_kernel_for_each_image(
    channels: int, out: int, kernel: int, experts: int, stride: int, dilation: int, groups: int, temperature: float
) -> None:
    module = ready(OmniDimensionalConv(channels, out, kernel, experts, 2, 4, temperature, stride, dilation, groups))
    x = randn(3, channels, 7, 9)
    found = []
    for image in x:
        scale, shift = affine(module.norm)
        a = torch.relu(module.squeeze.weight[:, :, 0, 0] @ image.mean((1, 2)) * scale + shift)

        def logits(head: nn.Conv2d, a: torch.Tensor = a) -> torch.Tensor:
            assert head.bias is not None
            return (head.weight[:, :, 0, 0] @ a + head.bias) / temperature

        inputs = torch.sigmoid(logits(module.inputs))
        outputs = torch.ones(out).double() if module.outputs is None else torch.sigmoid(logits(module.outputs))
        taps = torch.ones(1).double() if module.taps is None else torch.sigmoid(logits(module.taps))
        mix = torch.ones(1).double() if module.choose is None else torch.softmax(logits(module.choose), 0)
        weight = torch.zeros_like(module.weight[0])
        for n in range(experts):
            weight += mix[n] * module.weight[n] * taps.reshape(kernel, kernel)
        per_group = channels // groups
        for o in range(out):
            for c in range(per_group):
                weight[o, c] *= outputs[o] * inputs[o // (out // groups) * per_group + c]
        pad = dilation * (kernel // 2)
        found.append(F.conv2d(image[None], weight, None, stride, pad, dilation, groups))
    assert agree(module(x), torch.cat(found))


@pytest.mark.parametrize(("kernel", "stride", "groups"), [(3, 1, 4), (5, 2, 2), (3, 3, 1)])
def test_involution_applies_to_each_pixel_the_kernel_it_made(kernel: int, stride: int, groups: int) -> None:
    module = ready(Involution(8, kernel, stride, groups))
    x = randn(2, 8, 7, 9)
    scale, shift = affine(module.norm)
    found = module(x)
    assert found.shape[2:] == (-(-7 // stride), -(-9 // stride))
    wide = F.pad(x, (kernel // 2,) * 4)
    for q in range(found.shape[2]):
        for r in range(found.shape[3]):
            i, j = q * stride, r * stride
            mean = x[:, :, i : i + stride, j : j + stride].mean((2, 3))
            hidden = mean @ module.reduce.weight.flatten(1).T + module.reduce.bias
            made = torch.relu(hidden * scale + shift) @ module.span.weight.flatten(1).T + module.span.bias
            made = made.reshape(2, groups, 1, kernel, kernel)
            seen = wide[:, :, i : i + kernel, j : j + kernel].reshape(2, groups, -1, kernel, kernel)
            assert agree(found[:, :, q, r], (made * seen).sum((3, 4)).flatten(1))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("build", [DynamicConv, CondConv])
def test_mixtures_have_a_kernel_for_each_image(build: type[nn.Module], bias: bool) -> None:
    module = ready(build(8, 12, 3, 3, stride=2, padding=2, dilation=2, groups=4, bias=bias))
    x = randn(3, 8, 7, 9)
    found = []
    for image in x:
        mean = image.mean((1, 2))
        if build is DynamicConv:
            hidden = torch.relu(module.squeeze.weight.flatten(1) @ mean)
            mix = torch.softmax(module.choose.weight.flatten(1) @ hidden, 0)
        else:
            mix = torch.sigmoid(module.route.weight.flatten(1) @ mean)
        weight = sum(m * w for m, w in zip(mix, module.conv.weight, strict=True))
        shift = sum(m * b for m, b in zip(mix, module.conv.bias, strict=True)) if bias else None
        found.append(F.conv2d(image[None], weight, shift, 2, 2, 2, 4))
    assert agree(module(x), torch.cat(found))


@pytest.mark.parametrize("kernel", [1, 3, 4])
@pytest.mark.parametrize(
    ("stride", "padding", "dilation", "groups"), [(1, 1, 1, 1), (2, 0, 1, 2), (3, 2, 2, 4), (1, 3, 1, 4)]
)
def test_an_own_kernel_is_the_same_by_groups_and_by_rows(
    kernel: int, stride: int, padding: int, dilation: int, groups: int
) -> None:
    x, kernels = randn(3, 8, 9, 11), randn(3, 12, 8 // groups, kernel, kernel)
    wanted = [
        F.conv2d(image[None], own, None, stride, padding, dilation, groups)
        for image, own in zip(x, kernels, strict=True)
    ]
    for form in (per_sample_conv.grouped, per_sample_conv.by_rows):
        assert agree(form(x, kernels, stride, padding, dilation, groups), torch.cat(wanted))


@pytest.mark.parametrize("build", [CondConv, OmniDimensionalConv])
def test_a_fixed_batch_is_one_convolution_and_a_free_one_has_none_with_its_kernels(build: type[nn.Module]) -> None:
    module, x = build(4, 6).eval(), torch.randn(2, 4, 5, 7)
    for free in (False, True):
        dims = ({0: torch.export.Dim("b", min=1)},) if free else None
        graph = torch.export.export(module, (x,), dynamic_shapes=dims).graph
        groups = [node.args[-1] for node in graph.nodes if "conv2d" in str(node.target) and len(node.args) > 6]
        assert groups == ([] if free else [2])


@pytest.mark.parametrize(("channels", "kernels", "kind"), [(14, (3, 5, 7), "equal"), (16, (3, 5, 7, 9), "exponential")])
@pytest.mark.parametrize("stride", [1, 2])
def test_mixed_convolution_filters_each_part(
    channels: int, kernels: Sequence[int], kind: Literal["equal", "exponential"], stride: int
) -> None:
    module = ready(MixConv(channels, kernels, stride, kind))
    x = randn(2, channels, 9, 8)
    y, start = module(x), 0
    assert sum(module.sizes) == channels
    for conv, kernel, size in zip(module.convs, kernels, module.sizes, strict=True):
        for c in range(size):
            one = F.conv2d(x[:, start + c : start + c + 1], conv.weight[c : c + 1], None, stride, kernel // 2)
            assert agree(y[:, start + c : start + c + 1], one)
        start += size


@pytest.mark.parametrize(
    ("channels", "parts", "kind"), [(34, 4, "equal"), (32, 4, "exponential"), (20, 3, "exponential")]
)
def test_partitions_are_whole(channels: int, parts: int, kind: str) -> None:
    sizes = partition(channels, parts, kind)
    assert sum(sizes) == channels
    assert sizes == sorted(sizes, reverse=True)


def test_inception_filters_three_parts() -> None:
    module = ready(InceptionDepthwise(16, 3, 7, 0.25))
    x = randn(2, 16, 6, 9)
    y = module(x)
    assert torch.equal(y[:, :4], x[:, :4])
    wide = F.pad(x, (3, 3, 3, 3))
    for c in range(4):
        square = module.square.bias[c] + sum(
            module.square.weight[c, 0, i, j] * wide[:, 4 + c, 2 + i : 8 + i, 2 + j : 11 + j]
            for i in range(3)
            for j in range(3)
        )
        row = module.row.bias[c] + sum(module.row.weight[c, 0, 0, j] * wide[:, 8 + c, 3:9, j : 9 + j] for j in range(7))
        column = module.column.bias[c] + sum(
            module.column.weight[c, 0, i, 0] * wide[:, 12 + c, i : 6 + i, 3:12] for i in range(7)
        )
        for place, expected in ((4, square), (8, row), (12, column)):
            assert agree(y[:, place + c], expected)


@pytest.mark.parametrize("out", [6, 8])
@pytest.mark.parametrize(
    ("start", "middle", "stride"), [(3, 5, 1), (3, 5, 2), (0, 3, 2), (5, 0, 2), (5, 0, 1), (0, 0, 1)]
)
def test_universal_bottleneck_is_its_formula(start: int, middle: int, stride: int, out: int) -> None:
    module = ready(UniversalInvertedBottleneck(6, out, start, middle, stride, 3))
    x = randn(2, 6, 9, 8)
    y = folded(module.start, start)(x, 1 if middle else stride) if start else x
    y = torch.relu(folded(module.widen, 1)(y))
    y = torch.relu(folded(module.middle, middle)(y, stride)) if middle else y
    y = folded(module.narrow, 1)(y)
    assert agree(module(x), y + x if stride == 1 and out == 6 else y)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: DepthwiseSeparable(kernel=4), "odd"),
        (lambda: MBConv(kernel=2), "odd"),
        (lambda: GhostModule(ratio=1), "at least 2"),
        (lambda: GhostModule(cheap=2), "odd"),
        (lambda: PartialConv(4, 5), "divisor"),
        (lambda: PartialConv(4, 2, 2), "odd"),
        (lambda: OmniDimensionalConv(8, 8, groups=3), "divide"),
        (lambda: OmniDimensionalConv(temperature=0), "positive"),
        (lambda: OmniDimensionalConv(kernel=2), "odd"),
        (lambda: MixConv(8, (3, 4)), "odd"),
        (lambda: MixConv(2, (3, 5, 7)), "too few"),
        (lambda: MixConv(8, (3, 5), split="other"), "equal or"),  # type: ignore[arg-type]
        (lambda: InceptionDepthwise(4), "all"),
        (lambda: InceptionDepthwise(12, ratio=1 / 3), "all"),
        (lambda: InceptionDepthwise(band=4), "odd"),
        (lambda: UniversalInvertedBottleneck(start=2), "odd"),
        (lambda: UniversalInvertedBottleneck(start=0, middle=0, stride=2), "stride"),
    ],
)
def test_what_cannot_be_is_refused(build: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
