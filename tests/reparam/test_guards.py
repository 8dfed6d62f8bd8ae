"""What must not be collapsed is not: for the reason it should, before any certificate has to roll it back."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import helper
from torch import Tensor, nn

from attn_export.reparam import fuse_module
from attn_export.reparam.evaluate.onnx import OnnxEvaluator
from attn_export.reparam.fuse_onnx import fuse_graph
from tests.reparam.blocks import REFUSED, wake
from tests.reparam.test_blocks import count, left
from tests.reparam.test_onnx_graphs import CONV, RNG, operators, small, torchscript

NORM = {name: RNG.uniform(0.5, 2, 4) for name in ("gamma", "beta", "mean", "variance")}
X = RNG.standard_normal((2, 4, 9, 9)) * np.array([1, 3, 0.2, 5]).reshape(1, 4, 1, 1) + 2


def by_the_batch(c: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The norm by the batch's own mean and variance, in plain NumPy."""
    mean, variance = c.mean((0, 2, 3), keepdims=True), c.var((0, 2, 3), keepdims=True)
    column = {name: np.float32(value).astype(float).reshape(1, 4, 1, 1) for name, value in NORM.items()}
    result: np.ndarray[Any, Any] = (c - mean) / np.sqrt(variance + 1e-5) * column["gamma"] + column["beta"]
    return result


def trained(opset: int, outputs: list[str], **more: int) -> onnx.ModelProto:
    names = ["c", "gamma", "beta", "mean", "variance"]
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("BatchNormalization", names, outputs, "norm", **more),
    ]
    return small(nodes, {"w": CONV["w"], **NORM}, opset=opset)


@pytest.mark.parametrize("opset", [14, 15, 18, 24])
@pytest.mark.parametrize("outputs", [["y", "", ""], ["y", "running_mean", "running_variance"]], ids=["one", "three"])
def test_a_norm_of_a_file_in_training_mode_stays(opset: int, outputs: list[str]) -> None:
    model = trained(opset, outputs, training_mode=1)
    fusion = fuse_graph(model, cases=[{"x": X}])
    assert operators(fusion.model) == {"Conv": 1, "BatchNormalization": 1}
    assert not fusion.rolled_back, "it was never tried"
    assert fusion.certificate.ok
    assert not fusion.certificate.left_out
    conv = OnnxEvaluator(model).run({"x": X}, ["c"])["c"]
    assert np.allclose(OnnxEvaluator(fusion.model).run({"x": X})["y"], by_the_batch(conv), rtol=1e-12, atol=1e-12)
    evaluated = trained(opset, ["y"])
    assert operators(fuse_graph(evaluated).model) == {"Conv": 1}, "the same norm in evaluation mode goes"
    assert not np.allclose(OnnxEvaluator(evaluated).run({"x": X})["y"], by_the_batch(conv), rtol=0.1), (
        "the test can tell"
    )


@pytest.mark.parametrize("opset", [11, 12, 13])
def test_a_norm_with_the_outputs_of_training_stays(opset: int) -> None:
    """Before opset 14 nothing but four more outputs says that a norm is in training mode."""
    model = trained(opset, ["y", "m", "v", "sm", "sv"])
    fusion = fuse_graph(model, cases=[{"x": X}])
    assert operators(fusion.model) == {"Conv": 1, "BatchNormalization": 1}
    assert fusion.certificate.ok
    assert not fusion.certificate.left_out
    conv = OnnxEvaluator(model).run({"x": X}, ["c"])["c"]
    assert np.allclose(OnnxEvaluator(fusion.model).run({"x": X})["y"], by_the_batch(conv), rtol=1e-12, atol=1e-12)
    assert operators(fuse_graph(trained(opset, ["y"])).model) == {"Conv": 1}


class BatchNorm(nn.Module):
    """A norm that takes the batch's own statistics whatever the mode of the module."""

    def __init__(self, running: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.running = running

    def forward(self, x: Tensor) -> Tensor:
        """Convolve, normalise by the batch."""
        n = self.norm
        statistics = (n.running_mean, n.running_var) if self.running else (None, None)
        return F.batch_norm(self.conv(x), *statistics, n.weight, n.bias, True, 0.1, n.eps)


@pytest.mark.parametrize("running", [False, True])
def test_a_norm_of_a_module_by_the_batch_stays(running: bool) -> None:
    module, x = wake(BatchNorm(running)), torch.from_numpy(X).float()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    fusion = fuse_module(module, (x,))
    assert left(fusion.model)[0] == 1
    assert any("batch_norm" in kind for kind in count(fusion.model))
    assert not fusion.rolled_back
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert torch.allclose(fusion.model(x), module(x), rtol=1e-4, atol=1e-5)


#: What stops each of them: words of the refusal, or the operator that no rule reads.
STOPS = {
    "bias-then-padding": "padded with 0 where its bias makes",
    "pool-without-padding-count": "fewer positions at the border",
    "per-pixel": "differs between positions",
    "shared-producer": "done twice",
    "activation-between": "LeakyRelu",
    "rmnet": "Relu",
}


@pytest.mark.parametrize("form", ["module", "file"])
@pytest.mark.parametrize("name", STOPS)
def test_what_must_stay_is_never_tried(name: str, form: str) -> None:
    block = next(block for block in REFUSED if block.name == name)
    torch.manual_seed(3)
    module, x = wake(block.build()), torch.randn(block.shape)
    fusion: Any = fuse_module(module, (x,)) if form == "module" else fuse_graph(torchscript(module, x))
    assert all(site.before.count("Conv") <= 1 for site in fusion.sites), "a convolution may take its own norm"
    assert not fusion.rolled_back, "the rule refuses it; no certificate had to"
    if form == "file":
        found = operators(fusion.model)
        assert (found["Conv"], found["AveragePool"]) == (block.convs, block.pools)
    if "Relu" not in STOPS[name]:
        assert any(STOPS[name] in refusal.reason for refusal in fusion.refusals)
    elif form == "file":
        assert operators(fusion.model)[STOPS[name]]
