"""Below float32 a report speaks of dB: float16 and INT8 as ONNX Runtime runs them, bfloat16 as it should be run."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from attn_export import bundle
from attn_export.deploy_tests.backend import Run
from attn_export.deploy_tests.parity.compare import Parity, prove
from attn_export.deploy_tests.parity.verify import verify
from attn_export.export.precision.float16 import to_float16
from attn_export.pipeline import manifest
from attn_export.reparam.evaluate.onnx import OnnxEvaluator
from tests.artifacts import onnx as onnx_artifact
from tests.export.models import PORTS, cases, quantised, rich
from tests.pipeline.schema import faults
from tests.tools.run import run

#: What each is held to, in dB; INT8 by whoever deploys it.
WANTED = {"float16": 40.0, "bfloat16": 20.0, "int8": 20.0}


def brain() -> onnx.ModelProto:
    """The small graph, its convolution in bfloat16."""
    model = rich()
    conv, kind = model.graph.node[0], TensorProto.BFLOAT16
    casts = [helper.make_node("Cast", [name], [f"{name}_16"], f"to_{name}", to=kind) for name in conv.input]
    conv.input[:] = [f"{name}_16" for name in conv.input]
    conv.output[0] = "conv_16"
    rest = [helper.make_node("Cast", ["conv_16"], ["conv"], "back", to=TensorProto.FLOAT), *model.graph.node[1:]]
    del model.graph.node[:]
    model.graph.node.extend([*casts, conv, *rest])
    model.opset_import[0].version = 22  # the first with a convolution in bfloat16
    onnx.checker.check_model(model, full_check=True)
    return model


def made(target: Path, precision: str, *, fault: bool = False) -> Path:
    """A bundle whose truth is the float32 graph in float64."""
    model = {"float16": lambda: to_float16(rich(), [c.inputs for c in cases(rich())])[0], "bfloat16": brain}.get(
        precision, quantised
    )()
    if fault:
        next(node for node in model.graph.node if node.name == "n_both").op_type = "Sub"
    target.mkdir()
    onnx.save(model, target / bundle.MODEL)
    bundle.write_cases(target / bundle.CASES, tuple(cases(rich())))
    port = {"name": "y", "dtype": "float32", "shape": list(PORTS[0].shape)}
    content: dict[str, Any] = {
        "subject": {"name": "rich"},
        "inputs": [{**port, "name": "x"}],
        "outputs": [port],
        "dynamic_dims": [],
        "artifacts": [{**onnx_artifact(precision), "tolerance": manifest.tolerance(precision, WANTED[precision])}],
    }
    bundle.write_manifest(target, content)
    return target


def emulated() -> Run:
    """What a device with bfloat16 computes: its rounding of input, weights and result of the convolution."""
    model = rich()
    for tensor in model.graph.initializer:
        if tensor.name.startswith("conv"):
            rounded = onnx.numpy_helper.to_array(tensor).astype(ml_dtypes.bfloat16).astype(np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(rounded, tensor.name))

    def go(values: Any) -> dict[str, Any]:
        x = values["x"].astype(ml_dtypes.bfloat16).astype(np.float32)
        return {"y": OnnxEvaluator(model, np.float32).run({"x": x})["y"]}

    return go


def reported(place: Path, parity: Parity) -> None:
    bundle.write_json(place / bundle.REPORT, manifest.report(parity, None, None))
    bundle.write_manifest(place, json.loads((place / bundle.MANIFEST).read_text()))


@pytest.mark.parametrize("precision", WANTED)
@pytest.mark.parametrize("fault", [False, True], ids=["right", "wrong"])
def test_every_format_gives_the_ratio_and_the_verdict_of_its_class(tmp_path: Path, precision: str, fault: bool) -> None:
    place = made(tmp_path / "b", precision, fault=fault)
    whole = bundle.read(place)
    if precision == "bfloat16":
        noise = (lambda values: {"y": emulated()(values)["y"] * np.float32(1 + fault)}) if fault else emulated()
        parity = prove(noise, whole.cases, whole.outputs, backend="emulated", snr=whole.artifacts[0].snr_db_limit)
    else:
        parity = verify(whole, "onnxruntime")
        assert (run("verify", place).code, run("verify", place).out.count("dB")) == (int(fault), 2)
    assert parity.ok is not fault
    reported(place, parity)
    content = json.loads(run("report", place, "--format", "json").out)
    assert faults(content) == []
    rows = content["runs"][0]["parity"]
    assert rows["snr_db_limit"] == WANTED[precision]
    least = min(row["snr_db"] for row in rows["comparisons"])
    assert (least >= WANTED[precision]) is not fault
    word, wanted = ("failed" if fault else "passed"), f"at least {WANTED[precision]:g} dB"
    page = run("report", place, "--format", "html").out
    assert f'<div class="verdict {word}"' in page
    assert f"lowest signal-to-noise ratio {least:.3g}"[:34] in page
    assert wanted in page
    assert f"what {WANTED[precision]:g} dB allow" in page
    assert not re.search(r"k = [\d.]+ of", page), "k is float32's measure"
    text = run("report", place, "--format", "markdown").out
    assert wanted in text
    assert f"{word}," in text.splitlines()[0]
    junit = run("report", place, "--format", "junit").out
    assert wanted in junit
    assert ("<failure" in junit) is fault
    results = json.loads(run("report", place, "--format", "sarif").out)["runs"][0]["results"]
    assert bool(results) is fault
    assert all(wanted in row["message"]["text"] for row in results)


def test_a_runtime_without_bfloat16_says_so_in_one_sentence(tmp_path: Path) -> None:
    came = run("verify", made(tmp_path / "b", "bfloat16"))
    assert came.code == 3, (came.out, came.err)
    assert len(came.err.strip().splitlines()) == 1
    assert "bfloat16" in came.err
    assert "Conv" in came.err
    assert "passed" not in came.out


def test_int8_has_no_class_of_its_own() -> None:
    with pytest.raises(ValueError, match="how many dB"):
        manifest.tolerance("int8")
    assert manifest.tolerance("bfloat16")["snr_db_limit"] == 20.0
    assert manifest.tolerance("float16")["snr_db_limit"] == 40.0
    assert "snr_db_limit" not in manifest.tolerance("float32")
