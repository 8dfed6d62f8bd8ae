"""What is no function of its inputs is refused, with the name of who draws or keeps something."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn
from torch.nn import functional

from attn_export.errors import GateError
from attn_export.export import reference
from attn_export.export.determinism import draws, two_runs
from attn_export.export.subject import Subject
from attn_export.mechanisms.spec import Input
from attn_export.pipeline import stages
from attn_export.pipeline.options import BuildOptions
from attn_export.types import Dim
from tests.tools.run import run

HERE = Path(__file__).name


def subject(module: nn.Module) -> Subject:
    return Subject("x", module.eval(), (Input("x", ("b", 3, 4)),), {"b": 2}, (Dim("b"),))


class Noise(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 1e-7 * torch.randn_like(x)  # less than another order of sums may make


class Drop(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return functional.dropout(x, 0.3)


class PythonsDice(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * random.gauss(0, 1)


class NumpysDice(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * float(np.random.rand())  # noqa: NPY002


class OwnDice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dice = np.random.default_rng(1)

    def forward(self, x: Tensor) -> Tensor:
        return x * float(self.dice.normal())


class Echo(nn.Module):
    last: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        y = x if self.last is None else x + self.last
        self.last = y
        return y


@pytest.mark.parametrize(
    ("module", "who"),
    [
        (Noise(), rf"torch\.randn_like in Noise\.forward \({HERE}, line 35\) draws random numbers"),
        (Drop(), rf"torch\.nn\.functional\.dropout in Drop\.forward \({HERE}, line 40\) draws"),
        (PythonsDice(), rf"random in PythonsDice\.forward \({HERE}, line 45\) draws"),
        (NumpysDice(), rf"numpy\.random in NumpysDice\.forward \({HERE}, line 50\) draws"),
        (OwnDice(), rf"it writes 'dice' in OwnDice\.forward \({HERE}, line 59\)"),
        (Echo(), rf"it writes 'last' in Echo\.forward \({HERE}, line 67\)"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_two_runs_that_differ_are_refused_with_who_is_to_blame(module: nn.Module, who: str) -> None:
    with pytest.raises(GateError, match=rf"two runs on the same input differ by .*; {who}"):
        reference.refuse_dice(subject(module))


class Count(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.calls = [0]

    def forward(self, x: Tensor) -> Tensor:
        self.calls[0] += 1
        return x * 2


class Average(nn.Module):
    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.mean.copy_(x.mean())  # the same after both runs, and not what the checkpoint says
        return x * 2


@pytest.mark.parametrize(("module", "name"), [(Count(), "calls"), (Average(), "mean")])
def test_state_that_forward_changes_is_refused_with_its_name_and_line(module: nn.Module, name: str) -> None:
    kind = type(module).__name__
    before = {key: value.clone() for key, value in module.state_dict().items()}
    with pytest.raises(GateError, match=rf"changes its own state: it writes '{name}' in {kind}\.forward \({HERE}, l"):
        reference.refuse_dice(subject(module))
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())


class Keeps(nn.Module):
    """Keeps a table and its last attention, and draws a number that only training looks at."""

    def forward(self, x: Tensor) -> Tensor:
        skip = random.random() < 0.5 or bool(torch.rand(1) < 0.5)
        if self.training and skip:
            return x
        if not hasattr(self, "table"):
            self.table = torch.arange(4.0)
        self.attention = x.softmax(-1)
        return self.attention * self.table


def test_what_changes_no_output_is_no_fault() -> None:
    reference.refuse_dice(subject(Keeps()))
    assert len(reference.cases(subject(Keeps()))) > 3


class Late(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.randn_like(x) if x.shape[0] == 3 else x


def test_every_reference_run_is_made_twice_where_it_drew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(two_runs, "CHEAP", 0.0)
    reference.refuse_dice(subject(Late()))
    with pytest.raises(GateError, match=r"differ by .*randn_like in Late\.forward"):
        reference.cases(subject(Late()))


class Seeded(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        torch.manual_seed(1)
        return x + torch.randn_like(x)


def test_a_draw_that_forward_seeds_is_refused_in_the_graph() -> None:
    reference.refuse_dice(subject(Seeded()))
    with pytest.raises(GateError, match=r"RandomNormalLike .*test_determinism\.py:\d+.* draws random numbers"):
        stages.build(subject(Seeded()), BuildOptions())


def test_a_sum_in_another_order_is_no_dice(monkeypatch: pytest.MonkeyPatch) -> None:
    def apart(by: float) -> list[dict[str, Tensor]]:
        return [{"y": torch.ones(8)}, {"y": torch.ones(8) + by}, {"y": torch.ones(8)}, {"y": torch.ones(8)}] * 3

    monkeypatch.setattr(two_runs, "CHEAP", 9.0)
    two_runs.twice(nn.Identity(), iter(apart(1.2e-7)).__next__)
    with pytest.raises(GateError, match=r"differ by 9\.54e-07 in 'y'; look for"):
        two_runs.twice(nn.Identity(), iter(apart(1e-6)).__next__)


def graph(*nodes: onnx.NodeProto, opset: int = 17) -> onnx.ModelProto:
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 3]) for name in "xy"]
    model = helper.make_model(
        helper.make_graph(list(nodes), "g", ports[:1], ports[1:]), opset_imports=[helper.make_opsetid("", opset)]
    )
    model.ir_version = 8
    return model


def constant(name: str, value: float | bool) -> onnx.NodeProto:
    kind = TensorProto.BOOL if isinstance(value, bool) else TensorProto.FLOAT
    return helper.make_node("Constant", [], [name], value=helper.make_tensor(name, kind, [], [value]))


def test_nodes_that_draw_are_found_by_name_wherever_they_are() -> None:
    inner = helper.make_graph(
        [helper.make_node("Bernoulli", ["x"], ["z"], "coin")],
        "then",
        [],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, [2, 3])],
    )
    branch = helper.make_node("If", ["yes"], ["y"], then_branch=inner, else_branch=inner)
    assert draws.of_graph(graph(constant("yes", True), branch)) == ["Bernoulli 'coin'"] * 2
    assert draws.of_graph(graph(helper.make_node("Multinomial", ["x"], ["y"]))) == ["Multinomial 'y'"]


@pytest.mark.parametrize(
    ("ratio", "training", "opset", "found"),
    [(0.5, True, 17, 1), (0.5, False, 17, 0), (0.0, True, 17, 0), (None, None, 17, 0), (None, None, 6, 1)],
)
def test_dropout_draws_in_training_only(ratio: float | None, training: bool | None, opset: int, found: int) -> None:
    more = [constant("r", ratio), constant("t", training)] if ratio is not None and training is not None else []
    node = helper.make_node("Dropout", ["x", *(n.output[0] for n in more)], ["y"], "drop")
    assert len(draws.of_graph(graph(*more, node, opset=opset))) == found


@pytest.mark.parametrize("more", [(), ("--mutants", "none"), ("--fuse",)])
def test_the_main_job_refuses_a_random_file_before_anything_else(tmp_path: Path, more: tuple[str, ...]) -> None:
    weight = helper.make_tensor("w", TensorProto.FLOAT, [3, 3], np.eye(3, dtype=np.float32).ravel())
    model = graph(
        helper.make_node("MatMul", ["x", "w"], ["u"]),
        helper.make_node("RandomNormalLike", ["u"], ["z"], "dice"),
        helper.make_node("Add", ["u", "z"], ["y"]),
    )
    model.graph.initializer.append(weight)
    onnx.save(model, tmp_path / "m.onnx")
    ended = run(tmp_path / "m.onnx", "--no-bench", "-o", tmp_path / "out", *more)
    assert ended.code == 1
    assert "is not deterministic: RandomNormalLike 'dice' draws random numbers" in " ".join(ended.err.split())
    assert not (tmp_path / "out").exists()
