"""Each kind of case and each size catches the fault that shows on nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from attn_export.bundle import Case
from attn_export.deploy_tests.parity.compare import prove
from attn_export.export.cases import kinds, plan
from attn_export.export.cases.doubt import doubtful
from attn_export.export.cases.work import Work, measure
from attn_export.export.graph_module import GraphModule
from attn_export.export.reference import cases
from attn_export.export.sources.catalogue import from_spec
from attn_export.export.subject import Subject
from attn_export.mechanisms import MECHANISMS
from attn_export.mechanisms.spec import Input
from attn_export.types import Array, Dim, Feeds, TensorSpec

TINY = Work(0, 1000, 1000)


class Doubled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x + 1


def image(channels: int = 3, dims: tuple[Dim, ...] = (Dim("b"),)) -> Subject:
    shape = ("b", channels, "h" if len(dims) > 1 else 8, "w" if len(dims) > 1 else 9)
    return Subject("x", Doubled().eval(), (Input("x", shape),), {"b": 2, "h": 8, "w": 9}, dims)


def failing(subject: Subject, made: tuple[Case, ...], wrong: Callable[[Array], bool]) -> set[str]:
    """Run a graph that is right but where ``wrong`` says so; name the cases that notice."""
    name = subject.inputs[0].name

    def run(feeds: Feeds) -> dict[str, Array]:
        x = feeds[name]
        with torch.no_grad():
            y = subject.module(*(torch.from_numpy(value) for value in feeds.values())).numpy()
        return {"y": y * 1.1 if wrong(x) else y}

    shape = tuple("?" for _ in made[0].reference["y"].shape)
    parity = prove(run, made, [TensorSpec("y", "float32", shape)], backend="")
    return {row.case for row in parity.comparisons if row.failure or not parity.within(row)}


FAULTS: dict[str, tuple[Callable[[Array], bool], set[str]]] = {
    "all in 0..1, and no constant": (lambda x: 0 <= x.min() < x.max() <= 1, {"natural image"}),
    "all negative": (lambda x: x.max() < 0, {"negative", "constant frames"}),
    "all negative, and no constant": (lambda x: x.max() < 0 and np.ptp(x[0, 0]) > 0, {"negative"}),
    "each frame constant": (lambda x: not np.ptp(x, (2, 3)).any() and np.ptp(x) > 0, {"constant frames"}),
    "all zero": (lambda x: not x.any(), {"zeros"}),
    "all one": (lambda x: bool((x == 1).all()), {"ones"}),
    "one above 50": (lambda x: x.max() > 50, {"one bright pixel", kinds.LARGE}),
    "above 1e4": (lambda x: x.max() > 1e4, {kinds.LARGE}),
    "normalised": (lambda x: 1.5 < x.max() < 3 and x.min() > -2.5 and x.size < 300, {"normalised image"}),
    "batch of 5 or 6": (lambda x: len(x) in (5, 6), {"b=5", "b=6"}),
    "batch beyond 8": (lambda x: len(x) > 8, {"b=9", "b=16", "b=17", "b=33"}),
    "batch of exactly 8": (lambda x: len(x) == 8, {"b=8"}),
}


@pytest.fixture(scope="module")
def made() -> tuple[Case, ...]:
    return cases(image())


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_that_shows_on_some_inputs_only_is_caught(fault: str, made: tuple[Case, ...]) -> None:
    wrong, noticed = FAULTS[fault]
    assert failing(image(), made, wrong) == noticed


def test_features_are_no_images_and_have_a_kind_without_negative_numbers() -> None:
    subject = image(16)
    made = cases(subject)
    assert not {case.name for case in made} & {"natural image", "normalised image"}
    assert failing(subject, made, lambda x: x.min() >= 0 and np.ptp(x[0, 0]) > 0 and x.max() < 50) == {"non-negative"}


def test_a_natural_image_has_the_spectrum_of_one() -> None:
    value = kinds.natural((1, 3, 64, 64), np.random.default_rng(0))
    assert (value.min(), value.max()) == (0.0, 1.0)
    power = np.abs(np.fft.fft2(value[0, 0])) ** 2
    slow, fast = power[1, 1:8].mean(), power[20:32, 20:32].mean()
    assert slow > 100 * fast
    assert np.corrcoef(value[0, 0].ravel(), value[0, 1].ravel())[0, 1] > 0.8


def test_every_row_of_a_table_has_its_turn() -> None:
    subject = Subject(
        "x", nn.Embedding(50, 3).eval(), (Input("t", ("b", 4), "int64", 50),), {"b": 2}, (Dim("b", max=32),)
    )
    made = cases(subject)
    turn = next(case for case in made if case.name == "integers in turn")
    assert set(turn.inputs["t"].ravel().tolist()) == set(range(50))
    assert "highest integers" in failing(subject, made, lambda t: bool((t == 49).all()))
    assert failing(subject, made, lambda t: not t.any()) == {"lowest integers"}


class Masked(nn.Module):
    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return x * mask


@pytest.mark.parametrize("dtype", ["bool", "float32"])
def test_masks_are_masks(dtype: str) -> None:
    shapes = Input("x", (2, 8)), Input("mask", (2, 8), dtype)  # type: ignore[arg-type]
    made = {case.name: case.inputs["mask"] for case in cases(Subject("x", Masked().eval(), shapes, {}))}
    assert made["all true"].all()
    assert not made["all false"].any()
    assert made["one true"].sum() == 2
    assert made["first half true"].tolist() == [[1, 1, 1, 1, 0, 0, 0, 0]] * 2
    assert all(set(np.unique(value)) <= {0, 1} for name, value in made.items() if name != kinds.NUMBERS)
    assert (kinds.NUMBERS in made) == (dtype == "float32")


def test_sizes_beyond_the_traced_ones_are_tried_on_both_sides_of_usual_limits() -> None:
    rows = plan.plan(image(dims=(Dim("b"), Dim("h", 4), Dim("w", 1, 20))), work=TINY)
    batches, heights, widths = ({{**row.sizes}.get(name) for row in rows} - {None} for name in "bhw")
    assert batches >= {1, 3, 4, 5, 6, 7, 8, 9, 16, 17, 33}
    assert heights >= {4, 5, 8, 9, 16, 17, 33}
    assert widths >= {1, 2, 8, 9, 16, 17, 20}
    assert max(widths) == 20, "its limit, and nothing beyond"
    assert any(row.sizes.get("h", 0) > row.sizes.get("w", 99) for row in rows)


def test_a_limit_is_tried_although_it_is_dear() -> None:
    work = Work(0, plan.SIZES // 20, 1000)
    names = [row.name for row in plan.plan(image(dims=(Dim("b", max=40),)), work=work)]
    assert "b=40" in names
    assert "b=33" not in names


def test_a_large_model_is_proven_on_fewer_cases_and_that_is_said() -> None:
    subject, large = image(), Work(0, plan.KINDS * 2, 1000)
    rows = [row for row in plan.plan(subject, work=large) if row.optional]
    assert [row.name for row in rows] == ["natural image", "negative", "zeros", kinds.LARGE]
    assert {"ones", "b=9", "one bright pixel"} <= set(plan.left_out(subject, large))
    assert not plan.left_out(subject, TINY)


def test_what_is_dear_at_full_size_is_tried_at_a_small_one() -> None:
    subject = replace(
        image(dims=(Dim("b"), Dim("h", 32, step=32), Dim("w", 32, step=32))), sizes={"b": 2, "h": 320, "w": 320}
    )
    small, *larger = plan.smaller(subject)
    assert (small, larger) == ({"h": 32, "w": 64}, [{"h": 64, "w": 96}, {"h": 160, "w": 192}])
    rows = {row.name: row for row in plan.plan(subject, 0, Work(0, plan.KINDS * 2, 1000), small) if row.optional}
    assert {"b=9, h=32, w=64", "b=5, h=32, w=64", "b=6, h=32, w=64"} <= rows.keys()
    assert rows["constant frames"].sizes == {"b": 1, **small}
    assert rows["negative"].sizes == {"b": 1}
    assert rows["zeros"].sizes == {"b": 1, **small}
    assert not {"b=9", "constant frames"} & {*plan.left_out(subject, Work(0, plan.KINDS * 2, 1000), small)}


class AtLeast(nn.Module):
    """Runs from 50 rows on; a large model, by what it counts."""

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2] < 50:
            raise ValueError("too small")
        return nn.functional.avg_pool2d(x, 50, 50)


def test_a_small_size_is_one_at_which_the_module_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "KINDS", 1)
    subject = replace(image(dims=(Dim("b"), Dim("h"), Dim("w"))), module=AtLeast(), sizes={"b": 2, "h": 300, "w": 300})
    shapes = {case.name: case.inputs["x"].shape for case in cases(subject)}
    assert shapes["negative"] == (1, 3, 300, 300)
    assert shapes["ones"] == (1, 3, 60, 61), "at a tenth of the size it does not run"


def test_work_is_counted_so_that_it_is_the_same_everywhere() -> None:
    subject = from_spec("repvgg", MECHANISMS["repvgg"], "test")
    one, two = measure(subject, {"b": 1}), measure(subject, {"b": 2})
    assert one == measure(subject, {"b": 1})
    assert one.calls == two.calls
    assert 1.8 < two.operations / one.operations < 2
    assert one.bytes == two.bytes // 2


class Order(nn.Module):
    """Says where the largest is: of equal numbers that may be any."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sum((2, 3)).argmax(-1)


class Normed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.instance_norm(x)


def test_a_network_of_continuous_operators_is_not_searched_for_jumps() -> None:
    assert not measure(image(), {}).jumps
    assert measure(replace(image(), module=Order()), {}).jumps
    graph = subject_of_graph("Relu"), subject_of_graph("Round")
    assert [measure(one, {}).jumps for one in graph] == [False, True]


def subject_of_graph(op: str) -> Subject:
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, 8, 9]) for name in "xy"]
    model = helper.make_model(
        helper.make_graph([helper.make_node(op, ["x"], ["y"])], "g", ports[:1], ports[1:]),
        opset_imports=[helper.make_opsetid("", 18)],
    )
    return replace(image(), module=GraphModule(model), sizes={"b": 1}, graph=model)


class Stubborn(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.shape[0] == 9:
            raise ValueError("not nine")
        return (x / x.abs().amax()) if x.shape[0] == 1 else x


@pytest.mark.parametrize(
    ("module", "gone", "why"),
    [
        (Order(), {"zeros", "ones"}, "the smallest change of an input changes the outputs"),
        (Normed(), {"constant frames", "ones"}, "the smallest change of an input|rounding alone"),
        (Stubborn(), {"b=9"}, "the module does not run there"),
        (Stubborn(), {"zeros"}, "the reference itself is not finite"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_case_on_which_correct_runs_part_is_left_out_and_noted(module: nn.Module, gone: set[str], why: str) -> None:
    notes: list[str] = []
    made = cases(replace(image(), module=module.eval()), noted=notes.append)
    assert not gone & {case.name for case in made}
    assert {"b=1", "as traced", "natural image", "negative", "b=17"} <= {case.name for case in made}
    for name in gone:
        assert any(name in note for note in notes), (name, notes)


@pytest.mark.parametrize(
    ("function", "gone"),
    [
        (lambda x: x + 1, False),  # it moves less than float32 is exact
        (lambda x: 1e6 * x + 1, False),  # steep, yet sixteen times less of a move moves it sixteen times less
        (lambda x: (x > 0).double() + 1, True),  # up or down
        (lambda x: (x < 0).double() + 1, True),
        (lambda x: x.flatten().argmax().reshape(1, 1), True),
        (lambda x: torch.zeros(int((x > 0).sum()) + 1), True),  # even its size
        (lambda x: 1 / (x.abs() + 1e-3), False),
    ],
)
def test_a_jump_is_told_from_a_steep_slope(function: Callable[[Tensor], Tensor], gone: bool) -> None:
    x = torch.zeros(1, 8)
    reference = function(x.double()).numpy()
    case = Case("zeros", {"x": x.numpy()}, {"y": reference}, {"y": 1e-7})
    said = doubtful(case, "zeros", lambda feeds: {"y": function(feeds["x"])}, jumps=True)
    assert bool(said) is gone
    assert not doubtful(case, "zeros", lambda feeds: {"y": function(feeds["x"])}, jumps=False)
    assert not doubtful(case, "negative", lambda feeds: {"y": function(feeds["x"])}, jumps=True)


def test_a_reference_that_is_not_finite_says_nothing() -> None:
    case = Case("negative", {}, {"y": np.array([1.0, np.nan])}, {"y": 0.0})
    assert "not finite" in doubtful(case, "negative", lambda _: {}, jumps=False)
