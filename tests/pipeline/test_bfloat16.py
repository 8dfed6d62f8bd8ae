"""bfloat16 as the type of inputs, outputs and weights: proven where the runtime can, said where it is widened."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from attn_export import api, bundle
from attn_export.bundle import elements
from attn_export.export.in_memory import from_module
from tests.tools.run import run

FLOAT, HALF, BRAIN = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16
QUICK = ("--no-bench", "-q")
ODD = [0.0, -0.0, np.inf, -np.inf, np.nan, 3.4e38, 1e-40, 1.00390625, 1.01171875]


def test_numbers_are_rounded_as_everybody_does() -> None:
    values = np.concatenate([np.float32(ODD), np.random.default_rng(0).standard_normal(10_000).astype(np.float32)])
    wanted = values.astype(ml_dtypes.bfloat16)
    assert np.array_equal(elements.fitted(values, "bfloat16"), wanted.astype(np.float32), equal_nan=True)
    finite = ~np.isnan(values)
    assert np.array_equal(elements.to_bits(values)[finite], wanted.view(np.uint16)[finite])
    assert elements.holds(wanted.astype(np.float32), "bfloat16")
    assert not elements.holds(values, "bfloat16")


def conv(inner: int, takes: int, gives: int) -> onnx.ModelProto:
    """A convolution in one type between others."""
    weight = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(helper.tensor_dtype_to_np_dtype(inner))
    nodes, x, y = list[onnx.NodeProto](), "x", "y"
    if takes != inner:
        nodes, x = [helper.make_node("Cast", ["x"], ["wide"], "in", to=inner)], "wide"
    y = "y" if gives == inner else "made"
    nodes += [helper.make_node("Conv", [x, "w"], ["c"], "conv"), helper.make_node("Relu", ["c"], [y], "relu")]
    if gives != inner:
        nodes.append(helper.make_node("Cast", ["made"], ["y"], "out", to=gives))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", takes, ["b", 3, 8, 8])],
        [helper.make_tensor_value_info("y", gives, ["b", 4, 6, 6])],
        [numpy_helper.from_array(weight, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)


#: What it computes in, takes and gives; what is said.
FILES = {
    "in and out": (FLOAT, BRAIN, BRAIN, ""),
    "in": (FLOAT, BRAIN, FLOAT, ""),
    "out": (FLOAT, FLOAT, BRAIN, ""),
    "throughout": (BRAIN, BRAIN, BRAIN, "computes in bfloat16, for which the runtime lacks kernels"),
    "float16 in and out": (FLOAT, HALF, HALF, ""),
}


def made(folder: Path, kinds: tuple[int, int, int]) -> Path:
    """The bundle of a file."""
    onnx.save(conv(*kinds), folder / "net.onnx")
    done = run(folder / "net.onnx", *QUICK, "-o", folder / "out")
    assert done.code == 0, done.err
    return folder / "out"


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_proven_in_the_types_that_it_has(tmp_path: Path, name: str) -> None:
    *kinds, said = FILES[name]
    onnx.save(conv(*kinds), tmp_path / "net.onnx")
    done = run(tmp_path / "net.onnx", "--no-bench", "-o", tmp_path / "out")
    assert (done.code, said in done.err) == (0, True), done.err
    assert "is off by" not in done.err
    whole, model = api.read_bundle(tmp_path / "out"), onnx.load(tmp_path / "out" / "model.onnx")
    declared = [value.type.tensor_type.elem_type for value in (model.graph.input[0], model.graph.output[0])]
    assert declared == kinds[1:]
    names = {FLOAT: "float32", HALF: "float16", BRAIN: "bfloat16"}
    assert [whole.inputs[0].dtype, whole.outputs[0].dtype] == [names[kind] for kind in kinds[1:]]
    assert all(elements.holds(case.inputs["x"], whole.inputs[0].dtype) for case in whole.cases)
    assert run("verify", tmp_path / "out", "--fresh", "3", "--seed", "1").code == 0


def test_the_device_needs_numpy_and_the_runtime_alone(tmp_path: Path) -> None:
    code = (
        "import sys\nfor name in ('torch', 'onnx', 'ml_dtypes'): sys.modules[name] = None\n"
        f"sys.argv = ['attn-export', 'verify', {str(made(tmp_path, (FLOAT, BRAIN, BRAIN)))!r}]\n"
        "from attn_export.tools.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "parity holds" in done.stdout


def altered(folder: Path, file: str, change: Any) -> int:
    """Change a file of a bundle, and its hash with it; how ``verify`` ends."""
    change(folder / file)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][file] = bundle.sha256(folder / file)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return run("verify", folder).code


def test_a_wrong_weight_is_seen(tmp_path: Path) -> None:
    def wrong(path: Path) -> None:
        model = onnx.load(path)
        (weight,) = [tensor for tensor in model.graph.initializer if len(tensor.dims) == 4]
        values = numpy_helper.to_array(weight).copy()
        values[1] *= 1.05
        weight.CopyFrom(numpy_helper.from_array(values, weight.name))
        onnx.save(model, path)

    assert altered(made(tmp_path, (FLOAT, BRAIN, BRAIN)), "model.onnx", wrong) == 1


def test_cases_hold_numbers_of_the_type_alone(tmp_path: Path) -> None:
    def finer(path: Path) -> None:
        found = dict(np.load(path))
        found["0.input.x"] = found["0.input.x"] * np.float32(1.001)
        np.savez(path, **found)

    path = made(tmp_path, (FLOAT, BRAIN, BRAIN))
    assert altered(path, "cases.npz", finer) == 3
    assert "numbers that it does not have" in run("verify", path).err


def test_a_runtime_that_is_fed_by_numpy_is_not_given_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from attn_export.deploy_tests.backends.onnxruntime.backend import OnnxRuntime

    path = made(tmp_path, (FLOAT, BRAIN, BRAIN))
    monkeypatch.setattr(OnnxRuntime, "takes_bfloat16", False)
    done = run("verify", path)
    assert done.code != 0
    assert "expected inputs and outputs of types that NumPy has, got 'x' in bfloat16" in done.err + done.out


def test_a_users_own_array_is_rounded(tmp_path: Path) -> None:
    path = made(tmp_path, (FLOAT, BRAIN, BRAIN))
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32))
    assert run("verify", path, "--data", tmp_path / "x.npy").code == 0


def test_float16_is_not_made_of_it(tmp_path: Path) -> None:
    onnx.save(conv(FLOAT, BRAIN, BRAIN), tmp_path / "net.onnx")
    done = run(tmp_path / "net.onnx", *QUICK, "--fp16", "-o", tmp_path / "out")
    assert done.code != 0
    assert "expected inputs and outputs that are no bfloat16, got 'y'" in done.err


class Net(nn.Module):
    """A convolution and a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Compute."""
        out: Tensor = self.body(x)
        return out


class Between(Net):
    """float32 between bfloat16."""

    def forward(self, x: Tensor) -> Tensor:
        """Compute."""
        return super().forward(x.float()).bfloat16()


def drawn(net: nn.Module) -> nn.Module:
    """Weights that are not those of a constructor."""
    torch.manual_seed(0)
    for part in net.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.running_var, 0.5, 2)
            nn.init.normal_(part.running_mean)
    return net.eval()


def test_a_network_that_takes_and_gives_it(tmp_path: Path) -> None:
    given = torch.randn(2, 3, 8, 8).bfloat16()
    result = api.deploy(drawn(Between()), (given,), output=tmp_path / "out", bench=False)
    whole = api.read_bundle(tmp_path / "out")
    assert [whole.inputs[0].dtype, whole.outputs[0].dtype] == ["bfloat16", "bfloat16"]
    assert any(np.array_equal(case.inputs["x"], given.float().numpy()) for case in whole.cases)
    assert result.parity.ok
    assert run("verify", tmp_path / "out").code == 0


def test_a_network_of_its_weights_is_deployed_in_float32_and_that_is_said(tmp_path: Path) -> None:
    net = drawn(Net()).bfloat16()
    given = torch.randn(2, 3, 8, 8).bfloat16()
    api.deploy(net, (given,), output=tmp_path / "out", bench=False)
    said = " ".join(from_module(net, (given,)).notes)
    assert "its weights are bfloat16" in said
    assert "x is float32 as well" in said
    assert next(net.parameters()).dtype == torch.bfloat16, "the caller's own module is left alone"
    model = onnx.load(tmp_path / "out" / "model.onnx")
    assert {tensor.data_type for tensor in model.graph.initializer} <= {FLOAT, TensorProto.INT64}


def test_it_may_be_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "net.py").write_text(
        "import torch\nfrom torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n        self.body = nn.Conv2d(3, 4, 3)\n"
        "    def forward(self, x):\n        return self.body(x.float())\n",
        encoding="utf-8",
    )
    monkeypatch.chdir(tmp_path)
    done = run("net.py:Net", "--input", "x:b=2x3x8x8:bfloat16[-1,1]", *QUICK, "-o", "out")
    assert done.code == 0, done.err
    assert all(np.abs(case.inputs["x"]).max() <= 1 for case in api.read_bundle("out").cases)


def test_a_half_module_whose_norms_the_exporter_folds(tmp_path: Path) -> None:
    net = drawn(Net()).half()
    api.deploy(net, (torch.randn(2, 3, 8, 8).half(),), output=tmp_path / "out", bench=False)
    model = onnx.load(tmp_path / "out" / "model.onnx")
    from attn_export.export.audit.constants import audit_initializers, known

    assert not audit_initializers(model, known(net)).findings
    (weight,) = [tensor for tensor in model.graph.initializer if list(tensor.dims) == [8, 3, 3, 3]]
    values: NDArray[Any] = numpy_helper.to_array(weight).copy()
    values[2] *= np.float16(1.01)
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    assert audit_initializers(model, known(net)).findings
