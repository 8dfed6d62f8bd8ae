"""What a rounded run moves: matrices, kernels and inputs, by about a rounding; no vector, mask or integer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from attn_export.export.graph_module import GraphModule
from attn_export.export.rounded_runs import ROUNDING, RoundedRuns, _moved, shifted

WEIGHT = np.random.default_rng(0).standard_normal((50, 40)).astype(np.float32)
BIAS = np.random.default_rng(1).standard_normal(50).astype(np.float32)


def linear() -> nn.Module:
    module = nn.Linear(40, 50)
    module.weight.data, module.bias.data = torch.from_numpy(WEIGHT.copy()), torch.from_numpy(BIAS.copy())
    return module.eval()


def graph() -> nn.Module:
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "xy"]
    held = [numpy_helper.from_array(WEIGHT, "w"), numpy_helper.from_array(BIAS, "c")]
    node = helper.make_node("Gemm", ["x", "w", "c"], ["y"], transB=1)
    model = helper.make_model(
        helper.make_graph([node], "g", ports[:1], ports[1:], held), opset_imports=[helper.make_opsetid("", 18)]
    )
    return GraphModule(model).eval()


@pytest.mark.parametrize("module", [linear(), graph()], ids=["module", "graph"])
def test_matrices_move_by_a_rounding_and_vectors_do_not(module: nn.Module) -> None:
    runs = RoundedRuns(module)
    name = "x" if isinstance(module, GraphModule) else "input"
    (bias,) = runs({name: torch.zeros(1, 40)}).values()
    assert np.array_equal(bias[0].numpy(), BIAS), "zeros stay zeros, and the bias is no matrix"
    (rows,) = runs({name: torch.eye(40)}).values()  # a mask: it stays as it is
    moved = (rows.double().numpy().T - BIAS[:, None] - WEIGHT) / np.abs(WEIGHT)
    assert 0.5 * ROUNDING < np.median(np.abs(moved)) < 4 * ROUNDING


def test_inputs_move_by_a_share_and_a_step_and_masks_and_integers_do_not() -> None:
    value = torch.full((4, 100), 3.0, dtype=torch.float64)
    given = {"x": value, "mask": torch.eye(4), "ids": torch.arange(4)}
    share, step = shifted(given, 1e-3, 0.0, 0), shifted({"x": 0 * value}, 0.0, 1e-3, 0)
    assert float((share["x"] / 3 - 1).std()) == pytest.approx(1e-3, rel=0.2)
    assert float(step["x"].std()) == pytest.approx(1e-3, rel=0.2)
    assert share["mask"] is given["mask"]
    assert share["ids"] is given["ids"]


def test_no_two_rows_and_no_two_weights_are_moved_alike() -> None:
    """The numbers are drawn once, and begin anew after a million."""
    wide = nn.Linear(1024, 2048, bias=False)
    nn.init.ones_(wide.weight)
    both = nn.Sequential(wide, nn.Linear(2048, 1024, bias=False))
    nn.init.ones_(both[1].weight)
    moved = _moved(both)
    rows = [row.numpy().tobytes() for row in moved[0].weight.detach()]
    assert len(set(rows)) == len(rows)
    assert not torch.equal(moved[0].weight.ravel(), moved[1].weight.ravel())
    change = (moved[0].weight.detach().double() - 1) / ROUNDING
    assert 0.5 < float(change.std()) < 2
