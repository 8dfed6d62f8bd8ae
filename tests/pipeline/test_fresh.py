"""``verify --fresh``: a bundle is held to what it has never seen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from attn_export import bundle
from attn_export.bundle import Case, case_of
from attn_export.errors import BundleError, GateError
from attn_export.pipeline import fresh
from tests.artifacts import onnx as onnx_artifact
from tests.tools.run import run

RANDOM = np.random.default_rng(0)
X = [RANDOM.standard_normal((rows, 3, 8)).astype(np.float32) for rows in (1, 2, 4)]


def model(nodes: list[Any], constants: dict[str, Any] | None = None) -> onnx.ModelProto:
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["b", 3, 8]) for name in ("x", "y")]
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def doubled() -> onnx.ModelProto:
    return model([helper.make_node("Add", ["x", "x"], ["y"])])


def table() -> onnx.ModelProto:
    """Right on the bundle's own inputs, which it knows by their largest number, and zero elsewhere."""
    known = np.array([x.max() for x in X], np.float32)
    return model(
        [
            helper.make_node("Add", ["x", "x"], ["twice"]),
            helper.make_node("ReduceMax", ["x"], ["most"], keepdims=0),
            helper.make_node("Equal", ["most", "known"], ["same"]),
            helper.make_node("Cast", ["same"], ["one"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMax", ["one"], ["any"], keepdims=0),
            helper.make_node("Mul", ["twice", "any"], ["y"]),
        ],
        {"known": known},
    )


def made(target: Path, deployed: onnx.ModelProto, original: onnx.ModelProto | None) -> Path:
    target.mkdir()
    onnx.save(deployed, target / bundle.MODEL)
    if original is not None:
        onnx.save(original, target / bundle.ORIGINAL)
    cases = [case_of(f"b={len(x)}", {"x": x}, {"y": 2.0 * x.astype("f8")}, [{"y": x + x}]) for x in X]
    bundle.write_cases(target / bundle.CASES, cases)
    ports = [{"name": name, "dtype": "float32", "shape": ["b", 3, 8]} for name in ("x", "y")]
    bundle.write_manifest(
        target,
        {
            "subject": {"name": "two"},
            "inputs": ports[:1],
            "outputs": ports[1:],
            "dynamic_dims": [{"name": "b", "min": 1, "max": 6}],
            "artifacts": [onnx_artifact()],
            "original": bundle.ORIGINAL if original is not None else None,
        },
    )
    return target


def test_a_table_of_its_own_cases_passes_them_and_fails_fresh_ones(tmp_path: Path) -> None:
    path = made(tmp_path / "table", table(), doubled())
    assert run("verify", path).code == 0, "this is why there are fresh cases"
    came = run("verify", path, "--fresh", "3", "--seed", "7")
    assert came.code == 1
    assert "--seed 7" in came.out
    assert "inputs drawn anew" in came.out


def test_an_honest_bundle_passes_what_it_has_never_seen(tmp_path: Path) -> None:
    path = made(tmp_path / "two", doubled(), doubled())
    came = run("verify", path, "--fresh", "9")
    assert came.code == 0, came.err
    assert "9 comparisons" in came.out


def test_without_its_original_there_is_nothing_to_hold_it_to(tmp_path: Path) -> None:
    path = made(tmp_path / "two", doubled(), None)
    came = run("verify", path, "--fresh", "1")
    assert came.code == BundleError.exit_code
    assert "--no-original" in came.err


def test_sizes_come_from_the_contract_and_both_ends_are_tried(tmp_path: Path) -> None:
    whole = bundle.read(made(tmp_path / "two", doubled(), doubled()))
    drawn = [feeds["x"].shape for _, feeds in fresh.drawn(whole, 30, seed=1)]
    assert drawn[0] == (1, 3, 8)
    assert drawn[1] == (6, 3, 8), "twice the largest seen is 8, and the contract ends at 6"
    assert {shape[0] for shape in drawn} == {1, 2, 3, 4, 5, 6}
    again = [feeds["x"] for _, feeds in fresh.drawn(whole, 30, seed=1)]
    assert [x.tolist() for x in again] == [feeds["x"].tolist() for _, feeds in fresh.drawn(whole, 30, seed=1)]


def test_values_are_of_every_kind(tmp_path: Path) -> None:
    whole = bundle.read(made(tmp_path / "two", doubled(), doubled()))
    by_kind = {name.split(": ")[1].split(",")[0]: feeds["x"] for name, feeds in fresh.drawn(whole, 7, seed=1)}
    assert set(by_kind) == set(fresh.KINDS)
    assert by_kind["not negative"].min() >= 0
    assert by_kind["negative"].max() <= 0
    assert by_kind["constant"].min() == by_kind["constant"].max()
    assert np.abs(by_kind["large"]).max() > 50


def test_a_promise_that_the_original_does_not_keep_is_a_finding(tmp_path: Path) -> None:
    fixed = model([helper.make_node("Mul", ["x", "two"], ["y"])], {"two": np.full((4, 3, 8), 2, np.float32)})
    whole = bundle.read(made(tmp_path / "fixed", doubled(), fixed))
    with pytest.raises(GateError, match="the original does not run on x: 6x3x8, which"):
        fresh.cases(whole, 3, seed=0)


def test_a_case_that_strays_too_far_is_left_out_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = bundle.read(made(tmp_path / "two", doubled(), doubled()))

    def stray(_: Path, feeds: Any, _selections: object = ()) -> list[Case]:
        ((name, inputs),) = feeds.items()
        off = 0.2 if name.startswith("fresh 1:") else 0.0
        return [case_of(name, inputs, {"y": np.ones((1, 3, 8))}, [{"y": np.ones((1, 3, 8)) + off}])]

    monkeypatch.setattr(fresh.float64, "evaluate", stray)
    said: list[str] = []
    assert len(fresh.cases(whole, 3, 0, said.append)) == 2
    assert "'fresh 1: in 0..1, b=6' is left out" in said[0]
