"""What a batch norm does to a constant: its scale and shift by definition, with whatever it goes without."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from attn_export.export.audit.constants import ULPS, Known, audit_initializers, known
from attn_export.export.graph.index import set_tensor
from attn_export.export.onnx.torch_export import export
from attn_export.export.subject import Subject
from attn_export.mechanisms.spec import Input
from tests.export.models import rich


def norm(*, affine: bool, eps: float = 1e-3) -> nn.BatchNorm2d:
    random = np.random.default_rng(0)
    made = nn.BatchNorm2d(4, affine=affine, eps=eps).eval()
    parts = ("weight", "bias", "running_mean", "running_var") if affine else ("running_mean", "running_var")
    with torch.no_grad():
        for name in parts:
            getattr(made, name).copy_(torch.from_numpy(random.uniform(0.5, 2.0, 4)))
    return made


@pytest.mark.parametrize("affine", [True, False])
def test_scale_and_shift_are_what_the_norm_computes(affine: bool) -> None:
    part = norm(affine=affine)
    scale, shift = known(nn.Sequential(part)).norms["0"]
    x = torch.from_numpy(np.random.default_rng(1).standard_normal((2, 4, 3, 3)))
    with torch.no_grad():
        wanted = part.double()(x).numpy()
    np.testing.assert_allclose(x.numpy() * scale[:, None, None] + shift[:, None, None], wanted, rtol=0, atol=1e-13)


def test_a_norm_without_statistics_of_its_own_folds_into_nothing() -> None:
    assert known(nn.Sequential(nn.BatchNorm2d(4, track_running_stats=False))).norms == {}
    assert known(nn.Sequential(nn.GroupNorm(2, 4))).norms == {}


@pytest.mark.parametrize("bias", [True, False])
def test_a_norm_without_weight_and_bias_is_accounted_for_when_folded(bias: bool) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 4, 3, bias=bias), norm(affine=False)).eval()
    model = export(Subject("plain norm", module, (Input("x", (1, 3, 8, 8)),), {})).model
    assert not any(node.op_type == "BatchNormalization" for node in model.graph.node), "the exporter did not fold"
    audit = audit_initializers(model, known(module))
    assert audit.ok
    assert audit.checked == 2
    assert audit.unmatched == ()


def folded_weight(ulps: float) -> bool:
    """Whether a folded kernel is accounted for that is off by so many units in the last place of its terms."""
    random = np.random.default_rng(0)
    kernel = random.uniform(1.0, 2.0, (4, 4, 3, 3)).astype(np.float32)
    scale = np.full(4, 0.75)
    moved = kernel.astype(np.float64) * 0.75
    moved[1, 2, 0, 0] *= 1 + ulps * 2.0**-23
    model = rich()
    set_tensor(model.graph, "conv.weight", moved.astype(np.float32))
    return audit_initializers(model, Known({"weight": kernel}, {"norm": (scale, np.zeros(4))})).ok


@pytest.mark.parametrize(("ulps", "fine"), [(0, True), (3, True), (-3, True), (5.5, False), (-5.5, False)])
def test_a_folded_constant_may_be_off_by_a_few_units_in_the_last_place(ulps: float, fine: bool) -> None:
    assert ULPS == 4
    assert folded_weight(ulps) is fine


def test_a_constant_of_which_nothing_is_known_hides_none_that_comes_after() -> None:
    model = rich()
    kernel = next(t for t in model.graph.initializer if t.name == "linear.weight")
    true = onnx.numpy_helper.to_array(kernel)
    set_tensor(model.graph, "linear.weight", true * np.float32(1.01))
    audit = audit_initializers(model, Known({"linear.weight": true}))
    assert "conv.weight" in audit.unmatched
    assert [finding.where for finding in audit.findings] == ["linear.weight"]
