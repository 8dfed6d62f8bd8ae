"""Laws and slow references of the attention entries that gate, filter, shift, or attend along parts of a map."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attn_export.export.weights.randomize import randomize
from attn_export.mechanisms._layers.cross_scale import CrossScale
from attn_export.mechanisms._layers.deformable import DeformableAttention
from attn_export.mechanisms._layers.overlapped import GlobalBlock, OverlappedAttention
from attn_export.mechanisms._layers.polarized import PolarizedChannelGate, PolarizedSpatialGate
from attn_export.mechanisms._layers.windows import WindowAttention
from attn_export.mechanisms.attention.acmix import ACmix
from attn_export.mechanisms.attention.axial_attention import AxialAttention
from attn_export.mechanisms.attention.axial_image_transformer import AxialImageTransformer
from attn_export.mechanisms.attention.coordatt import CoordinateAttention
from attn_export.mechanisms.attention.cot import ContextualTransformer
from attn_export.mechanisms.attention.criss_cross import CrissCrossAttention
from attn_export.mechanisms.attention.crossformer import CrossFormer
from attn_export.mechanisms.attention.crossformer import block as crossformer_block
from attn_export.mechanisms.attention.dat import DAT
from attn_export.mechanisms.attention.gfnet import GFNet
from attn_export.mechanisms.attention.gfnet_filter import GlobalFilter
from attn_export.mechanisms.attention.moa import MOATransformer
from attn_export.mechanisms.attention.mobilevit_attention import MobileViTBlock
from attn_export.mechanisms.attention.mobilevitv2 import SeparableSelfAttention
from attn_export.mechanisms.attention.parnet import ParNetBlock
from attn_export.mechanisms.attention.residual_attention import ResidualAttention
from attn_export.mechanisms.attention.s2 import S2Attention
from attn_export.mechanisms.attention.simam import SimAM
from attn_export.mechanisms.attention.ufo import UFOAttention

TINY = 1e-12


@pytest.fixture(autouse=True)
def _no_gradients() -> Any:
    torch.manual_seed(0)
    with torch.no_grad():
        yield


def awake(module: nn.Module) -> nn.Module:
    randomize(module)
    return module.double().eval()


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def apart(a: Tensor, b: Tensor) -> float:
    assert a.shape == b.shape
    return float((a - b).abs().max() / b.abs().max())


def heads_attend(q: Tensor, k: Tensor, v: Tensor, heads: int, bias: Tensor | float = 0.0) -> Tensor:
    """Attention of ``n c`` to ``m c``, head by head."""
    parts = []
    for i, (qi, ki, vi) in enumerate(zip(q.chunk(heads, -1), k.chunk(heads, -1), v.chunk(heads, -1), strict=True)):
        logits = torch.einsum("nd,md->nm", qi, ki) / math.sqrt(qi.shape[1])
        logits = logits + (bias[i] if isinstance(bias, Tensor) else bias)
        parts.append(torch.einsum("nm,md->nd", logits.softmax(-1), vi))
    return torch.cat(parts, -1)


# ---- gates ----------------------------------------------------------------------------------------------------------


def test_polarized_gates_lie_between_zero_and_one_and_follow_the_paper() -> None:
    x = 3 * normal(2, 8, 5, 4)
    channel, spatial = awake(PolarizedChannelGate(8)), awake(PolarizedSpatialGate(8))
    v = torch.einsum("dc,bchw->bdhw", channel.value.weight, x) + channel.value.bias[:, None, None]
    a = F.conv2d(x, channel.query.weight, channel.query.bias).flatten(2).softmax(-1)
    z = torch.einsum("bdn,bn->bd", v.flatten(2), a[:, 0])
    gate = torch.sigmoid(channel.norm(z @ channel.expand.weight.T + channel.expand.bias))
    assert apart(channel(x).flatten(1), gate) <= TINY
    q = torch.einsum("dc,bchw->bdhw", spatial.query.weight, x) + spatial.query.bias[:, None, None]
    v = torch.einsum("dc,bchw->bdhw", spatial.value.weight, x) + spatial.value.bias[:, None, None]
    gate = torch.sigmoid(torch.einsum("bd,bdhw->bhw", q.mean((2, 3)).softmax(1), v))
    assert apart(spatial(x)[:, 0], gate) <= TINY
    for value in (channel(x), spatial(x)):
        assert 0 <= value.min() <= value.max() <= 1


def test_coordinate_gates_shrink() -> None:
    x = normal(2, 16, 5, 7)
    ratio = awake(CoordinateAttention(16, 4))(x) / x
    assert 0 <= ratio.min() <= ratio.max() <= 1


def test_simam_keeps_most_of_what_stands_out() -> None:
    x = normal(2, 4, 5, 7)
    ratio = SimAM()(x) / x
    assert ratio.min() >= torch.sigmoid(torch.tensor(0.5)).item() - TINY
    assert ratio.max() <= 1
    x[0, 0, 2, 3] = 40.0
    far = SimAM()(x)[0, 0] / x[0, 0]
    assert far.argmax() == 2 * 7 + 3


def test_residual_attention_of_a_high_temperature_is_that_of_the_maximum() -> None:
    x = normal(2, 8, 3, 4)
    sharp, soft = awake(ResidualAttention(8, 5, temperatures=(1e6,))), awake(ResidualAttention(8, 5))
    soft.load_state_dict(sharp.state_dict())
    assert apart(sharp(x), soft(x)) <= 1e-6
    several = awake(ResidualAttention(8, 5, la=0.3, temperatures=(1.0, 2.0, None)))
    scores = torch.einsum("kc,bcn->bkn", several.scores.weight.flatten(1), x.flatten(2))
    one, two, top = scores.chunk(3, 1)
    expected = scores.mean(-1).reshape(2, 3, 5).sum(1) + 0.3 * top.amax(-1)
    expected = expected + 0.3 * ((one.softmax(-1) * one).sum(-1) + ((2 * two).softmax(-1) * two).sum(-1))
    assert apart(several(x), expected) <= TINY


# ---- permutations ---------------------------------------------------------------------------------------------------


def test_pixels_may_be_permuted_where_nothing_knows_their_place() -> None:
    x = normal(2, 8, 5, 4)
    order = torch.randperm(20)
    moved = x.flatten(2)[..., order].reshape(x.shape)
    for module in (PolarizedSpatialGate(8), SimAM()):
        expected = awake(module)(x).flatten(2)[..., order].flatten()
        assert apart(module(moved).flatten(), expected) <= TINY


@pytest.mark.parametrize("build", [CrissCrossAttention, AxialAttention])
def test_rows_and_columns_may_be_permuted_in_crosses(build: type[nn.Module]) -> None:
    x, rows, columns = normal(2, 16, 5, 4), torch.randperm(5), torch.randperm(4)
    module = awake(build(16))
    assert apart(module(x[:, :, rows][..., columns]), module(x)[:, :, rows][..., columns]) <= TINY


def test_tokens_may_be_permuted_in_separable_and_ufo_attention() -> None:
    x, y, order = normal(2, 7, 16), normal(2, 9, 16), torch.randperm(7)
    separable, ufo = awake(SeparableSelfAttention(16)), awake(UFOAttention(16, 2))
    assert apart(separable(x[:, order]), separable(x)[:, order]) <= TINY
    assert apart(ufo(x[:, order], y, y), ufo(x, y, y)[:, order]) <= TINY
    shuffled = y[:, torch.randperm(9)]
    assert apart(ufo(x, shuffled, shuffled), ufo(x, y, y)) <= TINY


def test_ufo_forgets_the_scale_of_keys_and_survives_zeros() -> None:
    ufo = awake(UFOAttention(16, 2))
    for layer in (ufo.query, ufo.key, ufo.value):
        layer.bias.zero_()
    x, y = normal(1, 4, 16), normal(1, 5, 16)
    assert apart(ufo(x, 1e3 * y, y), ufo(x, y, y)) <= TINY
    assert torch.isfinite(ufo(0 * x, 0 * y, 0 * y)).all()


# ---- references -----------------------------------------------------------------------------------------------------


def test_separable_attention_follows_the_paper() -> None:
    x, module = normal(2, 7, 16), awake(SeparableSelfAttention(16))
    context = (module.score(x).softmax(1) * module.key(x)).sum(1, keepdim=True)
    assert apart(module(x), module.out(F.relu(module.value(x)) * context)) <= TINY


def test_parnet_gates_the_normalised_skip() -> None:
    x, module = normal(2, 8, 5, 4), awake(ParNetBlock(8))
    z = module.norm(x)
    gate = torch.sigmoid(module.gate(F.adaptive_avg_pool2d(z, 1)))
    assert apart(module(x), F.silu(module.conv1(x) + module.conv3(x) + z * gate)) <= TINY


def test_s2_shifts_quarters_on_any_map() -> None:
    x, module = normal(2, 8, 5, 4), awake(S2Attention(8))

    def moved(part: Tensor, dy: int, dx: int) -> Tensor:
        y = torch.empty_like(part)
        for i, j in itertools.product(range(5), range(4)):
            y[:, :, i, j] = part[:, :, min(max(i - dy, 0), 4), min(max(j - dx, 0), 3)]
        return y

    down, up, right, left = (1, 0), (-1, 0), (0, 1), (0, -1)
    parts = module.mlp1(x).chunk(3, 1)
    maps = [
        torch.cat([moved(q, *way) for q, way in zip(part.chunk(4, 1), ways, strict=True)], 1)
        for part, ways in zip(parts, ((down, up, right, left), (right, left, down, up)), strict=False)
    ]
    stacked = torch.stack([*maps, parts[2]], 1)
    logits = module.split.mlp2(F.gelu(module.split.mlp1(stacked.sum((1, 3, 4))))).reshape(2, 3, 8)
    expected = module.mlp2(torch.einsum("bkc,bkchw->bchw", logits.softmax(1), stacked))
    assert apart(module(x), expected) <= TINY


def test_gfnet_follows_the_paper() -> None:
    image, module = normal(2, 3, 24, 24), awake(GFNet(24, 4, 8, depth=2))
    x = module.embed(image).flatten(2).transpose(1, 2) + module.position
    for block in module.blocks:
        spectrum = torch.fft.rfft2(block.norm1(x).reshape(2, 6, 6, 8), dim=(1, 2), norm="ortho")
        weight = torch.view_as_complex(block.filter.weight.contiguous())
        filtered = torch.fft.irfft2(spectrum * weight, s=(6, 6), dim=(1, 2), norm="ortho").flatten(1, 2)
        x = x + block.mlp(block.norm2(filtered))
    assert apart(module(image), module.head(module.norm(x).mean(1))) <= TINY


def test_a_global_filter_is_a_circular_convolution() -> None:
    module = awake(GlobalFilter(4, 5, 6))
    x = normal(1, 5, 6, 4)
    turned = module(x.roll((2, 3), (1, 2)).flatten(1, 2)).reshape(1, 5, 6, 4)
    assert apart(turned, module(x.flatten(1, 2)).reshape(1, 5, 6, 4).roll((2, 3), (1, 2))) <= TINY


@pytest.mark.parametrize(("kernel", "groups", "share"), [(3, 4, 8), (5, 2, 4)])
def test_cot_aggregates_windows(kernel: int, groups: int, share: int) -> None:
    x, module = normal(2, 16, 5, 4), awake(ContextualTransformer(16, kernel, groups, share))
    static = module.key(x)
    weights = module.weigh(torch.cat((x, static), 1)).reshape(2, 16 // share, kernel**2, 20)
    windows = F.unfold(module.value(x), kernel, padding=kernel // 2).reshape(2, 16, kernel**2, 20)
    mixed = torch.stack([(windows[:, c] * weights[:, c % (16 // share)]).sum(1) for c in range(16)], 1)
    dynamic = F.silu(module.norm(mixed.reshape(x.shape)))
    logits = module.gate((static + dynamic).mean((2, 3), keepdim=True)).reshape(2, 16, 2, 1, 1)
    both = torch.stack((dynamic, static), 2)
    assert apart(module(x), (logits.softmax(2) * both).sum(2)) <= TINY


@pytest.mark.parametrize(
    "options",
    [{}, {"window": 5, "kernel": 5}, {"stride": 2}, {"stride": 3, "out_channels": 8, "kernel": 1}],
    ids=str,
)
def test_acmix_attends_in_mirrored_windows(options: dict[str, int]) -> None:
    x, module = normal(2, 16, 7, 9), awake(ACmix(16, **options))
    window, stride, kernel = module.window, module.stride, module.shift.kernel_size[0]
    heads, depth, reach = module.heads, module.depth, module.window // 2
    q, k, v = (part.reshape(2, heads, depth, 7, 9) for part in module.qkv(x).chunk(3, 1))
    y, z = torch.linspace(-1, 1, 7, dtype=torch.float64), torch.linspace(-1, 1, 9, dtype=torch.float64)
    place = torch.stack((z.expand(7, 9), y[:, None].expand(7, 9)))
    place = torch.einsum("dp,phw->dhw", module.position.weight, place)

    def mirrored(i: int, size: int) -> int:
        return size - 1 - abs(size - 1 - abs(i))

    rows, columns = range(0, 7, stride), range(0, 9, stride)
    attended = torch.zeros(2, heads, depth, len(rows), len(columns), dtype=torch.float64)
    for (a, i), (b, j) in itertools.product(enumerate(rows), enumerate(columns)):
        near = [
            (mirrored(i + p, 7), mirrored(j + r, 9))
            for p, r in itertools.product(range(-reach, reach + 1), range(-reach, reach + 1))
        ]
        keys = torch.stack([k[..., p, r] + (place[:, i, j] - place[:, p, r]) for p, r in near], -1)
        values = torch.stack([v[..., p, r] for p, r in near], -1)
        logits = torch.einsum("bgd,bgdn->bgn", q[..., i, j], keys) / math.sqrt(depth)
        attended[..., a, b] = torch.einsum("bgn,bgdn->bgd", logits.softmax(-1), values)
    mixed = torch.einsum("ko,bodhw->bdkhw", module.mix.weight[:, :, 0, 0], torch.cat((q, k, v), 1))
    convolved = F.conv2d(mixed.flatten(1, 2), module.shift.weight, module.shift.bias, stride, kernel // 2, groups=depth)
    assert len(near) == window**2
    assert apart(module(x), module.alpha * attended.flatten(1, 2) + module.beta * convolved) <= TINY


def test_axial_attention_is_attention_of_lines() -> None:
    x, module = normal(2, 16, 5, 4), awake(AxialAttention(16, 2, sequential=True))
    for part, lines in ((module.columns, "columns"), (module.rows, "rows")):
        y = torch.zeros_like(x)
        for b, i in itertools.product(range(2), range(x.shape[3 if lines == "columns" else 2])):
            line = x[b, :, :, i].T if lines == "columns" else x[b, :, i].T
            k, v = part.key_value(line).chunk(2, -1)
            attended = part.out(heads_attend(part.query(line), k, v, 2)).T
            if lines == "columns":
                y[b, :, :, i] = attended
            else:
                y[b, :, i] = attended
        x = y
    torch.manual_seed(0)
    assert apart(module(normal(2, 16, 5, 4)), x) <= TINY


def test_criss_cross_sees_its_cross_once_and_nothing_else() -> None:
    x, module = normal(1, 16, 5, 4), awake(CrissCrossAttention(16))
    q, k, v = module.query(x)[0], module.key(x)[0], module.value(x)[0]
    y = torch.empty_like(v)
    for i, j in itertools.product(range(5), range(4)):
        cross = [(p, j) for p in range(5) if p != i] + [(i, r) for r in range(4)]
        logits = torch.stack([q[:, i, j] @ k[:, p, r] for p, r in cross])
        y[:, i, j] = torch.stack([v[:, p, r] for p, r in cross], -1) @ logits.softmax(0)
    assert apart(module(x)[0], module.gamma * y + x[0]) <= TINY
    assert torch.isfinite(module(x[:, :, :1, :1])).all()


def test_mobilevit_tokens_are_equal_positions_of_all_patches() -> None:
    x, module = normal(2, 4, 6, 9), awake(MobileViTBlock(4, 8, patch=3, heads=2))
    u = module.widen(module.local(x))
    folded = torch.empty_like(u)
    for i, j in itertools.product(range(3), range(3)):
        tokens = u[:, :, i::3, j::3]
        attended = module.norm(module.transformer(tokens.flatten(2).transpose(1, 2).unsqueeze(1)))[:, 0]
        folded[:, :, i::3, j::3] = attended.transpose(1, 2).reshape(tokens.shape)
    assert apart(module(x), module.fuse(torch.cat((x, module.narrow(folded)), 1))) <= TINY


@pytest.mark.parametrize("far", [False, True])
def test_crossformer_groups_are_near_or_far(far: bool) -> None:
    h, w, side, heads = 6, 9, 3, 2
    block = awake(crossformer_block(16, (h, w), heads, side, far, mlp_ratio=1.0))
    x = normal(1, h * w, 16)
    places = list(itertools.product(range(h), range(w)))
    steps = (h // side, w // side) if far else (1, 1)

    def group(i: int, j: int) -> tuple[int, int]:
        return (i % steps[0], j % steps[1]) if far else (i // side, j // side)

    bias = torch.full((heads, h * w, h * w), -math.inf, dtype=torch.float64)
    for (n, p), (m, r) in itertools.product(enumerate(places), enumerate(places)):
        if group(*p) == group(*r):
            offset = torch.tensor([(p[0] - r[0]) // steps[0], (p[1] - r[1]) // steps[1]], dtype=torch.float64)
            bias[:, n, m] = block.attention.position(offset)
    q, k, v = block.attention.qkv(block.norm1(x[0])).chunk(3, -1)
    y = x[0] + block.attention.out(heads_attend(q, k, v, heads, bias))
    assert apart(block(x)[0], y + block.mlp(block.norm2(y))) <= TINY


@pytest.mark.parametrize(("size", "shift"), [((4, 6), 0), ((4, 6), 1), ((8, 6), 1), ((8, 9), 2)])
def test_windows_are_attention_with_a_mask(size: tuple[int, int], shift: int) -> None:
    (h, w), window, heads = size, (4, 3), 2
    module = awake(WindowAttention(8, heads, window, shift, size))
    x, places = normal(1, h, w, 8), list(itertools.product(range(h), range(w)))
    bias = torch.full((heads, h * w, h * w), -math.inf, dtype=torch.float64)
    for (n, p), (m, r) in itertools.product(enumerate(places), enumerate(places)):
        # Windows lie ``shift`` further down and right; what sticks out at the upper left is cut, not wrapped.
        same = all((a - shift) // side == (b - shift) // side for a, b, side in zip(p, r, window, strict=True))
        if same:
            offset = (p[0] - r[0] + 3) * 5 + p[1] - r[1] + 2
            bias[:, n, m] = module.bias.table[offset]
    q, k, v = module.qkv(x.reshape(h * w, 8)).chunk(3, -1)
    assert apart(module(x).reshape(h * w, 8), module.out(heads_attend(q, k, v, heads, bias))) <= TINY


def bilinear(image: Tensor, x: float, y: float) -> Tensor:
    """Value of ``c h w`` at ``x, y`` in [-1, 1], corners at the centres of the outermost pixels; outside is zero."""
    _, h, w = image.shape
    column, row = (x + 1) / 2 * (w - 1), (y + 1) / 2 * (h - 1)
    value = torch.zeros(len(image), dtype=torch.float64)
    for i, j in itertools.product((math.floor(row), math.floor(row) + 1), (math.floor(column), math.floor(column) + 1)):
        if 0 <= i < h and 0 <= j < w:
            value += image[:, i, j] * (1 - abs(row - i)) * (1 - abs(column - j))
    return value


@pytest.mark.parametrize("position", ["table", "pairs", "conv", "none"])
@pytest.mark.parametrize(("stride", "reach"), [(1, 2.0), (2, -1.0), (2, 0.0)])
def test_deformable_attention_samples_where_queries_say(position: Any, stride: int, reach: float) -> None:
    h, w, heads, groups = 3, 4, 4, 2
    module = awake(DeformableAttention(8, heads, groups, (h, w), 3, stride, reach, position))
    x = normal(1, 8, h, w)
    query = module.query(x)
    rows, columns = len(range(0, h, stride)), len(range(0, w, stride))
    samples = torch.empty(8, rows * columns, dtype=torch.float64)
    bias = torch.zeros(heads, h * w, rows * columns, dtype=torch.float64)
    for g in range(groups):
        channels = slice(4 * g, 4 * g + 4)
        offset = module.offset(query[:, channels])[0]
        for n, (i, j) in enumerate(itertools.product(range(rows), range(columns))):
            centre = [(2 * i + 1) / rows - 1, (2 * j + 1) / columns - 1]
            moved = offset[:, i, j].tolist()
            if reach > 0:
                moved = [reach * math.tanh(o) / cells for o, cells in zip(moved, (rows, columns), strict=True)]
            point = [c + o for c, o in zip(centre, moved, strict=True)]
            point = [math.tanh(p) for p in point] if reach < 0 else point
            samples[channels, n] = bilinear(x[0, channels], point[1], point[0])
            if position == "table":
                for m, (p, r) in enumerate(itertools.product(range(h), range(w))):
                    dy, dx = ((2 * p + 1) / h - 1 - point[0]) / 2, ((2 * r + 1) / w - 1 - point[1]) / 2
                    bias[2 * g : 2 * g + 2, m, n] = bilinear(module.table[2 * g : 2 * g + 2], dx, dy)
    if position == "pairs":
        bias = module.pairs
    k, v = (layer(samples[None, :, None])[0, :, 0].T for layer in (module.key, module.value))
    mixed = heads_attend(query[0].flatten(1).T, k, v, heads, bias).T.reshape(1, 8, h, w)
    if position == "conv":
        mixed = mixed + module.local(query)
    assert apart(module(x), module.out(mixed)) <= TINY


def test_moa_attends_from_windows_to_overlapping_windows() -> None:
    h, w, window, heads = 6, 9, 3, 2
    block = awake(GlobalBlock(8, heads, window, (h, w), reduction=4))
    module, x = block.attention, normal(1, h, w, 8)
    y = block.norm1(x)
    reduced = module.reduce(y.permute(0, 3, 1, 2))
    q = module.query.weight.flatten(1) @ F.unfold(reduced, window, stride=window)[0] + module.query.bias[:, None]
    kv = module.key_value.weight.flatten(1) @ F.unfold(reduced, window + 2, padding=1, stride=window)[0]
    k, v = (kv + module.key_value.bias[:, None]).T.chunk(2, -1)
    tiles = list(itertools.product(range(h // window), range(w // window)))
    bias = torch.stack(
        [torch.stack([module.bias.table[(a - c + 1) * 5 + b - d + 2] for c, d in tiles], -1) for a, b in tiles], 1
    )
    seen = module.out(heads_attend(q.T, k, v, heads, bias))
    for n, (a, b) in enumerate(tiles):
        y[0, window * a : window * (a + 1), window * b : window * (b + 1)] += seen[n]
    z = block.norm2(x + y)
    expected = z + block.convolution(z.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    assert apart(block(x), expected) <= TINY


def test_moa_stages_go_together_as_the_paper_has_them() -> None:
    net, image = awake(MOATransformer(24, 4, 8, (2, 1), (2, 2), window=3)), normal(2, 3, 24, 24)
    x = net.embed_norm(net.embed(image).permute(0, 2, 3, 1))
    first, second = net.stages
    for block in first[:2]:
        x = x + block.attention(block.norm1(x))
        x = x + block.mlp(block.norm2(x))
    x = first[2](x)
    x = torch.cat((x[:, ::2, ::2], x[:, 1::2, ::2], x[:, ::2, 1::2], x[:, 1::2, 1::2]), -1)
    x = second[0](first[3].reduce(first[3].norm(x)))
    assert apart(net(image), net.head(net.norm(x).mean((1, 2)))) <= TINY


def test_reversible_streams_can_be_run_backwards() -> None:
    net, x = awake(AxialImageTransformer(8, 2, 2, size=(4, 5))), normal(1, 8, 4, 5)
    p = q = start = x + net.position_h + net.position_w
    for f, g in net.blocks:
        p = p + f(q)
        q = q + g(p)
    assert apart(net(x), (p + q) / 2) <= TINY
    for f, g in reversed(net.blocks):
        q = q - g(p)
        p = p - f(q)
    assert apart(p, start) <= 1e-9
    assert apart(q, start) <= 1e-9


# ---- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "arguments", "message"),
    [
        (PolarizedChannelGate, {"channels": 7}, "even"),
        (PolarizedSpatialGate, {"channels": 7}, "even"),
        (CoordinateAttention, {"reduction": 0}, "positive"),
        (SimAM, {"regularization": 0.0}, "NaN"),
        (ResidualAttention, {"temperatures": ()}, "temperatures"),
        (ResidualAttention, {"temperatures": (-1.0,)}, "temperatures"),
        (S2Attention, {"channels": 6}, "quarters"),
        (GFNet, {"size": 65}, "divide size"),
        (ContextualTransformer, {"kernel": 4}, "odd"),
        (ContextualTransformer, {"channels": 20}, "share must divide"),
        (ACmix, {"window": 6}, "odd"),
        (ACmix, {"heads": 3}, "heads must divide"),
        (AxialAttention, {"heads": 3}, "heads must divide"),
        (CrissCrossAttention, {"reduction": 0}, "positive"),
        (MobileViTBlock, {"kernel": 2}, "odd"),
        (MobileViTBlock, {"heads": 3}, "heads must divide"),
        (CrossScale, {"inputs": 3, "outputs": 8, "kernels": (4, 7)}, "even numbers"),
        (CrossScale, {"inputs": 3, "outputs": 6, "kernels": (2, 4, 8)}, "halve"),
        (CrossFormer, {"merges": ()}, "one item a stage"),
        (CrossFormer, {"size": (48, 50)}, "divide by 8"),
        (CrossFormer, {"groups": (5, 3)}, "group must divide"),
        (DAT, {"heads": (1, 2)}, "one item a stage"),
        (DAT, {"layers": ("LS", "LX", "LD", "LD")}, "stage 1 has 'X'"),
        (DAT, {"layers": ("LD", "LS", "LD", "LD")}, "stage 0 has 'D'"),
        (DAT, {"size": 72}, "windows of 4"),
        (DeformableAttention, {"channels": 8, "heads": 4, "groups": 3, "size": (4, 4)}, "groups must divide"),
        (DeformableAttention, {"channels": 8, "heads": 4, "groups": 2, "size": (4, 4), "kernel": 4}, "odd"),
        (WindowAttention, {"channels": 8, "heads": 2, "window": 4, "shift": 2}, "needs size"),
        (WindowAttention, {"channels": 8, "heads": 2, "window": 4, "shift": 4, "size": (8, 8)}, "within the window"),
        (OverlappedAttention, {"channels": 8, "heads": 2, "window": 4, "size": (8, 6)}, "window must divide"),
        (MOATransformer, {"depths": (1,)}, "one item a stage"),
        (MOATransformer, {"size": 60}, "size must divide"),
        (MOATransformer, {"window": 5}, "window must divide"),
    ],
)
def test_what_cannot_be_is_refused(build: type[nn.Module], arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**arguments)
