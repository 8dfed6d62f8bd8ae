"""A bundle may hold several models, each proven on the same cases and judged by its own precision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from attn_export import bundle
from attn_export.bundle import Bundle, Case
from attn_export.deploy_tests import open_bundle
from attn_export.deploy_tests.latency.measure import Protocol
from attn_export.deploy_tests.measurement import MeasureOptions, measure_bundle
from attn_export.deploy_tests.parity.verify import verify
from attn_export.errors import BackendError, BundleError, UnknownNameError
from tests.artifacts import onnx as onnx_artifact
from tests.pipeline.schema import folder_faults
from tests.tools.run import run

X = np.random.default_rng(0).standard_normal((2, 64)).astype(np.float32)
CASE = Case("b=2", {"x": X}, {"y": X.astype(np.float64) / 3}, {"y": 1e-7})
FOREIGN = [
    {"name": "lite", "kind": "tflite", "files": ["model.tflite"], "precision": "int8", "target": "phone"},
    {"name": "small", "kind": "ncnn", "files": ["model.param", "model.bin"], "precision": "float16"},
]


def third(path: Path, kind: int) -> None:
    """y = x / 3, computed in one element type."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["b", 64]) for name in "xy")
    nodes = [
        helper.make_node("Cast", ["x"], ["a"], to=kind),
        helper.make_node("Mul", ["a", "w"], ["c"]),
        helper.make_node("Cast", ["c"], ["y"], to=TensorProto.FLOAT),
    ]
    weight = helper.make_tensor("w", kind, [], [1 / 3])
    graph = helper.make_graph(nodes, "g", [x], [y], [weight])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)


def write(target: Path, artifacts: list[dict[str, Any]]) -> Bundle:
    with bundle.writing(target) as folder:
        third(folder / "model.onnx", TensorProto.FLOAT)
        third(folder / "half.onnx", TensorProto.FLOAT16)
        for one in artifacts:
            for name in one["files"]:
                if not (folder / name).exists():
                    (folder / name).write_bytes(b"of another runtime")
        bundle.write_cases(folder / bundle.CASES, [CASE])
        port = {"name": "x", "dtype": "float32", "shape": ["b", 64]}
        content = {
            "subject": {"name": "third"},
            "inputs": [port],
            "outputs": [{**port, "name": "y"}],
            "dynamic_dims": [{"name": "b"}],
            "artifacts": artifacts,
        }
        bundle.write_manifest(folder, content)
    return bundle.read(target)


@pytest.fixture
def both(tmp_path: Path) -> Bundle:
    half = onnx_artifact("float16", name="half", file="half.onnx", snr_db_limit=40.0)
    return write(tmp_path / "third", [onnx_artifact(), half])


def test_two_precisions_lie_beside_each_other_and_each_is_judged_by_its_own(both: Bundle) -> None:
    assert [one.summary() for one in both.artifacts] == ["model (onnx, float32)", "half (onnx, float16)"]
    assert both.model == both.path / "model.onnx"
    assert folder_faults(both.path) == []
    first, named = verify(both, "onnxruntime"), verify(both, "onnxruntime", artifact="model")
    assert first == named
    assert first.ok
    assert (first.snr_db_limit, first.worst.normalized_error < 4) == (None, True)
    half = verify(both, "onnxruntime", artifact="half")
    assert half.ok
    assert half.snr_db_limit == 40.0
    assert half.worst.normalized_error > 4, "by the measure of float32 it would fail"
    with pytest.raises(UnknownNameError, match="artifact"):
        verify(both, "onnxruntime", artifact="whole")


def test_every_command_proves_and_names_both(both: Bundle) -> None:
    done = run("verify", both.path)
    assert done.code == 0, done.err
    assert "onnxruntime, model (onnx, float32): parity holds" in done.out
    assert "onnxruntime, half (onnx, float16): parity holds" in done.out
    rows = run("verify", both.path, "--json").json["runs"]
    assert [(row["artifact"], row["parity"]["snr_db_limit"]) for row in rows] == [("model", None), ("half", 40.0)]
    quick = MeasureOptions(protocol=Protocol(0, 1, 0, 3), footprint=True, artifact="half")
    came = measure_bundle(both, "onnxruntime", quick).plain
    assert came["artifact"] == "half"
    assert came["footprint"]["file_bytes"] == (both.path / "half.onnx").stat().st_size


def test_a_wrong_one_is_found_beside_a_right_one(both: Bundle) -> None:
    target = both.path.with_name("wrong")
    with bundle.writing(target) as folder:
        for name in both.manifest["files"]:
            (folder / name).write_bytes((both.path / name).read_bytes())
        model = onnx.load(folder / "half.onnx")
        model.graph.initializer[0].CopyFrom(helper.make_tensor("w", TensorProto.FLOAT16, [], [0.4]))
        onnx.save(model, folder / "half.onnx")
        bundle.write_manifest(folder, both.manifest)
    done = run("verify", target)
    assert done.code == 1
    assert "half (onnx, float16): parity fails" in done.out


def test_what_a_backend_does_not_take_is_read_whole_and_skipped_with_a_sentence(tmp_path: Path) -> None:
    limits = {"normalized_limit": 4.0, "snr_db_limit": 45.0}
    foreign = [{**one, "tolerance": limits} for one in FOREIGN]
    mixed = write(tmp_path / "mixed", [*foreign, onnx_artifact()])
    assert [one.kind for one in mixed.artifacts] == ["tflite", "ncnn", "onnx"]
    assert [file.name for file in mixed.artifacts[1].files] == ["model.param", "model.bin"]
    assert verify(mixed, "onnxruntime").ok, "the first that it takes"
    assert mixed.artifact(kinds=("onnx",)).name == "model"
    with pytest.raises(BundleError, match=r"expected an artifact of kind pte, got lite \(tflite, int8, for phone\)"):
        mixed.artifact(kinds=("pte",))
    alone = write(tmp_path / "alone", foreign)
    words = (
        "it takes artifacts of kind onnx or ort, and the bundle holds lite (tflite, int8, for phone),"
        " small (ncnn, float16)"
    )
    assert open_bundle.missing(alone, "onnxruntime") == words
    with pytest.raises(BackendError, match="onnxruntime cannot run"):
        verify(alone, "onnxruntime")
    done = run("verify", alone.path)
    assert done.code == 4
    assert f"onnxruntime: not run: {words}" in done.out
