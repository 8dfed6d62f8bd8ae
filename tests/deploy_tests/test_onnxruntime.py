"""The runtime of the base install: its refusals are exceptions, and nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from attn_export.deploy_tests.backend import Options
from attn_export.deploy_tests.backends import BACKENDS
from attn_export.errors import BackendError


def save(path: Path) -> Path:
    """A graph that loads, and breaks on every input but those of six values."""
    shape = numpy_helper.from_array(np.array([2, 3], np.int64), "shape")
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 3])
    graph = helper.make_graph([helper.make_node("Reshape", ["x", "shape"], ["y"])], "g", [x], [y], [shape])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def test_it_runs_by_name(tmp_path: Path) -> None:
    with BACKENDS["onnxruntime"].open(save(tmp_path / "m.onnx"), Options()) as run:
        assert run({"x": np.arange(6, dtype=np.float32)})["y"].shape == (2, 3)


def test_what_it_refuses_is_an_error_that_says_on_what(tmp_path: Path) -> None:
    with (
        BACKENDS["onnxruntime"].open(save(tmp_path / "m.onnx"), Options()) as run,
        pytest.raises(BackendError, match=r"breaks on .*m\.onnx with inputs \{'x': \(5,\)\}"),
    ):
        run({"x": np.zeros(5, np.float32)})
    (tmp_path / "text.onnx").write_text("no model")
    with (
        pytest.raises(BackendError, match="does not load"),
        BACKENDS["onnxruntime"].open(tmp_path / "text.onnx", Options()),
    ):
        pass


def test_it_prints_nothing_of_its_own(tmp_path: Path) -> None:
    """A planted fault that the runtime refuses is an answer, and no noise on the terminal."""
    code = (
        "import sys, numpy as np; from pathlib import Path\n"
        "from attn_export.deploy_tests.backend import Options\n"
        "from attn_export.deploy_tests.backends import BACKENDS\n"
        "from attn_export.errors import BackendError\n"
        "with BACKENDS['onnxruntime'].open(Path(sys.argv[1]), Options()) as run:\n"
        "    try:\n        run({'x': np.zeros(5, np.float32)})\n"
        "    except BackendError:\n        print('refused')\n"
    )
    command = [sys.executable, "-c", code, str(save(tmp_path / "m.onnx"))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("refused\n", "")


def test_an_allocation_that_overflows_prints_nothing(tmp_path: Path) -> None:
    """The runtime logs it outside of any session, in colours, past Python's streams."""
    nodes = [
        helper.make_node("ConstantOfShape", ["shape"], ["filled"], value=helper.make_tensor("v", 1, [1], [1.0])),
        helper.make_node("ReduceSum", ["filled"], ["y"]),
    ]
    shape = helper.make_tensor_value_info("shape", TensorProto.INT64, [1])
    graph = helper.make_graph(nodes, "g", [shape], [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, tmp_path / "m.onnx")
    code = (
        "import sys, numpy as np\nfrom pathlib import Path\n"
        "from attn_export.deploy_tests.backends import opened\nfrom attn_export.deploy_tests.backend import Options\n"
        "from attn_export.errors import BackendError\n"
        "with opened('onnxruntime', Path(sys.argv[1]), Options()) as run:\n"
        "    try:\n        run({'shape': np.array([1 << 62])})\n"
        "    except BackendError:\n        print('refused')\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "m.onnx")], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("refused\n", "")
