"""Which layers go back to float32: the least noise for the time they take, measured again after every step."""

from __future__ import annotations

import doctest
from collections.abc import Mapping

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from attn_export.errors import GateError
from attn_export.export.graph.index import GraphIndex, set_tensor
from attn_export.export.quantise import levels
from attn_export.export.quantise.codes import code, weight_codes, weight_scales
from attn_export.export.quantise.judge import Judge, Kept, centred
from attn_export.export.quantise.layers import layers, rows_of
from attn_export.export.quantise.quantise import quantise
from attn_export.export.quantise.quantised import FLOAT, INT8, Quantised, Ratio, Wish
from attn_export.export.quantise.ranges import histograms
from attn_export.export.quantise.rewrite import Plan, Weight, written
from attn_export.export.quantise.solver import solve
from attn_export.export.quantise.watch import looked
from tests.export.test_quantise import CALIBRATION, HELD_OUT, chain, pictures, run, said

KEYS = list("abcdef")
NAMES = {key: key.upper() for key in KEYS}


class Noises:
    """A model whose noises add up, how much less of it is sure, and how often it was measured."""

    def __init__(self, noise: Mapping[str, float], doubt: float = 0.0) -> None:
        self.noise, self.doubt, self.asked = noise, doubt, 0

    def __call__(self, lifted: frozenset[str]) -> Kept:
        self.asked += 1
        median = float(-10 * np.log10(1e-9 + sum(value for key, value in self.noise.items() if key not in lifted)))
        return Kept(median, median - self.doubt, median)


NOISE = dict(zip(KEYS, (0.1, 0.01, 0.02, 0.001, 0.005, 0.03), strict=True))


def test_nothing_is_lifted_where_the_aim_holds() -> None:
    measure = Noises(NOISE)
    assert solve(KEYS, measure, 5.0, {}, said, NAMES).lifted == {}
    assert solve(KEYS, measure, None, {}, said, NAMES).lifted == {}
    assert measure.asked == 2


def test_the_noisiest_goes_first_where_all_cost_the_same() -> None:
    found = solve(KEYS, Noises(NOISE), 14.0, {}, said, NAMES)
    assert list(found.lifted) == ["a", "f"]
    assert found.kept.median >= 14
    assert found.lifted["a"] == pytest.approx(0.1 / 0.166, rel=0.01)
    assert [point.float_sites for point in found.front] == [0, 1, 2]


def test_the_aim_is_to_hold_on_cases_that_nobody_has_seen() -> None:
    found = solve(KEYS, Noises(NOISE, doubt=2.0), 14.0, {}, said, NAMES)
    assert list(found.lifted) == ["a", "f", "c"]


def test_where_nothing_is_sure_the_median_of_the_cases_decides() -> None:
    found = solve(KEYS, Noises(NOISE, doubt=200.0), 14.0, {}, said, NAMES)
    assert list(found.lifted) == ["a", "f"]


def test_what_is_sure_of_a_median_is_so_in_five_of_six_draws() -> None:
    rng, true, holds = np.random.default_rng(0), 30.0, []
    for _ in range(300):
        noise = 10 ** (-(true + rng.normal(0, 4, 21)) / 20)
        truth = [{"y": np.float32([sign])} for sign in np.resize([1.0, -1.0], 21)]
        came = [{"y": one["y"] + np.float32(error)} for one, error in zip(truth, noise, strict=True)]
        kept = centred(truth, came)
        assert kept.low <= kept.median
        holds.append(kept.sure <= true)
    assert 0.78 < np.mean(holds) < 0.93


def test_what_takes_long_goes_later() -> None:
    alike, dear = dict.fromkeys(KEYS, 0.01), dict.fromkeys(KEYS, 0.01) | {"a": 1.0}
    assert "a" in solve(KEYS, Noises(NOISE), 9.5, alike, said, NAMES).lifted
    assert "a" not in solve(KEYS, Noises(NOISE), 9.5, dear, said, NAMES).lifted


def test_what_the_aim_holds_without_comes_back() -> None:
    """The first is lifted for nothing: with the second, whose noise is most of all, the aim holds alone."""
    noise = {"a": 0.02, "b": 0.1}
    found = solve(["a", "b"], Noises(noise), 16.0, {"a": 0.01, "b": 1.0}, said, NAMES)
    assert list(found.lifted) == ["b"]


def test_all_are_lifted_where_nothing_else_holds() -> None:
    found = solve(KEYS, Noises(NOISE), 80.0, {}, said, NAMES)
    assert set(found.lifted) == set(KEYS)


class FakeClock:
    """Says of every comparison what it is told to."""

    def __init__(self, *ratios: Ratio) -> None:
        self.ratios, self.pairs = list(ratios), list[tuple[int, int]]()

    def ratio(self, candidate: onnx.ModelProto, baseline: onnx.ModelProto) -> Ratio | None:
        self.pairs.append((len(candidate.graph.node), len(baseline.graph.node)))
        return self.ratios[min(len(self.pairs), len(self.ratios)) - 1]

    def costs(self, model: onnx.ModelProto) -> Mapping[str, float]:
        return {node.name: 1.0 for node in model.graph.node}


def made(wish: Wish, clock: FakeClock | None = None, model: onnx.ModelProto | None = None) -> Quantised:
    return quantise(model or chain(), CALIBRATION, HELD_OUT, wish, said, clock)


def test_layers_that_are_no_faster_go_back() -> None:
    slow = made(Wish(), FakeClock(Ratio(0.98, 0.97, 0.99), Ratio(0.5, 0.4, 0.6)))
    first = next(site for site in slow.sites if site.node == "conv0")
    assert first.form == FLOAT
    assert "no faster" in first.reason
    fast = made(Wish(), FakeClock(Ratio(1.2, 1.1, 1.3), Ratio(0.5, 0.4, 0.6)))
    assert next(site for site in fast.sites if site.node == "conv0").form == INT8
    assert fast.ratio == Ratio(0.5, 0.4, 0.6)
    assert fast.front[-1].ratio == 0.5


def test_a_result_that_is_not_faster_is_said() -> None:
    slow = made(Wish(), FakeClock(Ratio(1.2, 1.1, 1.3)))
    assert "not faster than float32" in slow.notes[0]


def test_an_aim_that_takes_layers_back_is_met() -> None:
    model = chain(5)
    plain = made(Wish(), model=model).front[-1].snr_db
    found = made(Wish(least_snr=plain + 2), model=model)
    assert 0 < sum(site.form == FLOAT for site in found.sites) < len(found.sites)
    assert all(site.reason for site in found.sites if site.form == FLOAT)
    assert Judge(model, HELD_OUT).kept(found.model).median >= plain + 2
    feeds = pictures(12, 3)
    came = centred([run(model, one) for one in feeds], [run(found.model, one) for one in feeds]).median
    assert came > plain


def test_a_layer_in_float_between_others_is_computed_in_float() -> None:
    """ONNX Runtime rounds the weight of such a layer by itself, with one scale for all rows, where nothing stops it."""
    model = uneven()
    graph = GraphIndex(model)
    found = layers(graph)[:-1]
    tensors = [name for layer in found for name in (layer.reads, layer.gives)]
    activations = {
        name: code(seen.low, seen.high, unsigned=True)
        for name, seen in histograms(lambda: looked(model, tensors, CALIBRATION), tensors).items()
    }
    middle = found[1].key
    weights = {}
    for layer in found:
        if layer.key != middle:
            rows = rows_of(layer, graph.maker[layer.key], graph.array(layer.weight))
            scales = weight_scales(rows, per_channel=True)
            weights[layer.key] = Weight(weight_codes(rows, scales), scales)
    result = written(model, found, Plan(weights, activations))
    meant = list(looked(result, ["y"], HELD_OUT))
    assert centred(meant, [run(result, feeds) for feeds in HELD_OUT]).median > 35


def test_an_aim_beyond_int8_is_refused() -> None:
    with pytest.raises(GateError, match="ask for less"):
        made(Wish(least_snr=200))


def uneven() -> onnx.ModelProto:
    """Build the chain with channels that differ by up to thirty in range."""
    model = chain()
    graph = GraphIndex(model)
    factor = np.float32(2.0) ** -np.arange(12, dtype=np.float32).clip(0, 5)
    for index in (0, 1, 2):
        for name, shape in ((f"w{index}", (-1, 1, 1, 1)), (f"b{index}", (-1,))):
            set_tensor(model.graph, name, graph.array(name) * factor.reshape(shape))
        name = f"w{index + 1}"
        graph = GraphIndex(model)
        set_tensor(model.graph, name, graph.array(name) / factor.reshape(1, -1, 1, 1))
        graph = GraphIndex(model)
    return model


def test_levelling_changes_no_bit() -> None:
    model = uneven()
    graph = GraphIndex(model)
    found = layers(graph)
    possible = levels.channels(found, graph)
    assert set(possible) == {"r0", "r1", "r2"}
    largest = {name: np.float64(2.0) ** -np.arange(12).clip(0, 5) for name in possible}
    other = levels.levelled(model, found, largest, 1.0)
    assert other is not None
    before, after = (numpy_helper.to_array(GraphIndex(m).tensors["w1"]) for m in (model, other))
    assert not np.array_equal(before, after)
    for feeds in HELD_OUT:
        assert np.array_equal(run(model, feeds)["y"], run(other, feeds)["y"])


def test_levelling_is_taken_where_it_helps_and_only_there() -> None:
    with_levels, without = made(Wish(), model=uneven()), made(Wish(levels=False), model=uneven())
    assert "levelled" in with_levels.method
    assert "levelled" not in without.method
    assert with_levels.front[-1].snr_db > without.front[-1].snr_db + 1


def test_examples() -> None:
    assert doctest.testmod(levels).failed == 0
