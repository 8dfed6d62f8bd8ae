"""What stays in memory between two runs of an evaluation, and what fusing a file does not have to load."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from attn_export.reparam.evaluate.onnx import OnnxEvaluator


def _two_weights() -> onnx.ModelProto:
    weights = [numpy_helper.from_array(np.full((4, 4), n, np.float32), f"w{n}") for n in (1, 2)]
    nodes = [helper.make_node("MatMul", ["x", "w1"], ["z"]), helper.make_node("MatMul", ["z", "w2"], ["y"])]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in "xy")
    return helper.make_model(helper.make_graph(nodes, "g", [x], [y], weights), ir_version=8)


def test_weights_are_kept_while_there_is_room_for_them() -> None:
    feeds = {"x": np.ones((1, 4), np.float32)}
    for kept, expected in ((1 << 20, [True, True]), (4 * 4 * 8, [True, False]), (0, [False, False])):
        exact = OnnxEvaluator(_two_weights(), kept=kept)
        assert (exact.run(feeds)["y"] == 32).all()
        assert [exact.constants[name] is exact.constants[name] for name in ("w1", "w2")] == expected


def test_fusing_a_file_loads_no_tracing() -> None:
    code = (
        "import sys, attn_export.tools.commands.graphs; sys.exit('sympy' in sys.modules or 'torch' not in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
