"""Weights of other implementations: each is loaded as the function its source computes, asked about, or refused.

The references are written from the formulas, one image and one place at a time where that is bearable.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attn_export.errors import CheckpointError, UnknownNameError, UsageError
from attn_export.export.sources.catalogue import from_spec
from attn_export.export.subject import Subject
from attn_export.export.weights import checkpoint, implementations
from attn_export.mechanisms import MECHANISMS
from attn_export.mechanisms.spec import Preset, Spec
from tests.mechanisms import goldens

State = dict[str, Tensor]
WITH_SOURCES = [name for name in MECHANISMS if MECHANISMS[name].sources]
#: The golden's source, where its names do not say.
ASKED = {
    "bam": "dilation-1",
    "dat": "2022",
    "dynamic_conv": "annealed",
    "dynamic_conv_grouped": "temperature-30",
    "gnconv": "hornet",
    "gnconv_order5": "hornet",
    "mbconv": "external-attention",
    "mbconv_stride2": "external-attention",
    "s2": "paper",
}
#: Options that the names of the file must settle.
SETTLED = {
    "axial_image_transformer": {"reversible"},
    "bam": {"dilation", "channel_layers", "spatial_layers", "hidden_norms"},
    "cbam": {"bias", "residual"},
    "depthwise_separable": {"norm", "relu"},
    "dynamic_conv": {"temperature"},
    "gmlp": {"softmax"},
    "mbconv": {"epsilon"},
    "mobilevit_attention": {"plain", "depth", "heads", "d_head", "hidden"},
    "muse": {"hidden"},
    "parnet": {"skip_norm"},
    "sk": {"dilated", "norm"},
}


def loaded(
    tmp_path: Path, name: str, preset: Preset, state: State, variant: str | None = None, strict: bool = True
) -> Subject:
    """Save ``state`` and build the entry of it, with sizes of one where they do not matter."""
    torch.save(state, tmp_path / "net.pth")
    spec = MECHANISMS[name]
    dims = {d for item in preset.inputs or spec.inputs for d in item.shape if isinstance(d, str)} - {"b"}
    sizes = {**dict.fromkeys(dims - preset.arguments.keys(), 1), **preset.sizes}
    spec = replace(spec, presets={"it": replace(preset, sizes=sizes)}, default="it")
    return from_spec(name, spec, weights=tmp_path / "net.pth", variant=variant, strict=strict)


def drawn(**shapes: tuple[int, ...]) -> State:
    return {name.replace("__", "."): torch.randn(shape) for name, shape in shapes.items()}


def norm(prefix: str, channels: int) -> State:
    return {
        f"{prefix}.weight": torch.rand(channels) + 0.5,
        f"{prefix}.bias": torch.randn(channels),
        f"{prefix}.running_mean": torch.randn(channels),
        f"{prefix}.running_var": torch.rand(channels) + 0.5,
    }


def normed(x: Tensor, w: State, prefix: str) -> Tensor:
    """Batch norm of channels on axis 1."""
    shape = (1, -1, *(1,) * (x.ndim - 2))
    p = {k: w[f"{prefix}.{k}"].reshape(shape) for k in ("weight", "bias", "running_mean", "running_var")}
    return (x - p["running_mean"]) / (p["running_var"] + 1e-5).sqrt() * p["weight"] + p["bias"]


def same(subject: Subject, expected: Tensor, *inputs: Tensor) -> bool:
    with torch.no_grad():
        came = subject.module.double()(*inputs)
    return came.shape == expected.shape and bool((came - expected).norm() <= 1e-10 * expected.norm())


def wide(state: State) -> State:
    return {name: value.double() for name, value in state.items()}


def image(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


class TestEverySource:
    """What holds for each Source of the catalogue."""

    @pytest.mark.parametrize("name", WITH_SOURCES)
    def test_it_is_declared_soundly(self, name: str) -> None:
        spec = MECHANISMS[name]
        options = inspect.signature(spec.build).parameters
        for source in spec.sources.values():
            assert source.of
            assert source.shown_by
            # An unanchored pattern would be found under a prefix that nobody took off.
            assert all(pattern.startswith("^") for pattern in (*source.shown_by, *source.not_by))
            assert {*source.arguments, *source.sized} <= set(options)
            assert set(source.refused_under) <= set(spec.configurations)

    @pytest.mark.parametrize("name", WITH_SOURCES)
    def test_our_own_names_are_nobody_elses(self, name: str) -> None:
        """Or the source makes of them what they are."""
        spec = MECHANISMS[name]
        for preset in ("test", *spec.variants):
            state = from_spec(name, spec, preset).module.state_dict()
            for source in spec.sources.values():
                own = spec.configurations[preset].arguments
                agrees = all(own.get(option) == value for option, value in source.arguments.items())
                assert agrees or not implementations.shows(source, state)

    @pytest.mark.parametrize("name", ["bam", "dat", "dynamic_conv", "gnconv", "mbconv"])
    def test_what_names_leave_open_is_asked_for(self, name: str, tmp_path: Path) -> None:
        golden, row = goldens.load(name), goldens.ROWS[name]
        with pytest.raises(CheckpointError, match="do not say which function") as refusal:
            loaded(tmp_path, name, Preset(row.arguments), golden.state, strict=False)
        assert all(variant in str(refusal.value) for variant in MECHANISMS[name].sources)

    def test_a_variant_that_is_not_there_or_is_not_shown(self, tmp_path: Path) -> None:
        state, arguments = goldens.load("gnconv").state, goldens.ROWS["gnconv"].arguments
        with pytest.raises(UnknownNameError, match="did you mean 'hornet'"):
            loaded(tmp_path, "gnconv", Preset(arguments), state, "horne")
        with pytest.raises(UsageError, match="triplet has no variants"):
            loaded(tmp_path, "triplet", Preset({}), drawn(cw__conv__weight=(1, 2, 7, 7)), "paper")
        with pytest.raises(CheckpointError, match=r"not those of --variant unscaled: no name has \^dwconv"):
            loaded(tmp_path, "gnconv", Preset(arguments), {k: v for k, v in state.items() if "dw" not in k}, "unscaled")

    def test_a_prefix_is_found_before_the_source(self, tmp_path: Path) -> None:
        state = {f"module.backbone.{k}": v for k, v in goldens.load("mobilevitv2").state.items()}
        origin = loaded(tmp_path, "mobilevitv2", Preset({"channels": 32}), state).weights
        assert "prefix module.backbone. taken off, read as external-attention (External-Attention-pytorch" in origin


@pytest.mark.parametrize("name", [n for n, row in goldens.ROWS.items() if not row.build and goldens.load(n).state])
def test_a_file_of_the_original_gives_the_originals_numbers(name: str, tmp_path: Path) -> None:
    """Built from the file alone: options that its source settles are not given. A blind file must fit by name."""
    golden, row = goldens.load(name), goldens.ROWS[name]
    settled = SETTLED.get(row.entry, set())
    preset = Preset({**row.beside, **{k: v for k, v in row.arguments.items() if k not in settled}})
    subject = loaded(tmp_path, row.entry, preset, golden.state, ASKED.get(name))
    inputs = [x for i, x in enumerate(golden.inputs) if row.inputs is None or i in row.inputs]
    with torch.no_grad():
        came = subject.module.double()(*(x.double() if x.is_floating_point() else x for x in inputs))
    for expected in golden.outputs[:1]:
        assert (came - expected).abs().max() <= 1e-10 * expected.abs().max()


@pytest.mark.parametrize(("hidden", "out"), [(4, 8), (24, 12)], ids=["external-attention", "first-release"])
def test_repmlp(hidden: int, out: int, tmp_path: Path) -> None:
    """Every part of the map by itself; the linear layers of the global perceptron run over [channel, part]."""
    c, rows, columns, side = 8, 2, 3, 4
    places, area = rows * columns, side * side
    state = {
        **drawn(fc1_fc2__fc1__weight=(hidden, c * places), fc1_fc2__fc1__bias=(hidden,)),
        **drawn(fc1_fc2__fc2__weight=(c * places, hidden), fc1_fc2__fc2__bias=(c * places,)),
        **drawn(fc3__weight=(out * area, c * area // 4, 1, 1)),
        **norm("avg.bn", c),
        **norm("fc3_bn", out * area),
        **{k: v for s in (1, 3) for k, v in norm(f"repconv{s}.bn", out).items()},
        **{f"repconv{s}.conv.weight": torch.randn(out, c // 4, s, s) for s in (1, 3)},
    }
    arguments = {"channels": c, "out_channels": out, "size": (8, 12), "part": (4, 4), "kernels": (1, 3)}
    subject = loaded(tmp_path, "repmlp", Preset(arguments), state)
    w, x = wide(state), image(2, c, rows * side, columns * side)
    expected = torch.empty(2, out, rows * side, columns * side, dtype=torch.float64)
    for item in range(2):
        cut = {
            (i, j): x[item, :, i * side : (i + 1) * side, j * side : (j + 1) * side]
            for i in range(rows)
            for j in range(columns)
        }
        means = normed(torch.stack([cut[i, j].mean((1, 2)) for i, j in cut], 1)[None], w, "avg.bn")[0]  # channel, part
        inner = torch.relu(w["fc1_fc2.fc1.weight"] @ means.flatten() + w["fc1_fc2.fc1.bias"])
        around = (w["fc1_fc2.fc2.weight"] @ inner + w["fc1_fc2.fc2.bias"]).reshape(c, rows, columns)
        for (i, j), part in cut.items():
            p = (part + around[:, i, j, None, None])[None]
            y = normed(F.conv2d(p.reshape(1, -1, 1, 1), w["fc3.weight"], groups=4), w, "fc3_bn").reshape(
                out, side, side
            )
            for s in (1, 3):
                near = F.conv2d(p, w[f"repconv{s}.conv.weight"], padding=s // 2, groups=4)
                y = y + normed(near, w, f"repconv{s}.bn")[0]
            expected[item, :, i * side : (i + 1) * side, j * side : (j + 1) * side] = y
    assert same(subject, expected, x)


def test_a2_of_softmaxes_over_the_batch_is_refused_and_the_papers_is_asked_for(tmp_path: Path) -> None:
    shapes = {"convA": (6, 8), "convB": (4, 8), "convV": (4, 8), "conv_reconstruct": (8, 6)}
    state = {f"{k}.weight": torch.randn(*s, 1, 1) for k, s in shapes.items()}
    state |= {f"{k}.bias": torch.randn(s[0]) for k, s in shapes.items()}
    preset = Preset({"channels": 8, "features": 6, "descriptors": 4})
    for variant in (None, "external-attention"):
        with pytest.raises(CheckpointError, match=r"softmaxes run over the batch.*--variant: paper"):
            loaded(tmp_path, "a2", preset, state, variant)
    w, x = wide(state), image(2, 8, 3, 5)
    a, b, v = (F.conv2d(x, w[f"conv{k}.weight"], w[f"conv{k}.bias"]).flatten(2) for k in "ABV")
    z = torch.einsum("bmp,bnp,bnq->bmq", a, torch.softmax(b, 2), torch.softmax(v, 1)).reshape(2, 6, 3, 5)
    expected = x + F.conv2d(z, w["conv_reconstruct.weight"], w["conv_reconstruct.bias"])
    assert same(loaded(tmp_path, "a2", preset, state, "paper"), expected, x)


def test_mobilevitv2_without_the_relu(tmp_path: Path) -> None:
    state = drawn(fc_i__weight=(1, 8), fc_i__bias=(1,))
    state |= drawn(**{f"fc_{k}__{kind}": s for k in "kvo" for kind, s in (("weight", (8, 8)), ("bias", (8,)))})
    w, x = wide(state), image(2, 5, 8)

    def linear(name: str, value: Tensor) -> Tensor:
        return value @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    context = (torch.softmax(linear("fc_i", x), 1) * linear("fc_k", x)).sum(1, keepdim=True)
    subject = loaded(tmp_path, "mobilevitv2", Preset({"channels": 8}), state)
    assert same(subject, linear("fc_o", linear("fc_v", x) * context), x)
    assert "read as external-attention (" in subject.weights


@pytest.mark.parametrize(("variant", "temperature"), [("annealed", 1), ("temperature-30", 30)])
def test_dynamic_conv_at_the_temperature_that_was_asked_for(variant: str, temperature: int, tmp_path: Path) -> None:
    state = {
        "attention.net.0.weight": torch.randn(2, 8, 1, 1) * 9,
        "attention.net.2.weight": torch.randn(4, 2, 1, 1) * 9,
        **drawn(weight=(4, 6, 8, 3, 3), bias=(4, 6)),
    }
    w, x = wide(state), image(2, 8, 5, 4)
    expected = []
    for item in x:
        inner = torch.relu(w["attention.net.0.weight"][:, :, 0, 0] @ item.mean((1, 2)))
        mix = torch.softmax(w["attention.net.2.weight"][:, :, 0, 0] @ inner / temperature, 0)
        parts = [F.conv2d(item[None], w["weight"][k], w["bias"][k], padding=1) * mix[k] for k in range(4)]
        expected.append(sum(parts[1:], parts[0]))
    preset = Preset({"channels": 8, "out_channels": 6})
    assert same(loaded(tmp_path, "dynamic_conv", preset, state, variant), torch.cat(expected), x)


@pytest.mark.parametrize("bias", [None, 0.0, 0.7])
def test_eca_with_a_bias_where_the_file_has_one(bias: float | None, tmp_path: Path) -> None:
    state = {"conv.weight": torch.randn(1, 1, 3), **({} if bias is None else {"conv.bias": torch.tensor([bias])})}
    w, x = wide(state), image(2, 8, 3, 4)
    means = F.pad(x.mean((2, 3)), (1, 1))
    logits = sum(w["conv.weight"][0, 0, k] * means[:, k : k + 8] for k in range(3)) + (bias or 0.0)
    subject = loaded(tmp_path, "eca", Preset({"channels": 8, "kernel_size": 3}), state)
    with torch.no_grad():
        came = subject.module.double()(x)
    expected = x * torch.sigmoid(torch.as_tensor(logits))[:, :, None, None]
    # 0.7 in the file is the nearest float32
    assert (came - expected).norm() <= (1e-10 if not bias else 1e-7) * expected.norm()
    assert ("conv.bias" in subject.module.state_dict()) == (bias is not None)


def test_eca_that_is_built_without_a_bias_takes_none() -> None:
    """Only one of zero may be dropped."""
    module, spec = MECHANISMS["eca"].build(8, 3), MECHANISMS["eca"]
    state = drawn(conv__weight=(1, 1, 3))
    assert checkpoint.load(module, {**state, "conv.bias": torch.zeros(1)}, spec=spec) == ()
    with pytest.raises(CheckpointError, match=r"unexpected 1 \(conv\.bias\)"):
        checkpoint.load(module, {**state, "conv.bias": torch.ones(1)}, spec=spec)


@pytest.mark.parametrize("variant", [None, "paper"])
def test_halo_hides_what_its_source_hides(variant: str | None, tmp_path: Path) -> None:
    c, block, halo, heads, d = 6, 2, 1, 2, 3
    side, inner = block + 2 * halo, heads * d
    state = drawn(
        to_q__weight=(inner, c),
        to_kv__weight=(2 * inner, c),
        to_out__weight=(c, inner),
        to_out__bias=(c,),
        rel_pos_emb__rel_height=(2 * side - 1, d),
        rel_pos_emb__rel_width=(2 * side - 1, d),
    )
    arguments = {"channels": c, "block": block, "halo": halo, "heads": heads, "head_channels": d}
    subject = loaded(tmp_path, "halo", Preset(arguments), state, variant)
    w, x = wide(state), image(1, c, 6, 8)
    expected = torch.zeros_like(x)
    for row in range(6):
        for column in range(8):
            top, left = row // block * block - halo, column // block * block - halo
            query = (w["to_q.weight"] @ x[0, :, row, column]).reshape(heads, d) * d**-0.5
            logits, values, seen = [], [], []
            for i in range(side):
                for j in range(side):
                    inside = 0 <= top + i < 6 and 0 <= left + j < 8
                    pixel = x[0, :, top + i, left + j] if inside else torch.zeros(c, dtype=x.dtype)
                    key, value = (w["to_kv.weight"] @ pixel).reshape(2, heads, d)
                    across = w["rel_pos_emb.rel_width"][j - column % block + side - 1]
                    down = w["rel_pos_emb.rel_height"][i - row % block + side - 1]
                    logits.append((query * (key + across + down)).sum(1))
                    values.append(value)
                    seen.append(inside if variant == "paper" else not inside)
            there = torch.tensor(seen)
            each = torch.stack(logits, 1)  # heads, window
            # With nothing to see, all logits are the finite minimum: a mean.
            shares = (
                torch.softmax(each.masked_fill(~there, -1e30), 1) if there.any() else torch.full_like(each, 1 / side**2)
            )
            mixed = torch.einsum("hw,whd->hd", shares, torch.stack(values)).flatten()
            expected[0, :, row, column] = w["to_out.weight"] @ mixed + w["to_out.bias"]
    assert same(subject, expected, x)


@pytest.mark.parametrize(("variant", "scale"), [("hornet", 1 / 3), ("unscaled", 1.0)])
def test_gnconv_at_the_scale_that_was_asked_for(variant: str, scale: float, tmp_path: Path) -> None:
    shapes = {"proj_in": (16, 8, 1, 1), "dwconv": (12, 1, 7, 7), "pws.0": (8, 4, 1, 1), "proj_out": (8, 8, 1, 1)}
    state = {f"{k}.weight": torch.randn(s) for k, s in shapes.items()}
    state |= {f"{k}.bias": torch.randn(s[0]) for k, s in shapes.items()}
    w, x = wide(state), image(2, 8, 5, 4)

    def conv(name: str, value: Tensor, **options: int) -> Tensor:
        return F.conv2d(value, w[f"{name}.weight"], w[f"{name}.bias"], **options)

    entered = conv("proj_in", x)
    gates = conv("dwconv", entered[:, 4:], padding=3, groups=12) * scale
    expected = conv("proj_out", conv("pws.0", entered[:, :4] * gates[:, :4]) * gates[:, 4:])
    subject = loaded(tmp_path, "gnconv", Preset({"channels": 8, "order": 2}), state, variant)
    assert same(subject, expected, x)


def bilinear(picture: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Read c h w at one place of [-1, 1]², corners at the middles of the corner pixels, zeros outside."""
    _, h, w = picture.shape
    column, row = (float(x) + 1) / 2 * (w - 1), (float(y) + 1) / 2 * (h - 1)
    left, top = int(column // 1), int(row // 1)
    total = torch.zeros_like(picture[:, 0, 0])
    for i in (top, top + 1):
        for j in (left, left + 1):
            if 0 <= i < h and 0 <= j < w:
                total = total + picture[:, i, j] * (1 - abs(row - i)) * (1 - abs(column - j))
    return total


@pytest.mark.parametrize("release", ["2022", "2023"])
@pytest.mark.parametrize("reach", [2.0, -1.0, 0.0])
def test_dat_samples_where_its_release_does(release: str, reach: float, tmp_path: Path) -> None:
    """One stage of one block with deformable attention, two heads in one group, on a map of 3 x 3."""
    c, n, later = 4, 3, release == "2023"
    attention = "stages.0.attns.0"
    shapes: dict[str, tuple[int, ...]] = {
        "patch_proj.0": (c, 3, 2, 2),
        f"{attention}.conv_offset.0": (c, 1, 9, 9),
        f"{attention}.conv_offset.3": (2, c, 1, 1),
        **{f"{attention}.proj_{k}": (c, c, 1, 1) for k in ("q", "k", "v", "out")},
        "stages.0.mlps.0.chunk.linear1": (2 * c, c),
        "stages.0.mlps.0.chunk.linear2": (c, 2 * c),
        "cls_head": (5, c),
    }
    norms = [
        "patch_proj.1",
        "stages.0.layer_norms.0",
        "stages.0.layer_norms.1",
        f"{attention}.conv_offset.1",
        "cls_norm",
    ]
    state = {f"{k}.weight": torch.randn(s) / 2 for k, s in shapes.items()}
    state |= {f"{k}.bias": torch.randn(s[0]) for k, s in shapes.items() if "conv_offset.3" not in k}
    state |= {f"{k}.norm.weight": torch.rand(c) + 0.5 for k in norms} | {
        f"{k}.norm.bias": torch.randn(c) for k in norms
    }
    state[f"{attention}.rpe_table"] = torch.randn(2, 2 * n - 1, 2 * n - 1)
    arguments = {
        "size": 2 * n,
        "patch": 2,
        "channels": (c,),
        "layers": ("D",),
        "heads": (2,),
        "windows": (n,),
        "groups": (1,),
        "offset_ranges": (reach,),
        "classes": 5,
    }
    subject = loaded(tmp_path, "dat", Preset(arguments), state, release)
    w, x = wide(state), image(1, 3, 2 * n, 2 * n)

    def layer(name: str, value: Tensor) -> Tensor:  # of c h w
        scale, shift = w[f"{name}.norm.weight"], w[f"{name}.norm.bias"]
        return F.layer_norm(value.permute(1, 2, 0), (c,), scale, shift).permute(2, 0, 1)

    def conv(name: str, value: Tensor, **options: int) -> Tensor:
        return F.conv2d(value[None], w[f"{name}.weight"], w.get(f"{name}.bias"), **options)[0]

    def attend(z: Tensor) -> Tensor:
        query = conv(f"{attention}.proj_q", z)
        near = conv(f"{attention}.conv_offset.0", query, padding=4, groups=c)
        offset = conv(f"{attention}.conv_offset.3", F.gelu(layer(f"{attention}.conv_offset.1", near)))  # y, x
        cells = n - 1 if later else n
        if reach > 0 or (later and reach == 0):
            offset = torch.tanh(offset) * reach / cells
        bend: Callable[[Tensor], Tensor] = (lambda p: p.clamp(-1, 1)) if later else torch.tanh
        places, samples = [], []
        for i in range(n):
            for j in range(n):
                middle = torch.tensor([2 * (i + 0.5) / cells - 1, 2 * (j + 0.5) / cells - 1], dtype=torch.float64)
                place = offset[:, i, j] + middle
                places.append(bend(place) if reach < 0 else place)
                samples.append(bilinear(z, places[-1][1], places[-1][0]))
        points = torch.stack(samples, 1)[:, None]  # c 1 n
        key, value = conv(f"{attention}.proj_k", points)[:, 0], conv(f"{attention}.proj_v", points)[:, 0]
        mixed = torch.zeros(c, n, n, dtype=torch.float64)
        for i in range(n):
            for j in range(n):
                own = [2 * i / cells - 1, 2 * j / cells - 1] if later else [(2 * i + 1) / n - 1, (2 * j + 1) / n - 1]
                for head in range(2):
                    table, part = w[f"{attention}.rpe_table"][head : head + 1], slice(2 * head, 2 * head + 2)
                    bias = [bilinear(table, (own[1] - p[1]) / 2, (own[0] - p[0]) / 2)[0] for p in places]
                    logits = query[part, i, j] @ key[part] / 2**0.5 + torch.stack(bias)
                    mixed[part, i, j] = value[part] @ torch.softmax(logits, 0)
        return conv(f"{attention}.proj_out", mixed)

    z = layer("patch_proj.1", conv("patch_proj.0", x[0], stride=2))
    z = z + attend(layer("stages.0.layer_norms.0", z))
    inner = layer("stages.0.layer_norms.1", z).permute(1, 2, 0)
    one, two = "stages.0.mlps.0.chunk.linear1", "stages.0.mlps.0.chunk.linear2"
    inner = F.gelu(inner @ w[f"{one}.weight"].T + w[f"{one}.bias"]) @ w[f"{two}.weight"].T + w[f"{two}.bias"]
    z = layer("cls_norm", z + inner.permute(2, 0, 1)).mean((1, 2))
    assert same(subject, (w["cls_head.weight"] @ z + w["cls_head.bias"])[None], x)


def test_s2_of_shifts_in_place_is_refused(tmp_path: Path) -> None:
    state = goldens.load("s2").state
    with pytest.raises(CheckpointError, match=r"order in which memory is copied.*--variant: paper"):
        loaded(tmp_path, "s2", Preset({"channels": 32}), state, strict=False)


def test_depthwise_separable_without_anything_between(tmp_path: Path) -> None:
    state = drawn(depthwise_conv__weight=(4, 1, 3, 3), depthwise_conv__bias=(4,))
    state |= drawn(pointwise_conv__weight=(6, 4, 1, 1), pointwise_conv__bias=(6,))
    w, x = wide(state), image(2, 4, 5, 3)
    inner = F.conv2d(x, w["depthwise_conv.weight"], w["depthwise_conv.bias"], padding=1, groups=4)
    expected = F.conv2d(inner, w["pointwise_conv.weight"], w["pointwise_conv.bias"])
    assert same(loaded(tmp_path, "depthwise_separable", Preset({"channels": 4, "out_channels": 6}), state), expected, x)


def test_bam_with_a_dilation_that_its_padding_does_not_fit_is_refused(tmp_path: Path) -> None:
    golden = goldens.load("bam")
    with pytest.raises(CheckpointError, match="any map but 7 x 7"):
        loaded(tmp_path, "bam", Preset({"channels": 32, "reduction": 4}), golden.state, "external-attention")


def test_mbconv_of_either_epsilon_and_no_padding_of_another_kind(tmp_path: Path) -> None:
    golden = goldens.load("mbconv")
    for variant, epsilon in (("efficientnet", 1e-3), ("external-attention", 1e-2)):
        built = loaded(
            tmp_path, "mbconv", Preset({"channels": 16, "out_channels": 16, "expand": 4}), golden.state, variant
        )
        assert {part.eps for part in built.module.modules() if isinstance(part, nn.BatchNorm2d)} == {epsilon}
    spec: Spec = MECHANISMS["mbconv"]
    torch.save(goldens.load("mbconv_stride2").state, tmp_path / "net.pth")
    with pytest.raises(CheckpointError, match="pads as TensorFlow does"):
        from_spec("mbconv", spec, "strided", weights=tmp_path / "net.pth", variant="external-attention")


def test_axial_transformer_has_as_many_streams_as_its_names_say(tmp_path: Path) -> None:
    """The names of one stream under a preset of two, and the other way round."""
    one = goldens.load("axial_image_transformer_irreversible")
    preset = Preset({"channels": 16, "depth": 1, "heads": 2, "size": None, "reversible": True})
    subject = loaded(tmp_path, "axial_image_transformer", preset, one.state)
    assert same(subject, one.outputs[0], one.inputs[0].double())
    assert "as irreversible" in subject.weights
