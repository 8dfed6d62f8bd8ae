"""Bisection names the faulty node, in a number of runs that grows with the logarithm of the graph."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from attn_export.errors import ExportError
from attn_export.export.graph.cut import exposed, extract, reads
from attn_export.pipeline.divergence.bisect import bisect, cuts, derived, relative, relative_error
from attn_export.pipeline.divergence.divergence import Divergence
from attn_export.reparam.evaluate.onnx import OnnxEvaluator
from attn_export.types import Array
from tests.export.models import rich

X = np.random.default_rng(0).standard_normal((1, 4, 6, 6)).astype(np.float32)


def chain(length: int) -> onnx.ModelProto:
    """x → x + x / (1 + |x|) → …, ``2 · length`` nodes; an error never shrinks on its way."""
    nodes, last = [], "x"
    for n in range(length):
        nodes += [helper.make_node("Softsign", [last], [f"s{n}"]), helper.make_node("Add", [f"s{n}", last], [f"t{n}"])]
        last = f"t{n}"
    value = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [4]) for n in ("x", last)]
    graph = helper.make_graph(nodes, "chain", value[:1], value[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])


def planted(model: onnx.ModelProto, fault: str, size: float) -> Divergence | None:
    """Bisect a run whose kernel for ``fault`` is off by ``size``, relatively."""
    exact = OnnxEvaluator(model)
    order = {name: i for i, node in enumerate(model.graph.node) for name in node.output}

    def suspect(names: Sequence[str]) -> Iterable[tuple[str, Array]]:
        assert len(names) <= 8, "only one cut at a time"
        values = dict(exact.constants) | {"x": feeds["x"].astype(np.float64)}
        for index in range(len(exact.nodes)):
            for name, value in zip(exact.nodes[index].output, exact.step(index, values), strict=False):
                values[name] = value * (1 + size) if name == fault else value
        return [(name, values[name]) for name in sorted(names, key=order.__getitem__)]

    feeds = {value.name: np.linspace(-1, 1, 4, dtype=np.float32) for value in model.graph.input}
    return bisect(model, suspect, lambda names: exact.visit(feeds, names), relative(1e-10))


@pytest.mark.parametrize("length", [1, 8, 100])
def test_the_planted_node_is_found_in_log_n_runs(length: int) -> None:
    model = chain(length)
    names = [name for node in model.graph.node for name in node.output]
    for fault in {names[0], names[len(names) // 3], names[-2], names[-1]}:
        found = planted(model, fault, 1e-6)
        assert found is not None
        assert found.tensor == fault
        assert len(found.window) == 1
        assert found.runs <= math.ceil(math.log2(2 * length)) + 2
        assert found.error > found.bound
        assert f"first divergence at {found.op}" in found.summary()


def test_a_clean_run_departs_nowhere_after_one_look() -> None:
    assert planted(chain(8), "no such tensor", 1.0) is None


def test_growth_is_in_the_order_of_the_graph_and_zero_before_the_fault() -> None:
    found = planted(chain(20), "t10", 1e-6)
    assert found is not None
    names = [name for name, _ in found.growth]
    assert names == sorted(names, key=lambda n: (int(n[1:]), n[0]))
    assert all(error == 0 for name, error in found.growth if int(name[1:]) < 10)
    assert all(error > 0 for name, error in found.growth if int(name[1:]) > 10)


def test_a_cut_holds_all_that_later_nodes_read() -> None:
    model = rich()
    by_position = dict(cuts(model))
    assert by_position[1] == ("conv", "pool")
    assert by_position[5] == ("both", "plus"), "the residual is alive beside the gate"
    assert by_position[10] == ("y",)


def test_where_names_differ_the_window_says_which_nodes_it_may_be() -> None:
    model = rich()
    exact, broken = OnnxEvaluator(model), rich()
    broken.graph.node[4].op_type = "Tanh"
    other = OnnxEvaluator(broken)
    partners = {"conv", "both", "gelu", "norm", "linear", "softmax", "y"}
    found = bisect(
        broken,
        lambda names: other.visit({"x": X}, names),
        lambda names: exact.visit({"x": X}, names),
        relative(1e-10),
        partners,
    )
    assert found is not None
    assert found.tensor == "gelu"
    assert found.window == (3, 4, 5, 6)


def test_graphs_without_a_common_output_are_refused() -> None:
    exact = OnnxEvaluator(rich())

    def probe(names: Sequence[str]) -> Iterable[tuple[str, Array]]:
        return exact.visit({"x": X}, names)

    with pytest.raises(ExportError, match="no output name in common"):
        bisect(rich(), probe, probe, relative(0), {"conv"})


def test_a_float32_run_is_within_the_derived_rule_and_a_broken_one_is_not() -> None:
    model = rich()
    exact, single = OnnxEvaluator(model), OnnxEvaluator(model, np.float32)
    names = [name for node in model.graph.node for name in node.output]
    truth = exact.run({"x": X}, names)
    stray = {name: relative_error(value, truth[name]) for name, value in single.run({"x": X}, names).items()}
    rule = derived(stray, 4.0, 8 * 2.0**-24)
    error, bound = rule("y", truth["y"].astype(np.float32), truth["y"])
    assert error <= bound
    error, bound = rule("y", truth["y"] * (1 + 1e-4), truth["y"])
    assert error > bound


@pytest.mark.parametrize(
    ("value", "want", "error"),
    [
        ([1.0, np.nan], [1.0, 2.0], math.inf),
        ([1.0, np.nan], [1.0, np.nan], 0.0),
        ([0.0, 0.0], [0.0, 0.0], 0.0),
        ([0.0, 1e-30], [0.0, 0.0], math.inf),
        ([3.0, 4.5], [3.0, 4.0], 0.1),
    ],
)
def test_strays(value: list[float], want: list[float], error: float) -> None:
    assert relative_error(np.array(value), np.array(want)) == error


def test_integers_agree_or_do_not() -> None:
    assert relative_error(np.array([1, 2]), np.array([1, 2])) == 0
    assert relative_error(np.array([1, 3]), np.array([1, 2])) == math.inf


def test_an_exposed_model_gives_inner_tensors_and_drops_what_they_do_not_need() -> None:
    model = exposed(rich(), ["pool", "conv"])
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node] == ["Conv", "AveragePool"]
    assert {t.name for t in model.graph.initializer} == {"conv.weight", "conv.bias"}
    came = OnnxEvaluator(model).run({"x": X})
    wanted = OnnxEvaluator(rich()).run({"x": X}, ["pool", "conv"])
    assert all(np.array_equal(came[name], wanted[name]) for name in wanted)


def test_an_extracted_part_computes_the_same_from_its_own_inputs() -> None:
    model = rich()
    values = OnnxEvaluator(model).run({"x": X}, ["both", "gelu"])
    assert reads(model, [3, 4, 5, 6]) == ["both"]
    part = extract(model, [3, 4, 5, 6], {"both": values["both"].astype(np.float32)}, ["gelu"])
    onnx.checker.check_model(part, full_check=True)
    np.testing.assert_allclose(OnnxEvaluator(part).run({"both": values["both"]})["gelu"], values["gelu"], rtol=1e-12)
    assert {t.name for t in part.graph.initializer} == {"half_root", "one"}
    assert numpy_helper.to_array(part.graph.initializer[0]).size == 1
