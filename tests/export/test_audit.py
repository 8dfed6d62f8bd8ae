"""The audits find nothing on a clean graph, and exactly one thing for each injected fault."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from attn_export.export.audit import alike, constants
from attn_export.export.audit.attributes import audit_attributes
from attn_export.export.audit.constants import Known, audit_initializers, auditor, known
from attn_export.export.graph.index import set_attribute, set_tensor
from attn_export.export.mutants.catalogue import Mutation, mutations
from attn_export.export.onnx.simplify import simplify
from attn_export.export.onnx.torch_export import export
from attn_export.export.sources.catalogue import from_spec
from attn_export.export.subject import Subject
from attn_export.export.weights.randomize import randomize
from attn_export.mechanisms import MECHANISMS
from attn_export.mechanisms.spec import Input
from tests.export.models import rich

ENTRIES = ("se", "self_attention", "triplet")
WEIGHT_FAULTS = ("weight zeroed", "one weight +1 %", "one weight -1 %", "two channels swapped")
ATTRIBUTE_FAULTS = ("epsilon x100", "padding moved by one", "average counts padding", "softmax over another axis")


@cache
def made(name: str) -> tuple[Known, onnx.ModelProto, onnx.ModelProto]:
    subject = from_spec(name, MECHANISMS[name], "test")
    raw = export(subject)
    return known(subject.module), raw.model, simplify(raw).model


@pytest.mark.parametrize("name", ENTRIES)
def test_a_clean_export_has_no_findings(name: str) -> None:
    wanted, raw, simplified = made(name)
    first = audit_initializers(raw, wanted)
    assert first.ok, first.findings
    assert audit_initializers(simplified, wanted.also(raw)).ok
    assert audit_attributes(simplified, raw).ok
    assert auditor(wanted, raw)(simplified) == ""
    assert audit_attributes(simplified, raw).checked > 0


@pytest.mark.parametrize("name", ENTRIES)
def test_every_planted_weight_fault_is_one_finding(name: str) -> None:
    wanted, raw, simplified = made(name)
    injected = [mutation for mutation in mutations(simplified) if mutation.kind in WEIGHT_FAULTS]
    assert injected
    for mutation in injected:
        findings = audit_initializers(mutation.of(simplified), wanted.also(raw)).findings
        assert [finding.where for finding in findings] == [mutation.where], mutation.name


def test_the_module_alone_is_enough_before_any_stage() -> None:
    """Without an earlier stage to compare with: tensors are matched with the module's, transposed or not."""
    wanted, raw, _ = made("self_attention")
    injected = [mutation for mutation in mutations(raw) if mutation.kind in WEIGHT_FAULTS[1:]]
    assert len(injected) > 10
    for mutation in injected:
        assert len(audit_initializers(mutation.of(raw), wanted).findings) == 1, mutation.name


def test_a_finding_says_how_many_values_differ_from_what() -> None:
    wanted, raw, _ = made("self_attention")
    mutation = next(m for m in mutations(raw) if m.kind == "one weight +1 %" and "weight" not in m.where)
    (finding,) = audit_initializers(mutation.of(raw), wanted).findings
    assert finding.detail.startswith("1 of ")
    assert "which is nowhere in the graph" in finding.detail


def folded() -> Subject:
    """The exporter folds this batch norm into its convolution."""
    module = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1), nn.BatchNorm2d(4))
    randomize(module)
    return Subject("folded", module.eval(), (Input("x", (1, 3, 8, 8)),), {})


def test_a_folded_batch_norm_is_accounted_for_and_a_fault_in_it_is_not() -> None:
    subject = folded()
    wanted, raw = known(subject.module), export(subject).model
    assert not any(node.op_type == "BatchNormalization" for node in raw.graph.node), "the exporter did not fold"
    clean = audit_initializers(raw, wanted)
    assert clean.ok, clean.findings
    assert not clean.unmatched
    for mutation in mutations(raw):
        if mutation.kind == "one weight +1 %":
            assert not audit_initializers(mutation.of(raw), wanted).ok, mutation.name


def test_forgetting_the_running_mean_is_a_finding() -> None:
    """What every usual gate passes on a fresh module: here on one whose statistics matter."""
    subject = folded()
    wanted = known(subject.module)
    broken = folded()
    norm = broken.module[1]
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    norm.running_mean.zero_()
    assert not audit_initializers(export(broken).model, wanted).ok


@pytest.mark.parametrize(
    "mutation", [m for m in mutations(rich()) if m.kind in (*ATTRIBUTE_FAULTS, "bias dropped")], ids=lambda m: m.name
)
def test_every_planted_attribute_fault_is_one_finding(mutation: Mutation) -> None:
    (finding,) = audit_attributes(mutation.of(rich()), rich()).findings
    assert mutation.node in finding.where or mutation.where in finding.where


def test_defaults_count_as_written() -> None:
    written = rich()
    set_attribute(written.graph.node[0], "dilations", [1, 1])
    set_attribute(written.graph.node[1], "ceil_mode", 0)
    set_attribute(written.graph.node[9], "axis", 3)
    assert audit_attributes(written, rich()).ok
    set_attribute(written.graph.node[1], "ceil_mode", 1)
    (finding,) = audit_attributes(written, rich()).findings
    assert finding.detail == "expected ceil_mode 0, got 1"


def test_a_small_constant_is_an_attribute() -> None:
    changed = rich()
    set_tensor(changed.graph, "half_root", np.asarray(0.7, np.float32))
    (finding,) = audit_attributes(changed, rich()).findings
    assert "half_root" in finding.detail


def test_a_rewritten_node_is_listed_and_no_finding() -> None:
    changed = rich()
    changed.graph.node[4].op_type = "Tanh"
    audit = audit_attributes(changed, rich())
    assert audit.ok
    assert audit.unmatched == ("Tanh n_erf",)


@pytest.mark.parametrize(("op", "axis"), [("Conv", 0), ("ConvTranspose", 1)])
def test_a_batch_norm_folds_into_the_outputs_of_its_kernel_and_into_no_other_axis(op: str, axis: int) -> None:
    random = np.random.default_rng(0)
    kernel = random.standard_normal((4, 4, 3, 3)).astype(np.float32)
    scale = random.uniform(0.5, 1.5, 4)
    wanted = Known({"weight": kernel}, {"norm": (scale, np.zeros(4))})
    for by in (0, 1):
        model = rich()
        model.graph.node[0].op_type = op
        factor = scale.reshape((4, 1, 1, 1) if by == 0 else (1, 4, 1, 1))
        set_tensor(model.graph, "conv.weight", (kernel * factor).astype(np.float32))
        found = [finding.where for finding in audit_initializers(model, wanted).findings]
        assert found == ([] if by == axis else ["conv.weight"])


def _rewired(*gone: str, source: str, pads: list[int]) -> onnx.ModelProto:
    """The graph with its pooling reading ``source`` and padded otherwise, less the nodes that are gone."""
    model = rich()
    pool = next(node for node in model.graph.node if node.name == "n_pool")
    pool.input[0] = source
    set_attribute(pool, "pads", pads)
    left = [node for node in model.graph.node if node.name not in gone]
    del model.graph.node[:]
    model.graph.node.extend(left)
    return model


def test_a_node_that_took_in_the_one_before_is_listed_and_no_finding() -> None:
    audit = audit_attributes(_rewired("n_conv", source="x", pads=[2, 2, 0, 0]), rich())
    assert audit.ok
    assert "AveragePool n_pool" in audit.unmatched


def _turning(source: str, order: list[int]) -> onnx.ModelProto:
    """Two transpositions, of which the first is an output as well, and the second reads ``source``."""
    ends = {name: onnx.helper.make_tensor_value_info(name, 1, [2, 3, 4]) for name in "x"}
    ends |= {"t": onnx.helper.make_tensor_value_info("t", 1, [2, 4, 3])}
    ends |= {"y": onnx.helper.make_tensor_value_info("y", 1, [4, 2, 3])}
    nodes = [
        onnx.helper.make_node("Transpose", ["x"], ["t"], "one", perm=[0, 2, 1]),
        onnx.helper.make_node("Transpose", [source], ["y"], "two", perm=order),
    ]
    graph = onnx.helper.make_graph(nodes, "g", [ends["x"]], [ends["t"], ends["y"]])
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)


def test_a_transposition_may_do_the_work_of_two_if_it_does_exactly_that() -> None:
    """As the simplifier does with a decoder's memory, which others read between the two."""
    assert audit_attributes(_turning("x", [2, 0, 1]), _turning("t", [1, 0, 2])).ok
    (finding,) = audit_attributes(_turning("x", [2, 1, 0]), _turning("t", [1, 0, 2])).findings
    assert finding.detail == "expected perm [1, 0, 2], got [2, 1, 0]"


def test_what_is_still_made_was_not_taken_in() -> None:
    (finding,) = audit_attributes(_rewired(source="x", pads=[2, 2, 0, 0]), rich()).findings
    assert "pads" in finding.detail


def test_to_take_in_an_identity_excuses_nothing() -> None:
    before = rich()
    before.graph.node[1].input[0] = "same"
    before.graph.node.insert(1, onnx.helper.make_node("Identity", ["conv"], ["same"], "n_same"))
    assert audit_attributes(rich(), before).ok
    (finding,) = audit_attributes(_rewired(source="conv", pads=[2, 2, 0, 0]), before).findings
    assert "pads" in finding.detail


def test_the_second_tier_names_what_it_sees() -> None:
    wanted, raw, simplified = made("se")
    mutant = next(m for m in mutations(simplified) if m.kind == "one weight +1 %")
    assert auditor(wanted, raw)(mutant.of(simplified)).startswith(f"initializer audit: {mutant.where}: 1 of ")
    value = numpy_helper.to_array(simplified.graph.initializer[0])
    assert value.size


def _joined(*rows: tuple[list[str], str]) -> onnx.ModelProto:
    """Concatenations: what each reads, and what it makes."""
    nodes = [onnx.helper.make_node("Concat", reads, [makes], f"n_{makes}", axis=1) for reads, makes in rows]
    ports = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 1]) for name in "abcd"]
    y = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    graph = onnx.helper.make_graph(nodes, "g", ports, [y])
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)])


def test_concatenations_one_in_another_may_become_one_that_loses_nothing() -> None:
    nested = _joined((["c", "d"], "cd"), (["b", "cd"], "bcd"), (["a", "bcd"], "y"))
    whole = audit_attributes(_joined((["a", "b", "c", "d"], "y")), nested)
    assert (whole.ok, whole.unmatched) == (True, ("Concat n_y",))
    (finding,) = audit_attributes(_joined((["a", "b", "c", "c"], "y")), nested).findings
    assert finding.detail == "expected number of inputs 2, got 4"


def large(*rows: np.ndarray[Any, Any]) -> onnx.ModelProto:
    """A chain of products with these matrices."""
    names = [f"w{place}" for place in range(len(rows))]
    chain = [helper.make_node("MatMul", [f"y{place}", name], [f"y{place + 1}"]) for place, name in enumerate(names)]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [4, 4]) for n in ("y0", f"y{len(rows)}")]
    held = [numpy_helper.from_array(row, name) for row, name in zip(rows, names, strict=True)]
    return helper.make_model(helper.make_graph(chain, "g", ends[:1], ends[1:], held))


def test_a_tensor_is_found_by_its_elements_among_many_of_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of fifty that may be it, only those are compared element by element that have the same ones."""
    random = np.random.default_rng(0)
    tensors = {f"t{place}": random.standard_normal((4, 4)).astype(np.float32) for place in range(50)}
    compared: list[object] = []
    turns = constants._turns
    monkeypatch.setattr(constants, "_turns", lambda tensor: compared.append(tensor) or turns(tensor))
    model = large(*(np.ascontiguousarray(value.T) for value in tensors.values()))
    audit = audit_initializers(model, Known(tensors))
    assert audit.ok
    assert not audit.unmatched
    assert len(compared) == len(tensors)


def test_the_same_elements_in_another_order_are_another_tensor() -> None:
    wanted = np.arange(16, dtype=np.float32).reshape(4, 4)
    shuffled = wanted.copy()
    shuffled[0, 0], shuffled[2, 3] = wanted[2, 3], wanted[0, 0]
    assert alike.key(shuffled) == alike.key(wanted)
    (finding,) = audit_initializers(large(shuffled), Known({"t": wanted})).findings
    assert finding.detail == "2 of 16 values differ from t, which is nowhere in the graph"


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_a_key_is_of_numbers_and_not_of_how_they_are_stored(kind: type[np.floating[Any]]) -> None:
    value = np.float16([[0.0, -1.5, 3.0], [6e-8, np.inf, 65504.0]])
    assert alike.key(value.astype(kind).T) == alike.key(value)
    assert alike.key(np.where(value == 0, -0.0, value).astype(kind)) == alike.key(value)
    assert alike.key(np.where(value == 3, 3.001, value).astype(kind)) != alike.key(value)


def test_what_float32_does_not_hold_has_another_key() -> None:
    one = np.array([1.0, 1.0 + 2.0**-40, 1e300])
    assert alike.key(one) == alike.key(one[::-1])
    assert alike.key(one) != alike.key(np.array([1.0, 1.0, 1e300]))
    assert alike.key(one) != alike.key(np.array([1.0, 1.0 + 2.0**-40, 1e301]))


def test_the_nearest_of_several_is_named_with_how_much_differs() -> None:
    random = np.random.default_rng(0)
    value = random.standard_normal((300, 200)).astype(np.float32)
    near = value.T.copy()
    near[7, :5] += 1
    rows = [("far", random.standard_normal((200, 300)).astype(np.float32)), ("near", near), ("also", near.copy())]
    assert constants._nearest(value, rows) == ("near", 5)
