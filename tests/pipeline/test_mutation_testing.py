"""The kill score tells caught, survived and equivalent apart, and a vacuous gate from a good one."""

from __future__ import annotations

import itertools
import json
import math
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from attn_export.bundle import Case
from attn_export.errors import ExportError, InconclusiveError
from attn_export.export.graph.index import set_tensor
from attn_export.export.graph.later import later
from attn_export.export.in_memory import from_module
from attn_export.export.mutants.catalogue import Mutation, mutations
from attn_export.export.mutants.conditional import Condition
from attn_export.export.onnx import shared_weights
from attn_export.pipeline import mutation_testing
from attn_export.pipeline.deploy import _seconds
from attn_export.pipeline.mutation_score import MutantResult, MutationScore, refuse_vacuous
from attn_export.pipeline.mutation_testing import FEWEST, run_mutants
from attn_export.pipeline.progress import Progress
from attn_export.pipeline.report import content, recount
from attn_export.pipeline.stage import PipelineState
from attn_export.reparam.evaluate.onnx import OnnxEvaluator
from tests.export.models import PORTS, cases, rich

MODEL = rich()
CASES = cases(MODEL)


def nudge(share: float) -> Mutation:
    def change(graph: onnx.GraphProto) -> None:
        value = numpy_helper.to_array(next(t for t in graph.initializer if t.name == "linear.weight")).copy()
        value[0, 0] *= np.float32(1 + share)
        set_tensor(graph, "linear.weight", value)

    return Mutation(f"nudged {share:g}", "linear.weight", "linear", change)


def nothing() -> Mutation:
    return Mutation("nothing", "", "", lambda graph: None)


#: What only cases of other kinds could notice, and why it survives.
UNTRIGGERED = {
    "wrong beyond a batch of 8": "no case triggers it: wrong only beyond batch 8",
    "wrong on non-negative inputs": "no case triggers it: wrong only where 'x' is nowhere negative",
    "wrong on constant inputs": "no case triggers it: wrong only where 'x' is one number throughout",
}


def test_what_no_case_triggers_has_survived_and_is_not_equivalent() -> None:
    score = run_mutants(MODEL, CASES, PORTS, budget=0.0)
    found = {fate.kind: fate for fate in score.mutants}
    for kind, why in UNTRIGGERED.items():
        assert (found[kind].verdict, found[kind].reason) == ("survived", why)


def test_mutants_that_share_their_weights_are_judged_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run_mutants(MODEL, CASES, PORTS, budget=0.0)
    monkeypatch.setattr(shared_weights, "LARGE", 1)
    apart = run_mutants(MODEL, CASES, PORTS, budget=0.0)
    assert apart.mutants == whole.mutants
    assert {fate.verdict for fate in apart.mutants} >= {"killed", "survived"}


def test_the_file_holds_every_large_weight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_weights, "LARGE", 1)
    light = shared_weights.shared(MODEL, tmp_path)
    assert not any(tensor.raw_data for tensor in light.graph.initializer)
    onnx.save(light, tmp_path / "light.onnx")
    again = {t.name: numpy_helper.to_array(t) for t in onnx.load(tmp_path / "light.onnx").graph.initializer}
    for tensor in MODEL.graph.initializer:
        assert np.array_equal(again[tensor.name], numpy_helper.to_array(tensor))


@pytest.mark.parametrize("kind", UNTRIGGERED)
def test_a_case_that_triggers_it_kills_it(kind: str) -> None:
    """The very same gate: one case more."""
    x = CASES[0].inputs["x"]
    more = {
        "wrong beyond a batch of 8": np.repeat(x, 9, axis=0),
        "wrong on non-negative inputs": np.abs(x),
        "wrong on constant inputs": np.full_like(x, -0.3),
    }[kind]
    truth, single = (OnnxEvaluator(MODEL, dtype).run({"x": more})["y"] for dtype in (np.float64, np.float32))
    case = Case("more", {"x": more}, {"y": truth}, {"y": float(np.linalg.norm(single - truth))})
    score = run_mutants(MODEL, [*CASES, case], PORTS)
    fate = next(fate for fate in score.mutants if fate.kind == kind)
    assert fate.verdict == "killed"
    assert "in case 'more'" in fate.reason
    assert kind not in score.missed


def test_where_only_a_run_can_tell_all_cases_are_asked() -> None:
    """The condition cannot be read off the inputs, and no case differs: still no equivalent."""
    fault = replace(nothing(), kind="hidden", condition=Condition("wrong only on Sundays"))
    score = run_mutants(MODEL, CASES, PORTS, faults=[fault])
    assert (score.mutants[0].verdict, score.mutants[0].reason) == (
        "survived",
        "no case triggers it: wrong only on Sundays",
    )
    assert score.score == 0


def test_the_report_names_the_kinds_that_survive() -> None:
    rows = [MutantResult("a: 1", "a", "survived", 1.0), MutantResult("b: 1", "b", "killed", 9.0)]
    rows += [
        MutantResult("c: 1", "c", "survived", 1.0, caught_by_audit="x"),
        MutantResult("a: 2", "a", "survived", 1.0),
    ]
    score = MutationScore("full", 4, tuple(rows), 0.1)
    assert score.missed == recount.missed(score.to_dict()) == ("a",)
    assert "; not caught: a (" in score.summary()
    assert "not caught: a" in content._mutation(score.to_dict()).text


def test_the_gate_catches_what_is_planted() -> None:
    score = run_mutants(MODEL, CASES, PORTS)
    assert score.possible == len(score.mutants) == len(mutations(MODEL))
    assert score.missed == tuple(UNTRIGGERED)
    assert score.count("survived") == len(UNTRIGGERED)
    assert not score.vacuous
    refuse_vacuous(score)
    assert "injected faults caught" in score.summary()
    assert score.summary().partition("; not caught: ")[2].startswith(", ".join(UNTRIGGERED))
    json.dumps(score.to_dict(), allow_nan=False)


def test_survivors_and_equivalents_are_told_apart() -> None:
    score = run_mutants(MODEL, CASES, PORTS, faults=[nudge(0.1), nudge(3e-7), nothing()])
    caught, survived, equivalent = score.mutants
    assert (caught.verdict, survived.verdict, equivalent.verdict) == ("killed", "survived", "equivalent")
    assert survived.margin > 1
    assert survived.float64_distance > 1e-12
    assert "times below the bound" in survived.reason
    assert equivalent.float64_distance == 0
    assert score.score == 0.5
    assert "1 of 2 injected faults caught, 1 equivalent" in score.summary()


def test_a_gate_that_cannot_fail_is_vacuous() -> None:
    blind = [Case(c.name, c.inputs, c.reference, {"y": 1e9}) for c in CASES]
    score = run_mutants(MODEL, blind, PORTS)
    assert set(score.vacuous) == {"zeros", "identity: x"}
    assert score.score == 0
    with pytest.raises(InconclusiveError, match="lets 'zeros' pass") as error:
        refuse_vacuous(score)
    assert error.value.exit_code == 5


def test_a_model_that_returns_its_input_is_vacuous() -> None:
    """The likes of an attention whose gate starts at zero: every check on it is about nothing."""
    asleep = rich()
    for node in asleep.graph.node[10:]:
        node.op_type, node.input[0] = "Mul", "x"
        node.input[1] = "one"
    score = run_mutants(asleep, cases(asleep), PORTS)
    assert score.vacuous == ("identity: x",)


def test_the_second_tier_is_asked_about_survivors_only() -> None:
    asked = []

    def second(mutant: onnx.ModelProto) -> str:
        asked.append(mutant)
        return "initializer audit"

    score = run_mutants(MODEL, CASES, PORTS, faults=[nudge(0.1), nudge(3e-7)], second=second)
    assert len(asked) == 1
    assert [fate.caught_by_audit for fate in score.mutants] == ["", "initializer audit"]
    assert "the other 1 by the graph audit" in score.summary()


def test_a_budget_ends_the_run_but_never_before_one_of_each_kind() -> None:
    score = run_mutants(MODEL, CASES, PORTS, budget=0.0)
    assert score.mode == "fast"
    kinds = list(dict.fromkeys(mutation.kind for mutation in mutations(MODEL)))
    assert [fate.kind for fate in score.mutants] == kinds
    assert kinds[:2] == ["zeros", "identity"]


def test_what_the_runtime_refuses_counts_for_nobody() -> None:
    def change(graph: onnx.GraphProto) -> None:
        graph.node[0].op_type = "NoSuchOperator"

    score = run_mutants(MODEL, CASES, PORTS, faults=[Mutation("broken", "", "", change)])
    assert score.mutants[0].verdict == "invalid"
    assert math.isnan(score.score)


def test_infinity_is_no_json() -> None:
    score = MutationScore("full", 1, (MutantResult("a", "a", "killed", math.inf),), 0.1)
    assert score.to_dict()["mutants"][0]["normalized_error"] is None


def test_a_limit_ends_the_run_before_one_of_each_kind_but_not_before_a_few() -> None:
    score = run_mutants(MODEL, CASES, PORTS, budget=0.0, limit=0.0)
    kinds = list(dict.fromkeys(mutation.kind for mutation in mutations(MODEL)))
    assert [fate.kind for fate in score.mutants] == kinds[:FEWEST]
    assert list(score.untried) == kinds[FEWEST:]
    assert f"{len(kinds) - FEWEST} kinds left for want of time" in score.summary()
    assert run_mutants(MODEL, CASES, PORTS, budget=0.0, limit=1e9).untried == ()


def test_faults_take_no_longer_than_the_export() -> None:
    progress = Progress()
    progress.processor["export"] = 5.0
    module = PipelineState(from_module(nn.Linear(2, 2).eval(), (torch.ones(1, 2),)), ())
    assert _seconds(module, 12.0, progress) == (3.0, 5.0)
    assert _seconds(module, 100.0, progress) == (5.0, 5.0)
    progress.processor["export"] = 0.1
    assert _seconds(module, 100.0, progress) == (1.0, 1.0)
    file = replace(module, subject=replace(module.subject, graph=MODEL))
    assert _seconds(file, 100.0, progress) == (25.0, 25.0)


def test_what_a_fault_leaves_alone_is_not_evaluated_again_and_nothing_else_changes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A distance in float64 is the same to the last bit, whether all that the model makes is kept or its outputs."""
    small = [nudge(3e-7), nudge(1e-7), nothing()]
    quick = run_mutants(MODEL, CASES, PORTS, faults=small)
    monkeypatch.setattr(mutation_testing, "KEPT", 0)
    slow = run_mutants(MODEL, CASES, PORTS, faults=small)
    assert [(row.name, row.verdict, row.float64_distance) for row in quick.mutants] == [
        (row.name, row.verdict, row.float64_distance) for row in slow.mutants
    ]
    assert [bool(row.float64_distance) for row in quick.mutants] == [True, True, False]


@pytest.mark.parametrize("fault", mutations(MODEL), ids=lambda fault: fault.name)
def test_what_comes_later_than_a_fault_is_all_that_it_changes(fault: Mutation) -> None:
    mutant, exact = fault.of(MODEL), OnnxEvaluator(MODEL)
    every = [name for node in MODEL.graph.node for name in node.output]
    known = exact.run(CASES[0].inputs, every)
    places = later(MODEL, mutant)
    try:
        changed = OnnxEvaluator(mutant).run(CASES[0].inputs, [n for node in mutant.graph.node for n in node.output])
    except ExportError:
        return  # a mutant that does not run
    made = {name for place in places for name in mutant.graph.node[place].output}
    for name, value in changed.items():
        assert name in made or np.array_equal(value, known[name], equal_nan=True), name


def test_how_many_faults_are_tried_does_not_depend_on_what_else_the_machine_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hours = itertools.count(0.0, 3600.0)
    monkeypatch.setattr(time, "perf_counter", lambda: next(hours))
    assert len(run_mutants(MODEL, CASES, PORTS, budget=1e3, limit=1e3).mutants) == len(mutations(MODEL))
