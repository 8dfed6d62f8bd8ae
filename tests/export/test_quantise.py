"""Int8: the laws of codes, ranges and roundings, and a model that holds where rounding to the nearest does not."""

from __future__ import annotations

import doctest
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from attn_export.deploy_tests.backends.onnxruntime.tuning import WHOLE_PRODUCTS
from attn_export.errors import ExportError
from attn_export.export.graph.index import GraphIndex
from attn_export.export.quantise import codes, judge, ranges, rounding
from attn_export.export.quantise.judge import Judge, centred
from attn_export.export.quantise.layers import from_rows, kept_in_float, layers, rows_of
from attn_export.export.quantise.patches import columns, groups_of
from attn_export.export.quantise.quantise import quantise
from attn_export.export.quantise.quantised import FLOAT, INT8, Wish
from attn_export.export.quantise.ranges import RULES, Histogram, histograms
from attn_export.export.quantise.rewrite import Plan, Weight, rounded_name, written
from attn_export.export.quantise.walk import Walk
from attn_export.export.quantise.watch import looked
from attn_export.types import Array, Feeds
from tests.floats import floats


def said(_text: str) -> None:
    """Hear nothing."""


def draw(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def build(
    nodes: list[onnx.NodeProto], weights: dict[str, Array], shape: tuple[object, ...], opset: int = 20
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    return onnx.shape_inference.infer_shapes(model)


def chain(depth: int = 4, width: int = 12) -> onnx.ModelProto:
    """Build convolutions as fusing leaves them: a large centre, and a bias; behind them a pool and a product."""
    nodes, weights, last = [], {}, "x"
    for i in range(depth):
        wide = 3 if i == 0 else width
        kernel = 0.15 * draw(width, wide, 3, 3, seed=i)
        if i:
            kernel[np.arange(width), np.arange(width), 1, 1] += np.float32(2.0)
        weights |= {f"w{i}": kernel, f"b{i}": 0.3 * draw(width, seed=50 + i)}
        nodes.append(helper.make_node("Conv", [last, f"w{i}", f"b{i}"], [f"c{i}"], f"conv{i}", pads=[1] * 4))
        nodes.append(helper.make_node("Relu", [f"c{i}"], [f"r{i}"], f"relu{i}"))
        last = f"r{i}"
    weights |= {"w": draw(width, 5, seed=99), "b": draw(5, seed=98)}
    nodes.append(helper.make_node("GlobalAveragePool", [last], ["p"], "pool"))
    nodes.append(helper.make_node("Flatten", ["p"], ["f"], "flat"))
    nodes.append(helper.make_node("Gemm", ["f", "w", "b"], ["y"], "head"))
    return build(nodes, weights, ("b", 3, 10, 10))


def pictures(count: int, seed: int) -> list[Feeds]:
    """Draw smooth pictures of differing brightness, one a case."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(0, 1, (count, 3, 5, 5)) * rng.uniform(0.3, 1.5, (count, 1, 1, 1))
    return [{"x": one[None].repeat(2, 2).repeat(2, 3).astype(np.float32)} for one in coarse]


CALIBRATION, HELD_OUT = pictures(16, 1), pictures(8, 2)


def run(model: onnx.ModelProto, feeds: Feeds) -> dict[str, Array]:
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry(WHOLE_PRODUCTS, "1")
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return {"y": session.run(None, dict(feeds))[0]}


@pytest.mark.parametrize("module", [codes, ranges, rounding, judge])
def test_examples(module: object) -> None:
    assert doctest.testmod(module).failed == 0  # type: ignore[arg-type]


@settings(max_examples=100, deadline=None)
@given(floats(-1e4, 1e4), floats(-1e4, 1e4), st.booleans())
def test_a_code_meets_zero_and_errs_by_half_a_step_within_its_range(low: float, high: float, unsigned: bool) -> None:
    by = codes.code(min(low, high), max(low, high), unsigned=unsigned)
    values = np.linspace(max(by.low, min(low, high, 0)), min(by.high, max(low, high, 0)), 101).astype(np.float32)
    assert codes.rounded(np.zeros(1, np.float32), by) == 0
    assert np.abs(codes.rounded(values, by) - values).max() <= by.scale * 0.501
    assert by.low <= 0 <= by.high


def test_zero_alone_has_a_code() -> None:
    assert codes.code(0.0, 0.0, unsigned=True).scale == 1.0
    assert (codes.weight_scales(np.zeros((2, 3), np.float32), per_channel=True) == 1).all()


def test_a_weight_errs_by_half_a_step_of_its_own_row() -> None:
    rows = draw(6, 20) * np.float32([[1e-3], [1], [50], [1], [1], [1]])
    for per_channel in (True, False):
        scales = codes.weight_scales(rows, per_channel=per_channel)
        back = codes.weight_codes(rows, scales) * scales[:, None]
        assert (np.abs(back - rows) <= 0.501 * scales[:, None]).all()
    assert len(set(scales.tolist())) == 1


def seen_of(values: Array) -> Histogram:
    return histograms(lambda: [{"t": values[:500]}, {"t": values[500:]}], ["t"])["t"]


def test_a_histogram_counts_every_value() -> None:
    seen = seen_of(draw(1000))
    assert seen.counts.sum() == 1000
    assert seen.low == draw(1000).min()
    assert seen.high == draw(1000).max()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("unsigned", [True, False])
def test_every_rule_stays_within_what_was_seen(rule: str, unsigned: bool) -> None:
    seen = seen_of(np.maximum(draw(1000), 0))
    low, high = RULES[rule](seen, unsigned=unsigned)
    assert seen.low <= low <= 0 < high <= seen.high * 1.001


@pytest.mark.parametrize("rule", ["percentile", "entropy"])
def test_one_value_far_out_does_not_set_the_range(rule: str) -> None:
    values = np.abs(draw(40_000))
    values[7] = 30
    seen = histograms(lambda: [{"t": values}], ["t"])["t"]
    assert RULES["minmax"](seen, unsigned=True)[1] == 30
    assert 3 < RULES[rule](seen, unsigned=True)[1] < 15


def test_the_least_squared_error_is_the_least() -> None:
    values = np.abs(draw(40_000)) ** 2
    seen = histograms(lambda: [{"t": values}], ["t"])["t"]

    def error(rule: str) -> float:
        by = codes.code(*RULES[rule](seen, unsigned=True), unsigned=True)
        return float(np.square(codes.rounded(values, by) - values).mean())

    assert error("mse") <= min(error(rule) for rule in RULES) * 1.01


def test_no_range_of_nothing_and_none_of_nan() -> None:
    with pytest.raises(ExportError, match="reaches every layer"):
        histograms(list, ["t"])
    with pytest.raises(ExportError, match="NaN or infinite"):
        histograms(lambda: [{"t": np.float32([np.nan])}], ["t"])


def errors(seed: int, correlated: bool) -> tuple[float, float]:
    """Compute the squared errors of what a layer gives: rounded to the nearest, and rounded for least error."""
    rng = np.random.default_rng(seed)
    real = rng.standard_normal((24, 2000))
    if correlated:
        real = np.abs(rng.standard_normal((24, 4)) @ rng.standard_normal((4, 2000)) + 0.1 * real)
    less = real + 0.002 * rng.standard_normal(real.shape)
    weight, moments = rng.standard_normal((8, 24)) / 30, rounding.Moments(24)
    weight[:, 0] = 1
    moments.add(less, real)
    scales = codes.weight_scales(weight.astype(np.float32), per_channel=True)
    nearest = codes.weight_codes(weight, scales)
    chosen = rounding.rounded_codes(weight, scales, moments)

    def error(found: Array) -> float:
        bias = rounding.bias_of(weight, found, scales, np.zeros(8), moments)
        return float(np.square(weight @ real - (found * scales[:, None]) @ less - bias[:, None]).mean())

    return error(nearest), error(chosen)


@pytest.mark.parametrize("seed", range(5))
def test_roundings_that_know_the_inputs_err_less(seed: int) -> None:
    nearest, chosen = errors(seed, correlated=True)
    assert chosen < 0.75 * nearest


@pytest.mark.parametrize("seed", range(3))
def test_they_never_err_much_more(seed: int) -> None:
    nearest, chosen = errors(seed, correlated=False)
    assert chosen < 1.05 * nearest


def test_the_bias_takes_the_mean_of_the_error() -> None:
    rng, moments = np.random.default_rng(0), rounding.Moments(5)
    real = rng.uniform(0, 1, (5, 300))
    moments.add(real[:, :100] + 0.1, real[:, :100])
    moments.add(real[:, 100:] + 0.1, real[:, 100:])
    weight = rng.standard_normal((3, 5))
    scales = codes.weight_scales(weight.astype(np.float32), per_channel=True)
    found = codes.weight_codes(weight, scales)
    bias = rounding.bias_of(weight, found, scales, np.float32([1, 2, 3]), moments)
    left = weight @ real + [[1], [2], [3]] - (found * scales[:, None]) @ (real + 0.1) - bias[:, None]
    assert np.abs(left.mean(1)).max() < 1e-6


def test_groups_are_rounded_as_layers_of_their_own() -> None:
    rng, groups = np.random.default_rng(2), 3
    weight, data = rng.standard_normal((6, 4)), np.abs(rng.standard_normal((groups, 4, 90)))
    data[1] = 0  # a group that nothing ever reaches
    scales, all_ = codes.weight_scales(weight.astype(np.float32), per_channel=True), rounding.Moments(4, groups)
    all_.add(data, data + 0.1)
    came = rounding.rounded_codes(weight, scales, all_, moved=True)
    biases = rounding.bias_of(weight, came, scales, np.zeros(6), all_)
    for group in range(groups):
        rows, alone = slice(2 * group, 2 * group + 2), rounding.Moments(4)
        alone.add(data[group], data[group] + 0.1)
        assert np.array_equal(came[rows], rounding.rounded_codes(weight[rows], scales[rows], alone, moved=True))
        bias = rounding.bias_of(weight[rows], came[rows], scales[rows], np.zeros(2), alone)
        assert np.allclose(biases[rows], bias, atol=1e-6)
    assert np.array_equal(came[2:4], codes.weight_codes(weight[2:4], scales[2:4]))


CONVOLUTIONS = {
    "plain": ({"kernel_size": 3, "padding": 1}, (2, 4, 9, 8)),
    "strided": ({"kernel_size": 3, "stride": 2, "padding": 1}, (1, 4, 9, 8)),
    "dilated": ({"kernel_size": 3, "dilation": 2}, (1, 4, 9, 8)),
    "grouped": ({"kernel_size": 3, "groups": 2, "padding": (1, 0)}, (1, 4, 9, 8)),
    "depthwise": ({"kernel_size": (1, 5), "groups": 4, "padding": (0, 2)}, (1, 4, 9, 8)),
}


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_columns_are_what_the_weight_is_multiplied_by(kind: str) -> None:
    """The rows of a weight times its columns give what the runtime gives, wherever they were taken."""
    settings_, shape = CONVOLUTIONS[kind]
    module = nn.Conv2d(4, 6 if kind != "depthwise" else 4, bias=False, **settings_)
    x = draw(*shape)
    node = helper.make_node(
        "Conv", ["x", "w"], ["y"], "c", pads=[*module.padding, *module.padding], strides=module.stride,
        dilations=module.dilation, group=module.groups,
    )  # fmt: skip
    model = build([node], {"w": module.weight.detach().numpy()}, shape)
    (layer,) = layers(GraphIndex(model))
    with torch.no_grad():
        wanted = module(torch.from_numpy(x)).numpy()
    rows = rows_of(layer, node, module.weight.detach().numpy())
    parts = columns(layer, node, tuple(module.kernel_size), x, np.random.default_rng(0))
    assert len(parts) == groups_of(layer, node)
    came = np.concatenate([a @ b for a, b in zip(np.split(rows, len(parts)), parts, strict=True)])
    assert np.allclose(came, np.moveaxis(wanted, 1, 0).reshape(came.shape), atol=1e-5)


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose", "Gemm", "GemmB", "MatMul"])
def test_rows_of_a_weight_and_back(op: str) -> None:
    shape = (5, 4, 3, 2) if op.startswith("Conv") else (5, 4)
    node = helper.make_node(op.removesuffix("B"), ["x", "w"], ["y"], "n", **({"transB": 1} if op == "GemmB" else {}))
    weight = draw(*shape)
    (layer,) = layers(GraphIndex(build([node], {"w": weight}, (2, 5, 9, 9) if len(shape) == 4 else (2, 5))))
    rows = rows_of(layer, node, weight)
    assert rows.shape[0] == (4 if op in ("ConvTranspose", "Gemm", "MatMul") else 5)
    assert np.array_equal(from_rows(layer, node, rows, shape), weight)


def fitted(model: onnx.ModelProto, wish: Wish) -> onnx.ModelProto:
    return quantise(model, CALIBRATION, HELD_OUT, wish, said).model


def nearest(model: onnx.ModelProto, *, per_channel: bool = True) -> onnx.ModelProto:
    """Quantise as everybody does: all that was seen, and every weight rounded by itself."""
    graph = GraphIndex(model)
    found, weights, activations = layers(graph), {}, {}
    tensors = [name for layer in found for name in (layer.reads, layer.gives)]
    for name, seen in histograms(lambda: looked(model, tensors, CALIBRATION), tensors).items():
        activations[name] = codes.code(seen.low, seen.high, unsigned=True)
    for layer in found:
        rows = rows_of(layer, graph.maker[layer.key], graph.array(layer.weight))
        scales = codes.weight_scales(rows, per_channel=per_channel)
        weights[layer.key] = Weight(codes.weight_codes(rows, scales), scales)
    return written(model, found, Plan(weights, activations))


def snr(model: onnx.ModelProto, other: onnx.ModelProto) -> float:
    """Measure on pictures that nothing was chosen on, by the runtime's own integer kernels."""
    feeds = pictures(12, 3)
    return centred([run(model, one) for one in feeds], [run(other, one) for one in feeds]).median


@pytest.mark.parametrize("per_channel", [True, False])
def test_a_fused_chain_keeps_more_than_rounding_to_the_nearest(per_channel: bool) -> None:
    model = chain()
    ours = snr(model, fitted(model, Wish(per_channel=per_channel)))
    assert ours > snr(model, nearest(model, per_channel=per_channel)) + 4
    assert ours > 28


def test_symmetric_codes_have_no_zero_points() -> None:
    result = fitted(chain(), Wish(unsigned=False))
    zeros = [t for t in result.graph.initializer if t.name.endswith("zero_point")]
    assert zeros
    assert all(t.data_type == TensorProto.INT8 and not numpy_helper.to_array(t).any() for t in zeros)
    onnx.checker.check_model(result)


def test_every_layer_becomes_one_of_integers(tmp_path: Path) -> None:
    """ONNX Runtime computes no convolution of the result in float."""
    settings_ = onnxruntime.SessionOptions()
    settings_.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    onnxruntime.InferenceSession(
        fitted(chain(), Wish()).SerializeToString(), settings_, providers=["CPUExecutionProvider"]
    )
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    assert kinds.count("QLinearConv") == 4
    assert not {"Conv", "FusedConv", "Relu"} & set(kinds)


def test_the_model_itself_is_not_changed() -> None:
    model = chain()
    before = model.SerializeToString()
    fitted(model, Wish())
    assert model.SerializeToString() == before


def test_a_convolution_that_gives_an_output_stays_in_float() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], "first"),
        helper.make_node("Conv", ["c", "w"], ["y"], "last"),
    ]
    model = build(nodes, {"w": draw(3, 3, 1, 1)}, ("b", 3, 10, 10))
    made = quantise(model, CALIBRATION, HELD_OUT, Wish(), said)
    assert [site.form for site in made.sites] == [INT8, FLOAT]
    assert "output 'y'" in made.sites[1].reason
    assert len(kept_in_float(GraphIndex(model), layers(GraphIndex(model)))) == 1


def test_what_cannot_be_quantised_is_said() -> None:
    plain = build([helper.make_node("Relu", ["x"], ["y"], "r")], {}, ("b", 3, 10, 10))
    with pytest.raises(ExportError, match="expected a layer"):
        quantise(plain, CALIBRATION, HELD_OUT, Wish(), said)
    old = build([helper.make_node("Conv", ["x", "w"], ["y"], "c")], {"w": draw(3, 3, 1, 1)}, ("b", 3, 10, 10), opset=11)
    with pytest.raises(ExportError, match="--opset 13"):
        quantise(old, CALIBRATION, HELD_OUT, Wish(), said)


def test_a_model_that_ignores_its_input_has_nothing_of_what_varies() -> None:
    truth = [{"y": np.float32([100 + i, 50 - i])} for i in range(4)]
    constant = [{"y": np.float32([101.5, 48.5])} for _ in range(4)]
    assert centred(truth, constant).median == pytest.approx(0, abs=1e-6)
    assert centred(truth, truth).median == judge.MOST
    assert Judge(chain(), HELD_OUT).kept(chain()).median == judge.MOST


def residual() -> onnx.ModelProto:
    """Build blocks whose sum two branches read."""
    nodes = [helper.make_node("Conv", ["x", "w", "b"], ["c"], "stem"), helper.make_node("Relu", ["c"], ["t0"], "r")]
    weights = {"w": draw(8, 3, 1, 1, seed=1), "b": draw(8, seed=2)}
    for i in range(3):
        weights |= {f"w{i}": 0.2 * draw(8, 8, 3, 3, seed=10 + i), f"b{i}": 0.1 * draw(8, seed=20 + i)}
        nodes += [
            helper.make_node("Conv", [f"t{i}", f"w{i}", f"b{i}"], [f"c{i}"], f"conv{i}", pads=[1] * 4),
            helper.make_node("Add", [f"c{i}", f"t{i}"], [f"s{i}"], f"add{i}"),
            helper.make_node("Relu", [f"s{i}"], [f"t{i + 1}"], f"relu{i}"),
        ]
    nodes.append(helper.make_node("GlobalAveragePool", ["t3"], ["y"], "pool"))
    return build(nodes, weights, ("b", 3, 10, 10))


@pytest.mark.parametrize("sums", [True, False])
def test_walking_gives_what_running_from_the_start_gives(sums: bool) -> None:
    """Every tensor on the way is that of the whole model, although each node is run once and little is kept."""
    model = residual()
    graph = GraphIndex(model)
    found = layers(graph)
    tensors = [name for layer in found for name in (layer.reads, layer.gives)]
    seen = histograms(lambda: looked(model, tensors, CALIBRATION), tensors)
    activations = {name: codes.code(one.low, one.high, unsigned=True) for name, one in seen.items()}
    walk, weights = Walk(model, CALIBRATION), {}
    for layer in found:
        so_far = written(model, found, Plan(weights, activations, sums))
        name = rounded_name(so_far, layer.reads)
        whole = [values[name] for values in looked(so_far, [name], CALIBRATION)]
        for one, other in zip(walk.advance(so_far, name), whole, strict=True):
            assert np.allclose(one, other, atol=1e-6)
        assert all(len(case) <= 2 for case in walk.cases)
        rows = rows_of(layer, graph.maker[layer.key], graph.array(layer.weight))
        scales = codes.weight_scales(rows, per_channel=True)
        weights = weights | {layer.key: Weight(codes.weight_codes(rows, scales), scales)}


def test_sums_are_exact_only_where_they_are_to_be() -> None:
    """An Add reads what is rounded, or what is not."""
    model = residual()
    graph = GraphIndex(model)
    found = layers(graph)
    activations = {name: codes.Code(0.1, 0, unsigned=True) for layer in found for name in (layer.reads, layer.gives)}
    for sums, ends in ((True, "_rounded"), (False, "t1")):
        result = written(model, found, Plan(dict.fromkeys(layer.key for layer in found), activations, sums))
        add = next(node for node in result.graph.node if node.name == "add1")
        assert add.input[1].endswith(ends)
        assert add.input[0].endswith("_rounded")


def test_a_model_with_sums_keeps_more_than_rounding_to_the_nearest() -> None:
    model = residual()
    assert snr(model, fitted(model, Wish())) > snr(model, nearest(model)) + 3
