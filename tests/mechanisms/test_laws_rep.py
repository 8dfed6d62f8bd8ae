"""Re-parameterised blocks without reference vectors: each is the kernel that its formula says, folded by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attn_export.mechanisms._layers.conv_bn import ConvBN
from attn_export.mechanisms.rep.acnet import ACNet
from attn_export.mechanisms.rep.dbb import DiverseBranchBlock
from attn_export.mechanisms.rep.dbb_transform_3 import ConvSequence
from attn_export.mechanisms.rep.dilated_reparam import DilatedReparam
from attn_export.mechanisms.rep.ecb import EdgeBlock
from attn_export.mechanisms.rep.mobileone import MobileOne
from attn_export.mechanisms.rep.mobileone_block import MobileOneBlock, OverParameterised
from attn_export.mechanisms.rep.qarepvgg import QARepVGGBlock
from attn_export.mechanisms.rep.repghost import RepGhostBottleneck, RepGhostModule
from attn_export.mechanisms.rep.replk import RepLKBlock
from attn_export.mechanisms.rep.repmixer import RepMixer
from attn_export.mechanisms.rep.repvgg import RepVGG, RepVGGBlock
from attn_export.mechanisms.rep.repvit_block import RepViTBlock
from tests.mechanisms.folding import Kernel, affine, agree, folded, identity, normed, plain, randn, ready


def over(unit: Any) -> Kernel:
    """MobileOne's over-parameterised convolution as one kernel."""
    first = unit.branches[0].conv
    side, groups = first.kernel_size[0], first.groups
    kernels = [folded(branch, side) for branch in unit.branches]
    if unit.point is not None:
        kernels.append(folded(unit.point, side))
    if unit.identity is not None:
        kernels.append(normed(identity(first.in_channels, side, groups), unit.identity))
    total = kernels[0]
    for kernel in kernels[1:]:
        total = total + kernel
    return total


def mobileone(block: Any, x: Tensor, stride: int) -> Tensor:
    u = torch.relu(over(block.depthwise)(x, stride))
    return torch.relu(over(block.pointwise)(u))


@pytest.mark.parametrize(("out", "side", "stride"), [(8, 3, 1), (12, 5, 2), (8, 3, 2)])
def test_mobileone_block_is_two_kernels(out: int, side: int, stride: int) -> None:
    module = ready(MobileOneBlock(8, out, side, stride, branches=3))
    assert (module.depthwise.identity is not None) == (stride == 1)
    assert (module.pointwise.identity is not None) == (out == 8)
    x = randn(2, 8, 7, 9)
    assert agree(module(x), mobileone(module, x, stride))


def test_mobileone_is_its_blocks_at_the_strides_of_the_paper() -> None:
    module = ready(MobileOne((6, 6, 8, 8, 10), (1, 2, 1, 1), 2, 5))
    x = randn(2, 3, 37, 32)
    y = torch.relu(over(module.stem)(x, 2))
    for stage in module.stages:
        for i, block in enumerate(stage):
            y = mobileone(block, y, 2 if i == 0 else 1)
    assert y.shape[2:] == (2, 1)
    assert agree(module(x), y.mean((2, 3)) @ module.head.weight.T + module.head.bias)


def test_mobileone_s0_has_the_parameters_of_the_paper_when_deployed() -> None:
    """2.1 million (table 4): a kernel and a bias for each over-parameterised convolution, and the classifier."""
    module = MobileOne()
    parts = [m for m in module.modules() if isinstance(m, OverParameterised)]
    convs = [unit.conv for p in parts for unit in list(p.branches)[:1] if isinstance(unit, ConvBN)]
    assert len(convs) == len(parts)
    deployed = sum(conv.weight.numel() + conv.out_channels for conv in convs)
    assert round((deployed + sum(p.numel() for p in module.head.parameters())) / 1e6, 1) == 2.1


def test_repvgg_is_its_blocks_at_the_strides_of_the_paper() -> None:
    module = ready(RepVGG((4, 4, 6, 6, 8), (1, 2, 1, 1), 5))
    x = randn(2, 3, 33, 40)
    y = x
    for block, stride in [(module.stem, 2), *((b, 2 if i == 0 else 1) for s in module.stages for i, b in enumerate(s))]:
        kernel = folded(block.dense, 3) + folded(block.pointwise, 3)
        if block.identity is not None:
            kernel = kernel + normed(identity(y.shape[1], 3), block.identity)
        y = torch.relu(kernel(y, stride))
    assert agree(module(x), y.mean((2, 3)) @ module.head.weight.T + module.head.bias)


@pytest.mark.parametrize(("stride", "groups", "side"), [(1, 1, 3), (2, 1, 3), (1, 4, 5), (2, 2, 5)])
def test_diverse_branches_are_one_kernel(stride: int, groups: int, side: int) -> None:
    module = ready(DiverseBranchBlock(8, 12, side, stride, groups))
    kernel = folded(module.square, side) + folded(module.point, side)
    # 1×1 then k×k, tap by tap and group by group.
    before, then = folded(module.before_square, 1), plain(module.then_square.conv, side)
    weight, bias = torch.zeros_like(then.weight), torch.zeros(12, dtype=torch.float64)
    for o in range(12):
        first = o // (12 // groups) * (8 // groups)
        for m in range(8 // groups):
            weight[o] += before.weight[first + m, :, 0, 0][:, None, None] * then.weight[o, m]
            bias[o] += before.bias[first + m] * then.weight[o, m].sum()
    kernel = kernel + normed(Kernel(weight, bias, groups), module.then_square.bn)
    # 1×1 then the mean of k² pixels.
    mixed = folded(module.before_average, 1)
    spread = mixed.weight.expand(-1, -1, side, side) / side**2
    kernel = kernel + normed(Kernel(spread, mixed.bias, groups), module.average_norm)
    x = randn(2, 8, 7, 9)
    assert agree(module(x), kernel(x, stride))


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("bias", [True, False])
def test_a_sequence_with_its_border_is_one_kernel(groups: int, bias: bool) -> None:
    module = ready(ConvSequence(8, 12, 16, 5, groups, bias))
    inner, outer = plain(module.pointwise, 1), plain(module.spatial, 5)
    weight, shift = torch.zeros(16, 8 // groups, 5, 5, dtype=torch.float64), outer.bias.clone()
    for o in range(16):
        first = o // (16 // groups) * (12 // groups)
        for m in range(12 // groups):
            weight[o] += inner.weight[first + m, :, 0, 0][:, None, None] * outer.weight[o, m]
            shift[o] += inner.bias[first + m] * outer.weight[o, m].sum()
    x = randn(2, 8, 7, 9)
    assert agree(module(x), Kernel(weight, shift, groups)(x))


@pytest.mark.parametrize("stride", [1, 2])
def test_asymmetric_branches_are_a_cross_in_the_square(stride: int) -> None:
    module = ready(ACNet(8, 12, 5, stride, 4))
    kernel = folded(module.square, 5) + folded(module.row, 5) + folded(module.column, 5)
    x = randn(2, 8, 8, 7)
    assert agree(module(x), torch.relu(kernel(x, stride)))


@pytest.mark.parametrize("side", [5, 7, 9, 11, 13, 15, 17])
def test_dilated_branches_lie_inside_the_large_kernel(side: int) -> None:
    module = ready(DilatedReparam(4, side))
    kernel = folded(module.large, side)
    for branch in module.small:
        kernel = kernel + folded(branch, side)
    x = randn(2, 4, 11, 10)
    assert agree(module(x), kernel(x))


def test_replk_is_one_large_kernel_between_two_mixings() -> None:
    module = ready(RepLKBlock(6, 9, 3, 2))
    x = randn(2, 6, 8, 7)
    scale, shift = affine(module.norm)
    u = torch.relu(folded(module.widen, 1)(x * scale[:, None, None] + shift[:, None, None]))
    v = torch.relu((folded(module.large, 9) + folded(module.small, 9))(u))
    assert agree(module(x), x + folded(module.narrow, 1)(v))


@pytest.mark.parametrize("side", [3, 7])
def test_repmixer_is_one_depthwise_kernel(side: int) -> None:
    module = ready(RepMixer(6, side))
    one = identity(6, side, 6)
    kernel = folded(module.dense, side) + folded(module.point, side) + normed(one, module.identity)
    minus = normed(one, module.norm).scaled(-torch.ones(6, dtype=torch.float64))
    x = randn(2, 6, 8, 7)
    assert agree(module(x), (one + (kernel + minus).scaled(module.gamma))(x))


def test_repmixer_starts_as_the_identity_nearly() -> None:
    x = randn(1, 4, 5, 5)
    assert (RepMixer(4).double().eval()(x) - x).abs().max() < 1e-3


@pytest.mark.parametrize(("out", "stride", "groups"), [(8, 1, 1), (8, 2, 2), (12, 1, 4)])
def test_qarepvgg_normalises_the_sum(out: int, stride: int, groups: int) -> None:
    module = ready(QARepVGGBlock(8, out, stride, groups))
    kernel = folded(module.dense, 3) + plain(module.pointwise, 3)
    if out == 8 and stride == 1:
        kernel = kernel + identity(8, 3, groups)
    x = randn(2, 8, 7, 6)
    assert agree(module(x), torch.relu(normed(kernel, module.norm)(x, stride)))


def ghost(module: Any, x: Tensor, *, linear: bool = False) -> Tensor:
    u = folded(module.primary, 1)(x)
    u = u if linear else torch.relu(u)
    channels, side = u.shape[1], module.cheap.conv.kernel_size[0]
    return (folded(module.cheap, side) + normed(identity(channels, side, channels), module.identity))(u)


def test_repghost_module_is_a_mixing_and_one_filter() -> None:
    module = ready(RepGhostModule(6, 8, 5))
    x = randn(2, 6, 7, 6)
    assert agree(module(x), torch.relu(ghost(module, x)))


@pytest.mark.parametrize(("out", "stride", "squeeze"), [(8, 1, 0.0), (12, 2, 0.25), (12, 1, 0.5), (8, 2, 0.0)])
def test_repghost_bottleneck_is_its_formula(out: int, stride: int, squeeze: float) -> None:
    module = ready(RepGhostBottleneck(8, 6, out, 5, stride, squeeze))
    x = randn(2, 8, 9, 7)
    y = torch.relu(ghost(module.first, x))
    if stride > 1:
        y = folded(module.shrink, 5)(y, stride)
    if squeeze:
        hidden = torch.relu(plain(module.gate.conv_reduce, 1)(y.mean((2, 3), keepdim=True)))
        y = y * ((plain(module.gate.conv_expand, 1)(hidden) + 3) / 6).clamp(0, 1)
    y = ghost(module.second, y, linear=True)
    if stride == 1 and out == 8:
        assert agree(module(x), y + x)
    else:
        assert agree(module(x), y + folded(module.shortcut[1], 1)(folded(module.shortcut[0], 5)(x, stride)))


@pytest.mark.parametrize(("out", "stride", "gate"), [(8, 1, True), (12, 2, True), (8, 1, False), (8, 2, False)])
def test_repvit_is_its_formula(out: int, stride: int, gate: bool) -> None:
    module = ready(RepViTBlock(8, out, stride, gate=gate))
    x = randn(2, 8, 9, 6)
    if stride == 1:
        inner = folded(module.filter.dense, 3) + plain(module.filter.point, 3) + identity(8, 3, 8)
        u = normed(inner, module.filter.norm)(x)
    else:
        u = folded(module.filter, 3)(x, 2)
    if gate:
        hidden = torch.relu(u.mean((2, 3)) @ module.gate.squeeze.weight.flatten(1).T)
        u = u * torch.sigmoid(hidden @ module.gate.excite.weight.flatten(1).T)[:, :, None, None]
    if stride == 2:
        u = folded(module.mix, 1)(u)
    z = folded(module.widen, 1)(u)
    assert agree(module(x), u + folded(module.narrow, 1)(z * 0.5 * (1 + torch.erf(z / 2**0.5))))


@pytest.mark.parametrize(("out", "same"), [(6, False), (6, True), (4, False)])
def test_edge_branches_are_one_kernel(out: int, same: bool) -> None:
    module = ready(EdgeBlock(6, out, 3, same))
    weight, bias = module.plain.weight.clone(), module.plain.bias.clone()
    weight += torch.einsum("omij,mc->ocij", module.then.weight, module.before.weight[:, :, 0, 0])
    bias += torch.einsum("omij,m->o", module.then.weight, module.before.bias) + module.then.bias
    smooth, slope = torch.tensor([1.0, 2.0, 1.0]).double(), torch.tensor([1.0, 0.0, -1.0]).double()
    dot, second = torch.tensor([0.0, 1.0, 0.0]).double(), torch.tensor([1.0, -2.0, 1.0]).double()
    masks = [
        torch.outer(smooth, slope),
        torch.outer(slope, smooth),
        torch.outer(dot, second) + torch.outer(second, dot),
    ]
    for edge, mask in zip(module.edges, masks, strict=True):
        taps = edge.scale * mask  # o 1 3 3
        weight += edge.mix.weight * taps
        bias += taps.sum((1, 2, 3)) * edge.mix.bias + edge.shift
    if same:
        weight[range(6), range(6), 1, 1] += 1
    x = randn(2, 6, 5, 7)
    y = F.conv2d(x, weight, bias, padding=1)
    assert agree(module(x), torch.where(y > 0, y, y * module.activation.weight[:, None, None]))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: RepVGGBlock(8, groups=3), "divide"),
        (lambda: QARepVGGBlock(8, 12, groups=8), "divide"),
        (lambda: ACNet(8, kernel=4), "odd"),
        (lambda: ACNet(8, groups=3), "divide"),
        (lambda: DiverseBranchBlock(kernel=1), "at least 3"),
        (lambda: DiverseBranchBlock(8, 8, groups=3), "divide"),
        (lambda: MobileOneBlock(branches=0), "positive"),
        (lambda: DilatedReparam(kernel=6), "known branches"),
        (lambda: DilatedReparam(kernel=7, branches=((4, 1),)), "odd"),
        (lambda: DilatedReparam(kernel=7, branches=((5, 2),)), "below kernel"),
        (lambda: RepLKBlock(kernel=5), "below kernel"),
        (lambda: RepMixer(kernel=1), "at least 3"),
        (lambda: RepGhostBottleneck(kernel=4), "odd"),
        (lambda: RepViTBlock(8, 12), "stride 1"),
        (lambda: RepViTBlock(8, 8, 3), "1 or 2"),
        (lambda: RepViTBlock(6), "divide"),
        (lambda: EdgeBlock(6, 4, identity=True), "identity"),
    ],
)
def test_what_cannot_be_is_refused(build: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
