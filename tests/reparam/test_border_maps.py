"""Border maps: each transform against PyTorch in float64, blocks that become one convolution, what stays refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, nn

from attn_export.reparam import fuse_module
from attn_export.reparam.algebra import border_map, compose, linconv, sums
from attn_export.reparam.algebra.linconv import BORDER, LinConv, NotFusibleError
from attn_export.reparam.fuse_onnx import fuse_graph
from attn_export.reparam.planning import emit
from tests.reparam.blocks import PerPixel, wake
from tests.reparam.fuzzing import check
from tests.reparam.test_blocks import count
from tests.reparam.test_linconv import FEW, Array, apply, close, convolutions, plain
from tests.reparam.test_onnx_graphs import agrees, dynamo, operators, torchscript


def shown(y: Array, pads: list[tuple[int, int]], constant: Array) -> Array:
    """Pad (or crop) ``(b, c, *space)`` with one number for each channel, by plain NumPy."""
    for axis, (left, right) in enumerate(pads, 2):
        y = y.take(range(max(0, -left), y.shape[axis] - max(0, -right)), axis)
    wider = [(0, 0), (0, 0), *((max(0, left), max(0, right)) for left, right in pads)]
    inside = np.pad(np.ones_like(y), wider)
    return np.where(inside, np.pad(y, wider), constant.reshape(1, -1, *(1,) * len(pads)))


@st.composite
def mapped(draw: Any) -> tuple[LinConv, Array, Array]:
    """A 1×1 with a bias, padded with what the bias is not; with its root and what it is in NumPy."""
    rank, channels = draw(st.sampled_from([1, 2])), draw(st.integers(1, 4))
    sizes = [draw(st.integers(6, 9)) for _ in range(rank)]
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    x = rng.standard_normal((2, channels, *sizes))
    outputs, step = draw(st.integers(1, 4)), draw(st.sampled_from([1, 1, 2]))
    conv = plain(rng.standard_normal((outputs, channels, *(1,) * rank)), 1)
    conv |= {"bias": rng.standard_normal(outputs), "strides": [step] * rank}
    pads = [(draw(st.integers(0, 2)), draw(st.integers(-1, 2))) for _ in range(rank)]
    assume(any(max(pair) > 0 for pair in pads))
    constant = rng.standard_normal(outputs) if draw(st.booleans()) else np.zeros(outputs)
    v = compose.conv(linconv.identity(channels, sizes, border_maps=True), **conv)
    try:
        for dim, (left, right) in enumerate(pads):
            v = linconv.pad(v, dim, left, right, constant)
    except NotFusibleError:  # a stride left the window short of the right border
        assume(False)
    assert v.border_map is not None
    assert v.notes >= {"static", BORDER}
    return v, x, shown(apply(x, conv), pads, constant)


@FEW
@given(mapped())
def test_padding_with_another_constant(value: tuple[LinConv, Array, Array]) -> None:
    close(*value)


@FEW
@given(mapped(), st.data())
def test_a_convolution_of_it(value: tuple[LinConv, Array, Array], data: Any) -> None:
    v, x, y = value
    conv = data.draw(convolutions(v.outputs, len(v.axes)))
    reach = [d * (k - 1) + 1 for d, k in zip(conv["dilations"], conv["weight"].shape[2:], strict=True)]
    assume(all(n >= r for n, r in zip(y.shape[2:], reach, strict=True)))
    close(compose.conv(v, **conv), x, apply(y, conv))


@FEW
@given(mapped(), st.integers(0, 2**16))
def test_scale_shift_rows_and_a_number_at_each_position(value: tuple[LinConv, Array, Array], seed: int) -> None:
    v, x, y = value
    rng = np.random.default_rng(seed)
    a, b, index = rng.standard_normal(v.outputs), rng.standard_normal(v.outputs), rng.integers(0, v.outputs, 5)
    shape, values = (1, -1, *(1,) * len(v.axes)), rng.standard_normal(y.shape[1:])
    made = linconv.shift(linconv.scale(linconv.with_border_map(v, values), a), b)
    close(linconv.rows(made, index), x, ((y + values) * a.reshape(shape) + b.reshape(shape))[:, index])


@FEW
@given(mapped(), st.integers(1, 3))
def test_stride(value: tuple[LinConv, Array, Array], step: int) -> None:
    v, x, y = value
    close(linconv.stride(v, 0, step), x, y[:, :, ::step])


@FEW
@given(mapped(), st.integers(-2, 2), st.integers(-2, 2), st.integers(0, 2**16))
def test_cropping_and_padding_it_again(value: tuple[LinConv, Array, Array], left: int, right: int, seed: int) -> None:
    v, x, y = value
    assume(y.shape[2] + min(left, 0) + min(right, 0) >= 1)
    constant = np.random.default_rng(seed).standard_normal(v.outputs)
    try:
        padded = linconv.pad(v, 0, left, right, constant)
    except NotFusibleError as error:
        refused = error.reason
        assume("border" not in refused)  # the window is all that is left to refuse
        raise
    close(padded, x, shown(y, [(left, right), *((0, 0),) * (y.ndim - 3)], constant))


@FEW
@given(mapped(), st.integers(0, 2**16))
def test_sums_and_concatenations(value: tuple[LinConv, Array, Array], seed: int) -> None:
    v, x, y = value
    weight = np.random.default_rng(seed).standard_normal((v.outputs, v.outputs, *(1,) * len(v.axes)))
    other, z = compose.conv(v, weight), apply(y, plain(weight, 1))
    mapless = replace(v, border_map=None, notes=frozenset())  # the same window without a map
    w = y - v.border_map()[None]  # type: ignore[misc]
    close(sums.add([v, mapless, other]), x, y + w + z)
    close(sums.concat([mapless, v, other]), x, np.concatenate([w, y, z], axis=1))


def test_without_leave_and_with_dynamic_sizes_it_is_refused_with_a_way_out() -> None:
    def padded(size: int | None, *, border_maps: bool) -> LinConv:
        v = linconv.shift(linconv.identity(2, [size, 8], border_maps=border_maps), np.array([0.0, 0.5]))
        return linconv.pad(v, 1, 1, 1)

    assert padded(8, border_maps=True).border_map is not None
    with pytest.raises(NotFusibleError, match=r"padded with 0 where its bias makes 0\.5") as caught:
        padded(8, border_maps=False)
    assert caught.value.remedy.endswith("or allow a border map with --border-maps")
    with pytest.raises(NotFusibleError, match="a border map holds for one size, but an axis is dynamic") as caught:
        padded(None, border_maps=True)
    assert caught.value.remedy.endswith("or export a fixed size")
    with pytest.raises(NotFusibleError) as caught:
        padded(None, border_maps=False)
    assert caught.value.remedy.endswith("or allow a border map with --border-maps, and export a fixed size")


class Ecb(nn.Module):
    """ECBSR's block without care for the border: 1×1 with bias → zero-padded 3×3, twice, beside a 3×3."""

    def __init__(self, *, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, stride, 1, groups=groups)
        self.expand, self.squeeze = nn.Conv2d(8, 16, 1), nn.Conv2d(16, 8, 3, stride, 1)
        self.one, self.edge = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 3, stride, 1, groups=8)

    def forward(self, x: Tensor) -> Tensor:
        """Sum the branches."""
        return torch.relu(self.conv(x) + self.squeeze(self.expand(x)) + self.edge(self.one(x)))


class Dbb(nn.Module):
    """A diverse branch block whose 1×1 → k×k branch has norms and pads with zeros; one branch averages."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.chain = nn.Sequential(
            nn.Conv2d(8, 8, 1, bias=False), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        )
        self.mean = nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8), nn.AvgPool2d(3, 1, 1), nn.BatchNorm2d(8))

    def forward(self, x: Tensor) -> Tensor:
        """Sum the branches."""
        return torch.relu(self.norm(self.conv(x)) + self.chain(x) + self.mean(x))


class Tokens(nn.Module):
    """A patch embedding, a number for each token and channel, and a matrix: what per-pixel terms look like."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.place = nn.Conv2d(3, 8, 4, 4), nn.Parameter(torch.randn(1, 12, 8))
        self.norm, self.mix = nn.BatchNorm1d(8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Embed, place, mix."""
        return torch.relu(self.mix(self.patch(x).flatten(2).transpose(1, 2) + self.place))


class Enlarged(nn.Module):
    """The head of a super-resolution net: the map lies before the pixel shuffle."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.body = nn.Conv2d(8, 32, 1), nn.Conv2d(32, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        """Enlarge by two."""
        return torch.relu(self.norm(F.pixel_shuffle(self.body(self.enter(x)), 2)))


def line() -> nn.Module:
    return nn.Sequential(nn.Conv1d(6, 12, 1), nn.Conv1d(12, 6, 5, 2, 4, dilation=2), nn.BatchNorm1d(6))


_IMAGE = (2, 8, 14, 13)
BLOCKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int]] = {
    "ecb": (Ecb, _IMAGE, 5),
    "ecb-stride": (lambda: Ecb(stride=2), _IMAGE, 5),
    "ecb-groups": (lambda: Ecb(groups=2), _IMAGE, 5),
    "dbb": (Dbb, _IMAGE, 4),
    "line": (line, (2, 6, 21), 2),
    "enlarged": (Enlarged, _IMAGE, 2),
    "inverted": (
        lambda: nn.Sequential(nn.Conv2d(8, 32, 1), nn.Conv2d(32, 8, 3, padding=1), nn.Conv2d(8, 8, 1)), _IMAGE, 3
    ),
}  # fmt: skip


def convs(model: nn.Module) -> int:
    return sum(n for kind, n in count(model).items() if kind.lower().startswith("conv"))


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_become_one_convolution_with_a_map(name: str) -> None:
    build, shape, before = BLOCKS[name]
    torch.manual_seed(3)
    module, x = wake(build()), torch.randn(shape)
    fusion = fuse_module(module, (x,), border_maps=True, fuse_cost="flops")
    assert convs(fusion.model) == 1, fusion.refusals
    assert fusion.certificate.worst <= 1e-13
    (site,) = (site for site in fusion.sites if BORDER in site.notes)
    assert site.structure, "bit-equal under dyadic weights, biases among them"
    assert site.error is not None
    assert site.error <= 1e-13
    assert "border map" in site.pattern
    plainly = fuse_module(module, (x,), fuse_cost="flops")
    assert convs(plainly.model) > 1
    assert any("--border-maps" in refusal.remedy for refusal in plainly.refusals)
    auto = torch.export.Dim.AUTO
    free = fuse_module(
        module, (x,), border_maps=True, fuse_cost="flops", dynamic=(dict.fromkeys(range(2, x.ndim), auto),)
    )
    assert convs(free.model) == convs(plainly.model)
    assert any("dynamic" in refusal.reason and "fixed size" in refusal.remedy for refusal in free.refusals)
    assert before > 1


@pytest.mark.parametrize("name", ["ecb", "dbb", "enlarged"])
def test_files_are_repaired_alike(name: str) -> None:
    build, shape, _ = BLOCKS[name]
    torch.manual_seed(4)
    module, x = wake(build()), torch.randn(shape)
    for model in (dynamo(module, x), torchscript(module, x)):
        fusion = fuse_graph(model, border_maps=True, fuse_cost="flops")
        kinds = operators(fusion.model)
        assert (kinds["Conv"], kinds["Add"]) == (1, 1)
        agrees(model, fusion, shape)
        assert operators(fuse_graph(model, fuse_cost="flops").model)["Conv"] > 1
    free = fuse_graph(dynamo(module, x, dynamic=True), border_maps=True, fuse_cost="flops")
    assert operators(free.model)["Conv"] > 1
    assert any("dynamic" in refusal.reason for refusal in free.refusals)


def test_a_term_for_each_position_moves_through_and_a_factor_is_refused() -> None:
    torch.manual_seed(5)
    module, x = wake(Tokens()), torch.randn(2, 3, 12, 16)
    fusion = fuse_module(module, (x,), border_maps=True)
    kinds = count(fusion.model)
    assert (kinds["Conv2d"] + kinds["conv2d"], kinds["Linear"] + kinds["linear"]) == (1, 0)
    assert fusion.certificate.worst <= 1e-13
    assert all(site.structure for site in fusion.sites)
    scaled = fuse_module(wake(nn.Sequential(PerPixel(), nn.Conv2d(8, 8, 1))), (torch.randn(_IMAGE),), border_maps=True)
    assert not scaled.sites
    assert any("differs between positions" in refusal.reason for refusal in scaled.refusals)


def test_a_map_trains_and_is_fused_again_to_itself() -> None:
    torch.manual_seed(6)
    module, x = wake(Ecb()), torch.randn(_IMAGE)
    fused = fuse_module(module, (x,), border_maps=True).model
    shift = next(p for name, p in fused.named_parameters() if name.endswith(".shift"))
    assert shift.shape == (1, 8, 14, 13)
    fused(x).sum().backward()
    assert shift.grad is not None
    assert shift.grad.abs().sum() > 0
    again = fuse_module(fused, (x,), border_maps=True)
    assert not again.sites
    assert not again.refusals, again.refusals


def test_the_price_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    """A map is five passes: between equal widths the 1×1 is cheaper, and what does not pay says so."""
    torch.manual_seed(7)
    same = nn.Sequential(nn.Conv2d(32, 32, 1), nn.Conv2d(32, 32, 3, padding=1))
    wide = nn.Sequential(nn.Conv2d(32, 128, 1), nn.Conv2d(128, 32, 3, padding=1))
    x = torch.randn(1, 32, 64, 64)
    fusion = fuse_module(wake(same), (x,), border_maps=True)
    assert convs(fusion.model) == 2
    assert any(refusal.reason.endswith("after)") and "border map" in refusal.reason for refusal in fusion.refusals)
    assert convs(fuse_module(wake(wide), (x,), border_maps=True).model) == 1
    monkeypatch.setattr("attn_export.reparam.planning.cost.MAP_PASSES", 1)
    monkeypatch.setattr("attn_export.reparam.planning.profitability.DOUBT", 1.0)
    assert convs(fuse_module(wake(same), (x,), border_maps=True).model) == 1, "it is the price that holds it"


NETS, FIRST = 500, 2_000_000


@pytest.mark.fuzz
def test_no_bit_is_wrong_with_repairs() -> None:
    verdicts = [check(FIRST + n, border_maps=True) for n in range(NETS)]
    assert not [v for v in verdicts if v.wrong]
    assert sum(v.maps for v in verdicts) > NETS / 5, "a fuzz without a border map proves nothing"


def _painted_inside_only(*given: Any) -> Any:
    root, root_layout, state, *rest = given
    return emit.lower(root, root_layout, replace(state, lin=replace(state.lin, border_map=None)), *rest)


FAULTS = ["interior everywhere", "corners", "kernel turned round"]


@pytest.mark.fuzz
@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_map_is_caught(monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    """The bias of the interior at the border, too; a map of one axis only; one that another kernel made."""
    if fault == FAULTS[0]:
        monkeypatch.setattr(emit, "_with_border_map", _painted_inside_only)
    elif fault == FAULTS[1]:
        pad = border_map.padded
        monkeypatch.setattr(border_map, "padded", lambda i, dim, a, b, c: pad(i, dim, a, b, c * (dim == 0)))
    else:
        made = border_map.convolved
        monkeypatch.setattr(border_map, "convolved", lambda i, w, *more: made(i, np.flip(w, 2), *more))
    assert sum(bool(check(FIRST + n, border_maps=True).wrong) for n in range(100)) >= 2
    torch.manual_seed(8)
    fusion = fuse_module(wake(Ecb()), (torch.randn(_IMAGE),), border_maps=True)
    assert fusion.rolled_back, "and the certificate of the site sees it"
    assert fusion.certificate.ok
