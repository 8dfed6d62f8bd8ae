"""A mutant has one fault, of a kind that was asked for, and nothing else."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from attn_export.export.mutants.catalogue import TRIVIAL, Mutation, mutants, mutations
from attn_export.reparam.evaluate.onnx import OnnxEvaluator
from tests.export.models import rich

MODEL = rich()
ALL = mutations(MODEL)
KINDS = {
    "zeros",
    "identity",
    "weight zeroed",
    "one weight +1 %",
    "one weight -1 %",
    "two channels swapped",
    "bias dropped",
    "epsilon x100",
    "padding moved by one",
    "average counts padding",
    "softmax over another axis",
    "tanh for erf",
    "square weight transposed",
    "branch removed",
    "a class zeroed",
    "two classes swapped",
    "one channel +1 %",
    "wrong at the border",
    "wrong beyond a batch of 8",
    "wrong on non-negative inputs",
    "wrong on constant inputs",
}
X = np.random.default_rng(0).standard_normal((2, 4, 6, 6)).astype(np.float32)
#: Inputs on which a fault shows that does not show on all.
SHOWS = {
    "wrong beyond a batch of 8": np.repeat(X, 5, axis=0)[:9],
    "wrong on non-negative inputs": np.abs(X),
    "wrong on constant inputs": np.full_like(X, 0.5),
}


def inputs(mutation: Mutation) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
    return {"x": SHOWS.get(mutation.kind, X)}


def test_every_kind_is_there_and_the_trivial_ones_come_first() -> None:
    assert {mutation.kind for mutation in ALL} == KINDS
    assert [mutation.kind for mutation in ALL[:2]] == list(TRIVIAL)
    assert len({mutation.name for mutation in ALL}) == len(ALL), "names tell them apart"


def test_kinds_take_turns_so_that_a_budget_sees_them_all() -> None:
    first = ALL[: len(KINDS)]
    assert {mutation.kind for mutation in first} == KINDS


@pytest.mark.parametrize("mutation", ALL, ids=lambda m: m.name)
def test_a_mutant_is_valid_and_computes_something_else(mutation: Mutation) -> None:
    before = MODEL.SerializeToString(deterministic=True)
    mutant = mutation.of(MODEL)
    assert MODEL.SerializeToString(deterministic=True) == before, "the model given is not changed"
    onnx.checker.check_model(mutant, full_check=True)
    came, wanted = (OnnxEvaluator(model).run(inputs(mutation))["y"] for model in (mutant, MODEL))
    assert came.shape == wanted.shape
    distance = np.linalg.norm(came - wanted) / np.linalg.norm(wanted)
    assert distance > 1e-7, "it is equivalent"


@pytest.mark.parametrize("mutation", ALL, ids=lambda m: m.name)
def test_a_mutant_has_one_fault(mutation: Mutation) -> None:
    mutant = mutation.of(MODEL).graph
    tensors = {t.name: numpy_helper.to_array(t).tobytes() for t in MODEL.graph.initializer}
    changed = [t.name for t in mutant.initializer if tensors.get(t.name, b"") != numpy_helper.to_array(t).tobytes()]
    nodes = {n.output[0]: n.SerializeToString(deterministic=True) for n in MODEL.graph.node}
    touched = [n.output[0] for n in mutant.node if nodes.get(n.output[0]) != n.SerializeToString(deterministic=True)]
    if mutation.kind in TRIVIAL:
        return
    if mutation.kind == "tanh for erf" or (mutation.node == "y" and mutation.kind != "branch removed"):
        assert all(name.startswith(("erf", "y")) for name in [*touched, *changed])
    else:
        assert len(changed) + len(touched) == 1


@pytest.mark.parametrize("mutation", [m for m in ALL if m.node], ids=lambda m: m.name)
def test_the_named_node_is_the_first_whose_result_changes(mutation: Mutation) -> None:
    order = [name for node in MODEL.graph.node for name in node.output]
    clean = OnnxEvaluator(MODEL).run(inputs(mutation), order)
    came = OnnxEvaluator(mutation.of(MODEL)).run(inputs(mutation), order)
    assert next(name for name in order if not np.array_equal(clean[name], came[name])) == mutation.node


def test_zeros_and_identity_are_what_they_say() -> None:
    made = {mutation.kind: OnnxEvaluator(mutation.of(MODEL)).run({"x": X})["y"] for mutation in ALL[:2]}
    assert not made["zeros"].any()
    assert np.array_equal(made["identity"], X.astype(np.float64))


def test_the_iterator_gives_name_model_and_place() -> None:
    names = Counter(name for name, _, _ in mutants(MODEL))
    assert names == Counter(mutation.name for mutation in ALL)
