"""The evaluation before judges that we did not write: the ONNX project's data, and ONNX Runtime on drawn nodes."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

from attn_export.reparam.evaluate.claims import RefusedOperatorError
from attn_export.reparam.evaluate.onnx import OnnxEvaluator
from benchmarks import backend_older, node_draws
from benchmarks.backend_data import BackendCase, cases, made
from benchmarks.backend_tests import BackendOutcome, differ, is_double, judge
from benchmarks.pages.operators import PAGE, claimed, page


@pytest.fixture(scope="module")
def outcomes() -> list[BackendOutcome]:
    return [judge(case) for case in cases()]


def test_all_of_the_data_is_there(outcomes: list[BackendOutcome]) -> None:
    kinds = Counter(outcome.case.kind for outcome in outcomes)
    assert kinds["node"] > 1800
    assert kinds["simple"] > 20
    assert (kinds["pytorch-converted"], kinds["pytorch-operator"], kinds["light"]) == (82, 35, 9)
    assert all(outcome.case.runs for outcome in outcomes)
    assert all(wanted for outcome in outcomes for _, wanted in outcome.case.runs)


def test_no_model_is_wrong_or_breaks_us(outcomes: list[BackendOutcome]) -> None:
    bad = [f"{o.case.name}: {o.detail}" for o in outcomes if o.status in ("wrong", "traceback")]
    assert not bad, "\n".join(bad)


def test_few_are_refused_and_each_by_name(outcomes: list[BackendOutcome]) -> None:
    refused = [outcome for outcome in outcomes if outcome.status == "refused"]
    assert len(refused) <= 25
    for outcome in refused:
        assert "opset" in outcome.detail
        # The operator may stand inside a function that the model calls.
        assert "cannot be evaluated in float64" in outcome.detail


def test_the_page_is_current(outcomes: list[BackendOutcome]) -> None:
    assert f"with onnx {onnx.__version__}." in PAGE.read_text(encoding="utf-8"), "install the onnx of constraints.txt"
    again = "run: python -m benchmarks.pages.operators"
    assert PAGE.read_text(encoding="utf-8") == page(outcomes), again


def test_each_claim_has_a_witness(outcomes: list[BackendOutcome]) -> None:
    seen = {name for o in outcomes if o.status == "agrees" for name in _operators(o.case)} | set(node_draws.MAKERS)
    assert not set(claimed()) - seen - {"Optional"}, "Optional has its test in test_exact_values.py"


def _operators(case: BackendCase) -> set[str]:
    return {f"{n.domain}.{n.op_type}".lstrip(".") for n in case.model.graph.node}


@pytest.mark.slow
def test_a_fifth_of_it_in_float32() -> None:
    chosen = [case for case in cases()[::5] if not is_double(case)]
    counts = Counter(judge(case, np.float32).status for case in chosen)
    assert set(counts) == {"agrees", "refused"}
    assert counts["agrees"] > 350


@pytest.mark.parametrize("name", node_draws.MAKERS)
def test_drawn_nodes_agree_with_the_runtime(name: str) -> None:
    onnxruntime.set_default_logger_severity(4)
    faults = [node_draws.compare(draw) for draw in node_draws.draws(1, 6, name) if draw.operator == name]
    assert any(fault is not None for fault in faults), "the runtime takes some"
    assert not [fault for fault in faults if fault]


@pytest.mark.parametrize("name", ["Softmax", "Hardmax", "BatchNormalization", "TopK", "Clip", "Scan", "Dropout"])
def test_older_versions_agree_with_the_runtime(name: str) -> None:
    faults = [(case.name, backend_older.compare(case, model)) for case, model in backend_older.older(name)]
    assert any(fault is not None for _, fault in faults)
    assert not [(case, fault) for case, fault in faults if fault and not any(k in case for k in backend_older.KNOWN)]


#: What has steps by its nature, or is float32 by definition.
_LEARNED = {"ai.onnx.ml.Binarizer", "ai.onnx.ml.TreeEnsemble"}
FLAT = {"Ceil", "DynamicQuantizeLinear", "Floor", "Hardmax", "Round", "Sign"} | _LEARNED


@pytest.mark.slow
def test_every_operator_is_evaluated_in_float64() -> None:
    """Where the inputs move by 1e-10, the outputs move as smoothly: float32 inside would stand still, or jump."""
    claimed_now = set(claimed())
    tried, smooth = Counter[str](), set[str]()
    for case in made():
        (name, *more) = _operators(case)
        if more or name not in claimed_now or name in smooth or tried[name] > 7:
            continue
        moved = _moves_smoothly(case)
        tried[name] += moved is not None
        smooth |= {name} if moved else set()
    assert len(smooth) > 120
    assert {name for name in tried if tried[name]} - smooth == FLAT


def _moves_smoothly(case: BackendCase) -> bool | None:
    """Whether an output moves twice as far when the inputs do; None if nothing in it is of a floating-point type."""
    given, _ = case.runs[0]
    floats = [
        n for n, v in given.items() if isinstance(v, np.ndarray) and v.dtype in (np.float32, np.float16, np.float64)
    ]
    if not floats:
        return None

    def at(step: float) -> dict[str, Any]:
        moved = {
            n: given[n] * 1.0 + step * np.sin(1 + np.arange(given[n].size).reshape(given[n].shape)) for n in floats
        }
        return OnnxEvaluator(case.model).run({**given, **{n: v.astype(np.float64) for n, v in moved.items()}})

    try:
        rows = [at(step) for step in (0, 1e-10, 2e-10)]
    except RefusedOperatorError:
        return None
    names = [n for n, v in rows[0].items() if isinstance(v, np.ndarray) and v.dtype == np.float64]
    found = None
    for name in names:
        zero, first, second = (row[name] for row in rows)
        if zero.size and zero.shape == first.shape == second.shape:
            with np.errstate(invalid="ignore"):
                one, two = np.nan_to_num(first - zero), np.nan_to_num(second - zero)
            ahead = float(np.abs(two).max())
            found = bool(found) or (ahead > 0 and float(np.abs(two - 2 * one).max()) < 0.05 * ahead)
    return found


def test_the_judge_sees_what_differs() -> None:
    right = np.float32([1, 2, 3])
    assert differ(np.float64([1, 2, 3]), right) == ("", 0.0)
    assert differ(np.float64([1, 2, 3.0001]), right)[0].startswith("off by")
    assert differ(np.float64([1, 2, 3.000001]), right)[0] == ""
    assert "shape" in differ(np.float64([[1, 2, 3]]), right)[0]
    assert "float32 for float64" in differ(right, right)[0], "an evaluation in float64 that is none"
    assert differ(np.float64([1, 2, np.inf]), right)[0].startswith("infinities")
    assert differ(np.float64([1, 2, 1e6]), np.float16([1, 2, np.inf]))[0] == "", "it overflows in its type"
    assert "1 of 2 differ" in differ(np.array([1, 2]), np.array([1, 3]))[0]
    assert differ(np.array([1, 2], np.int32), np.array([1, 2]))[0] == "int32 for int64"
    assert differ([np.array([1])], [np.array([1]), np.array([2])])[0]
    assert differ(None, None) == ("", 0.0)
    assert differ(np.array([1]), None)[0]


def test_a_wrong_model_is_called_wrong() -> None:
    ports = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [2]) for n in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "g", ports[:1], ports[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    x = np.float32([1, 2])
    assert judge(BackendCase("a", "node", model, (({"x": x}, {"y": -x}),))).status == "agrees"
    assert judge(BackendCase("a", "node", model, (({"x": x}, {"y": x}),))).status == "wrong"
    assert judge(BackendCase("a", "node", model, (({"x": x}, {"z": x}),))).status == "wrong"
    assert judge(BackendCase("a", "node", model, (({"w": x}, {"y": -x}),))).status == "traceback"
    graph.node[0].op_type = "RandomNormalLike"
    refused = judge(BackendCase("a", "node", helper.make_model(graph), (({"x": x}, {"y": x}),)))
    assert refused.status == "refused"
    assert "RandomNormalLike" in refused.detail
