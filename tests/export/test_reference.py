"""The truth is float64 of the module as it is; the cases leave the traced sizes."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from attn_export.errors import SubjectError
from attn_export.export.outputs import evaluate, flatten
from attn_export.export.reference import cases, plan
from attn_export.export.sources.catalogue import from_spec
from attn_export.export.subject import Subject
from attn_export.mechanisms import MECHANISMS
from attn_export.mechanisms.spec import Input
from attn_export.types import Dim


def se() -> Subject:
    return from_spec("se", MECHANISMS["se"], "test")


def test_truth_is_the_module_in_float64_and_the_module_is_unchanged() -> None:
    subject = se()
    state = copy.deepcopy(subject.module.state_dict())
    made = cases(subject)
    exact = copy.deepcopy(subject.module).double()
    for case in made:
        with torch.no_grad():
            wanted = exact(torch.from_numpy(case.inputs["x"]).double()).numpy()
        np.testing.assert_array_equal(case.reference["y"], wanted)
        assert 0 < case.float32_error["y"] < 1e-5 * np.linalg.norm(wanted)
    assert all(torch.equal(v, state[k]) and v.dtype == state[k].dtype for k, v in subject.module.state_dict().items())
    assert torch.backends.mkldnn.enabled


def test_every_dynamic_dimension_takes_three_sizes_that_were_not_traced() -> None:
    subject = se()
    shapes = [case.inputs["x"].shape for case in cases(subject)]
    for axis, name in ((0, "b"), (2, "h"), (3, "w")):
        others = {shape[axis] for shape in shapes} - {subject.sizes[name]}
        assert len(others) >= 3, (name, others)
    assert shapes[0][0] == 1, "the first case is the one that latency is measured on"
    assert any(shape[2] != shape[3] for shape in shapes)


def test_sizes_keep_to_their_steps_and_bounds() -> None:
    dynamic = (Dim("h", step=4, min=8), Dim("w", step=8, min=8, max=24))
    module = nn.Identity().eval()
    subject = Subject("x", module, (Input("x", (1, "h", "w")),), {"h": 16, "w": 24}, dynamic)
    sizes = [row[3] for row in plan(subject) if "h" in row[3]]
    assert len(sizes) == 3
    assert all(dynamic[0].admits(s["h"]) and dynamic[1].admits(s["w"]) for s in sizes)
    assert len({s["h"] for s in sizes} - {16}) == 3


def test_integer_inputs_have_no_scales() -> None:
    subject = Subject("x", nn.Embedding(5, 3).eval(), (Input("t", (2, 4), "int64", 5),), {})
    assert [row[0] for row in plan(subject)] == ["as traced"]
    (case,) = cases(subject)
    assert case.inputs["t"].dtype == np.int64
    assert case.inputs["t"].max() < 5


def test_outputs_are_named_apart_from_inputs() -> None:
    one = torch.zeros(1)
    assert list(flatten(one, ["x"])) == ["y"]
    assert list(flatten((one, [one]), ["x"])) == ["y0", "y1"]
    assert list(flatten({"a": one}, ["y"])) == ["out"]
    with pytest.raises(SubjectError, match="got a str"):
        flatten("text", [])
    with pytest.raises(SubjectError, match="got none"):
        flatten((), [])


def test_a_module_that_does_not_run_is_said_with_its_shapes() -> None:
    with pytest.raises(SubjectError, match=r"Linear does not run on x:2x3: RuntimeError: mat1 and mat2"):
        evaluate(nn.Linear(4, 4), {"x": torch.zeros(2, 3)})


def test_the_yardstick_is_the_largest_of_the_variants() -> None:
    class Sloppy(nn.Module):
        """Exact in float64, and off by 0.5 in channels_last."""

        def forward(self, x: Tensor) -> Tensor:
            last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
            return x + 0.5 if last else x * 1.0

    subject = Subject("x", Sloppy().eval(), (Input("x", (1, 3, 4, 4)),), {})
    assert all(case.float32_error["y"] == pytest.approx(0.5 * 48**0.5) for case in cases(subject))
