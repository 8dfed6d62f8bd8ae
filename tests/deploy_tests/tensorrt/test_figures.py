"""``bench`` on TensorRT: three latencies, layers mapped to nodes, and the GPU, in the report and on the screen."""

from __future__ import annotations

from pathlib import Path

import pytest

from attn_export import bundle
from attn_export.deploy_tests.backends.tensorrt import inspector, machine
from attn_export.deploy_tests.latency.measure import Protocol
from attn_export.deploy_tests.measurement import MeasureOptions, measure_bundle
from attn_export.tools.commands import bench
from tests.deploy_tests.tensorrt.test_run import Double, double, library  # noqa: F401  # fixtures
from tests.deploy_tests.test_conformance import write
from tests.pipeline import schema

QUICK = MeasureOptions(protocol=Protocol(0, duration=0.0, iterations=5), footprint=False, profile=True)


def test_three_latencies_and_the_layers_are_in_the_report(
    double: Double,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "nvpmodel").write_text("#!/bin/sh\necho 'NV Power Mode: MAXN'\n")
    (tools / "nvpmodel").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:/bin:/usr/bin")
    whole = bundle.read(write(tmp_path / "twice"))
    measured = measure_bundle(whole, "tensorrt", QUICK)
    assert schema.faults({"schema_version": bundle.SCHEMA_VERSION, "runs": [measured.plain]}) == []
    engine = measured.plain["engine"]
    assert engine["gpu"]["nvpmodel"] == "NV Power Mode: MAXN"
    assert {kind: len(values) for kind, values in engine["samples_ms"].items()} == {"gpu": 5, "host": 5, "graph": 5}
    assert [(row["layer"], row["nodes"]) for row in engine["layers_ms"]] == [("double_it", ["mul"])]
    text = "\n".join(bench._lines(whole, measured))
    assert all(f"  {word}: p50 " in text for word in ("GPU", "host end to end", "CUDA graph"))
    (row,) = measured.plain["profile"]["rows"]
    assert (row["time_us"], row["roofline_share"]) == (pytest.approx(250), None), "no peak of the processor for a GPU"
    assert set(machine.COMMANDS) == {"nvpmodel", "jetson_clocks", "nvidia_smi"}
    double.assert_clean()


#: One engine as the inspectors of 10 and 11 write it.
FORMS = {
    "10": '{"Layers": [{"Name": "a", "LayerType": "conv", "Inputs": [{"Name": "x", "Dimensions": [1, 4],'
    ' "Format/Datatype": "Row major linear FP16 format"}], "Outputs": [], "TacticName": "t",'
    ' "Metadata": "[ONNX Layer: c]"}], "Bindings": ["x", "y"]}',
    "11": '{"Layers": [{"Name": "a", "LayerType": "conv", "Inputs": [{"Name": "x", "Dimensions": [1, 4],'
    ' "Format": "Row major linear", "Datatype": "Half"}], "Outputs": [], "TacticName": "t",'
    ' "Metadata": "[ONNX Layer: c]"}], "I/O Tensors": [{"Name": "x"}, {"Name": "y"}]}',
}


def test_inspectors_of_10_and_11_give_one_schema() -> None:
    plans = [inspector.read(text) for text in FORMS.values()]
    for plan in plans:
        (layer,) = plan.layers
        assert (layer.name, layer.nodes, layer.tactic) == ("a", ("c",), "t")
        (tensor,) = layer.inputs
        assert (tensor.name, tensor.dtype, tensor.shape) == ("x", "float16", (1, 4))
    assert [inspector.ports(text) for text in FORMS.values()] == [("x", "y")] * 2
