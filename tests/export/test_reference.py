"""The truth is float64 of the module as it is; the cases leave the traced sizes."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from attn_export.errors import InconclusiveError, SubjectError
from attn_export.export import float32_runs
from attn_export.export.cases.plan import plan
from attn_export.export.cases.work import measure
from attn_export.export.float32_runs import Float32Runs
from attn_export.export.in_memory import from_module
from attn_export.export.input_shapes import inputs_of
from attn_export.export.outputs import evaluate, flatten
from attn_export.export.reference import cases, on
from attn_export.export.sources.catalogue import from_spec
from attn_export.export.subject import Subject
from attn_export.mechanisms import MECHANISMS
from attn_export.mechanisms.spec import Input
from attn_export.types import Dim
from tests.export.models import rich


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
        assert (case.float32_error["y"] > 0) == (case.name != "zeros")
        assert case.float32_error["y"] <= 1e-5 * np.linalg.norm(wanted)
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
    sizes = [row.sizes for row in plan(subject) if "h" in row.sizes and not row.optional]
    assert len(sizes) == 3
    probes = [row.sizes for row in plan(subject) if "h" in row.sizes and row.optional]
    assert all(dynamic[0].admits(s["h"]) and dynamic[1].admits(s["w"]) for s in probes)
    assert {s["w"] for s in probes} >= {8, 24}, "both limits"
    assert all(dynamic[0].admits(s["h"]) and dynamic[1].admits(s["w"]) for s in sizes)
    assert len({s["h"] for s in sizes} - {16}) == 3


def test_integer_inputs_have_no_scales() -> None:
    subject = Subject("x", nn.Embedding(5, 3).eval(), (Input("t", (2, 4), "int64", 5),), {})
    assert [row.name for row in plan(subject)] == [
        "as traced",
        "lowest integers",
        "highest integers",
        "integers in turn",
    ]
    made = cases(subject)
    assert all(case.inputs["t"].dtype == np.int64 and case.inputs["t"].max() < 5 for case in made)
    assert set(made[-1].inputs["t"].ravel().tolist()) == set(range(5))


def test_outputs_are_named_apart_from_inputs() -> None:
    one = torch.zeros(1)
    assert list(flatten(one, ["x"])) == ["y"]
    assert list(flatten((one, [one]), ["x"])) == ["y0", "y1"]
    assert list(flatten({"a": one}, ["y"])) == ["a"], "a key is a name"
    assert list(flatten([one], ["y"])) == ["out"]
    with pytest.raises(SubjectError, match="got str"):
        flatten("text", [])
    with pytest.raises(SubjectError, match="got nothing"):
        flatten((), [])


def test_a_module_that_does_not_run_is_said_with_its_shapes() -> None:
    with pytest.raises(SubjectError, match=r"Linear does not run on x:2x3: RuntimeError: mat1 and mat2"):
        evaluate(nn.Linear(4, 4), {"x": torch.zeros(2, 3)})


def test_the_yardstick_is_the_largest_of_the_variants() -> None:
    class Sloppy(nn.Module):
        """Exact in float64, and off by 2e-4 in channels_last."""

        def forward(self, x: Tensor) -> Tensor:
            last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
            return x + 2e-4 if last else x * 1.0

    subject = Subject("x", Sloppy().eval(), (Input("x", (1, 3, 4, 4)),), {})
    assert all(case.float32_error["y"] == pytest.approx(2e-4 * 48**0.5, rel=1e-3) for case in cases(subject)[:3])


class Tiny(nn.Module):
    """Scores of a detector that sees nothing: a sigmoid far out, next to zero everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.c = nn.Conv2d(3, 1, 1)
        nn.init.constant_(self.c.bias, -12.0)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.c(x))


def _subject(module: nn.Module, *shapes: str) -> Subject:
    return Subject("m", module.eval(), *inputs_of(list(shapes), []))


def test_functions_are_granted_what_runtimes_make_of_them() -> None:
    case = cases(_subject(Tiny(), "x:1x3x8x8"))[0]
    y = case.reference["y"]
    assert y.max() < 1e-4
    assert case.float32_error["y"] == pytest.approx(2**-23 * 8, rel=0.2), "64 elements, each moved by 2^-23"
    assert case.slice_error["y"][2].shape == (8,)
    assert case.slice_error["y"][2] == pytest.approx(2**-23 * 8**0.5, rel=0.2)


def test_a_model_without_such_functions_is_granted_nothing_more() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    case = cases(_subject(module, "x:1x3x8x8"))[0]
    size = float(np.linalg.norm(case.reference["y"]))
    assert case.float32_error["y"] < 2e-7 * size


class Attention(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.scaled_dot_product_attention(x, x, x)


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Whose runs were made."""
    found, evaluate = list[str](), float32_runs.evaluate

    def noted(module: nn.Module, inputs: Mapping[str, Tensor], whose: str = "") -> dict[str, Tensor]:
        found.append(whose)
        return evaluate(module, inputs, whose)

    monkeypatch.setattr(float32_runs, "evaluate", noted)
    return found


def test_a_function_inside_of_a_fused_kernel_is_found(ran: list[str]) -> None:
    said: list[str] = []
    Float32Runs(nn.ReLU(), said.append)({"x": torch.randn(1, 2, 5, 8)})
    assert not any("coarse functions" in whose for whose in ran)
    Float32Runs(Attention(), said.append)({"x": torch.randn(1, 2, 5, 8)})
    assert len([whose for whose in ran if "coarse functions" in whose]) == 2
    assert not said


class Viewed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x * 2).view(x.size(0), -1)


def test_a_run_that_does_not_work_on_a_module_is_left_out_and_said_once() -> None:
    said: list[str] = []
    found = cases(_subject(Viewed(), "x:b=2x3x4x4"), said=said.append)
    assert len(found) >= 3
    assert len(said) == 1
    assert "without one of its runs: our float32 run 'channels last' of" in said[0]


class Masked(nn.Module):
    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return torch.softmax(x + (1 - mask) * torch.finfo(torch.float32).min, -1)


def test_a_case_at_which_float32_itself_is_not_finite_is_left_out_and_said() -> None:
    said: list[str] = []
    found = cases(_subject(Masked(), "x:2x8", "keep:2x8"), said=said.append)  # no mask by its name
    assert found
    assert "scale 8" not in {case.name for case in found}
    assert any("'scale 8' is left out" in text and "PyTorch's own float32" in text for text in said)


class Overflowing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.exp(x * 0 + 100)


def test_where_float32_is_finite_in_no_case_nothing_is_proven() -> None:
    with pytest.raises(InconclusiveError, match="in every case"):
        cases(_subject(Overflowing(), "x:1x3"))


class Attends(nn.Module):
    """An additive mask made of zeros and ones, where half a rounding of a one is beyond all other numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.q = nn.Linear(8, 8)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        scores = self.q(x) @ x.transpose(1, 2) + (1.0 - mask[:, None, :]) * torch.finfo(torch.float32).min
        return scores.softmax(-1) @ x


@pytest.mark.parametrize("kept", [8, 5])
def test_a_mask_of_zeros_and_ones_is_no_number_that_rounds(kept: int) -> None:
    x, mask = torch.randn(2, 8, 8), (torch.arange(8) < kept).float().repeat(2, 1)
    subject = from_module(Attends().eval(), (x, mask))
    (case,) = on(subject, [("one", {"x": x, "mask": mask})])
    assert case.float32_error["y"] < 1e-5 * float(np.linalg.norm(case.reference["y"]))


class _Squeezing(nn.Module):
    """A convolution, with a function behind it or without."""

    def __init__(self, *, function: bool) -> None:
        super().__init__()
        self.body, self.function = nn.Conv2d(3, 8, 3), function

    def forward(self, x: Tensor) -> Tensor:
        """Compute."""
        y: Tensor = self.body(x)
        return torch.sigmoid(y) if self.function else y


@pytest.mark.parametrize("function", [False, True])
def test_a_run_that_coarse_runs_repeat_is_left_to_them(
    function: bool, ran: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = _Squeezing(function=function).eval()
    monkeypatch.setattr(float32_runs, "_distinct", lambda runs: len(runs) > 1)
    Float32Runs(module, lambda _: None)({"x": torch.randn(1, 3, 8, 8)})
    assert any("without oneDNN" in whose for whose in ran) is not function
    assert any("coarse functions" in whose for whose in ran) is function


class _Does(nn.Module):
    """One function of the input."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.body, self.function = nn.Linear(4, 4), function

    def forward(self, x: Tensor) -> Tensor:
        """Compute."""
        return self.function(self.body(x))


JUMPS: dict[str, tuple[Callable[[Tensor], Tensor], bool]] = {
    "nothing": (lambda x: x, False),
    "a division by a number": (lambda x: x / 3, False),
    "a division by a tensor": (lambda x: 1 / x, True),
    "a division that rounds": (lambda x: torch.div(x, 3, rounding_mode="floor"), True),
    "a norm": (lambda x: nn.functional.layer_norm(x, (4,)), False),
    "a norm of next to no epsilon": (lambda x: nn.functional.layer_norm(x, (4,), eps=1e-12), True),
    "a roll": (lambda x: x.roll(1, 0)[[0, 1]], False),
    "an order": (lambda x: x.sort(-1).values, True),
}


@pytest.mark.parametrize("kind", JUMPS)
def test_jumps_are_looked_for_where_an_operator_may_have_some(kind: str) -> None:
    function, jumps = JUMPS[kind]
    subject = from_module(_Does(function).eval(), (torch.randn(3, 4),))
    assert measure(subject, {}).jumps is jumps


def test_the_runs_of_a_graph_do_not_load_the_compiler(tmp_path: Path) -> None:
    """To watch PyTorch's operators loads it, which takes longer than a small file's whole reference."""
    onnx.save(rich(), tmp_path / "rich.onnx")
    code = (
        f"import sys, attn_export; subject = attn_export.load({str(tmp_path / 'rich.onnx')!r});"
        " from attn_export.export import reference; assert reference.cases(subject);"
        " print('torch._dynamo' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.split() == ["False"]
