"""Two files: what only one has is named, what has another name is paired by value, and rounding is no fault."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import attn_export
from attn_export.errors import GateError
from attn_export.export.audit.defaults import floats
from attn_export.export.graph.index import GraphIndex, set_tensor
from attn_export.export.graph.rename import narrowed, renamed
from attn_export.export.mutants.catalogue import mutations
from attn_export.pipeline.divergence.locate import between_graphs, first_divergence
from attn_export.pipeline.divergence.pairing import false_partners
from attn_export.pipeline.divergence.ports import Aligned, aligned
from attn_export.pipeline.divergence.rounding import UNIT, moved, new_constants
from attn_export.pipeline.divergence.runs import Variant
from tests.export.models import cases, rich
from tests.tools.run import run

FEEDS = [case.inputs for case in cases(rich())]


def two(*outputs: str, taken: tuple[str, ...] = ("x",), negated: bool = False) -> onnx.ModelProto:
    """A graph of two outputs, relu of x and abs of the last input, given in this order."""
    nodes = [helper.make_node("Relu", ["x"], ["p"], "relu"), helper.make_node("Abs", [taken[-1]], ["q"], "abs")]
    if negated:
        nodes += [helper.make_node("Neg", ["q"], ["r"], "neg")]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["b", 4]) for name in (*taken, *outputs)]
    graph = helper.make_graph(nodes, "g", values[: len(taken)], values[len(taken) :])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def pair(reference: onnx.ModelProto, suspect: onnx.ModelProto, *names: str) -> Aligned:
    random = np.random.default_rng(0)
    feeds = [{name: random.standard_normal((2, 4)).astype(np.float32) for name in names or ("x",)} for _ in range(2)]
    return aligned(Variant("B", reference), Variant("A", suspect), feeds)


@pytest.mark.parametrize(
    ("ours", "theirs", "said"),
    [
        (("p", "q"), ("p", "q"), ()),
        (("p",), ("p", "q"), ("output 'q' of B is missing in A",)),
        (("p", "q"), ("p",), ("output 'q' of A is missing in B",)),
        (("q", "p"), ("p", "q"), ("the outputs stand in another order: q, p in A, p, q in B",)),
    ],
)
def test_lost_added_and_reordered_outputs_are_named(
    ours: tuple[str, ...], theirs: tuple[str, ...], said: tuple[str, ...]
) -> None:
    found = pair(two(*theirs), two(*ours))
    assert found.differences == said
    assert found.comparable
    assert not found.notes


def test_outputs_that_are_lost_and_added_at_once_are_no_pair() -> None:
    """The same number on both sides, and not the same values: they are held against each other, and differ."""
    found = pair(two("p", "r", negated=True), two("p", "q"))
    assert found.differences == ()
    assert found.notes == ("output 'q' of A is held against 'r' of B: same place",)
    feeds = {"x": np.float32([[1, 2, 3, 4]])}
    assert first_divergence(found.reference, found.suspect, [("c", feeds)], {}) is not None
    found = pair(two("q", "r", negated=True), two("p"))
    assert [text.split(" is")[0] for text in found.differences] == [
        "output 'q' of B",
        "output 'r' of B",
        "output 'p' of A",
    ]
    assert not found.comparable


def test_outputs_of_other_names_are_paired_by_what_they_hold() -> None:
    found = pair(renamed(two("q", "p"), {"p": "one", "q": "two"}), two("p", "q"))
    assert found.notes == (
        "output 'p' of A is held against 'one' of B: same values",
        "output 'q' of A is held against 'two' of B: same values",
    )
    assert found.differences == ("the outputs stand in another order: p, q in A, two, one in B",)


def test_inputs_are_paired_by_name_and_then_by_place_and_type() -> None:
    found = pair(renamed(two("p", "q", taken=("x", "z")), {"z": "w"}), two("p", "q", taken=("x", "z")), "x", "z")
    assert found.notes == ("input 'w' of B is 'z' here: same place and type",)
    assert found.differences == ()
    found = pair(two("p", "q", taken=("x", "z")), two("p", "q"))
    assert found.differences == ("input 'z' of B is missing in A",)
    assert not found.comparable
    found = pair(two("p", "q"), two("p", "q", taken=("x", "z")), "x", "z")
    assert found.differences == ("input 'z' of A is missing in B",)
    assert found.comparable


def other_producer(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph with every tensor renamed, and some with names that others had."""
    made = [name for node in model.graph.node for name in node.output]
    names = {name: f"t{place}" for place, name in enumerate([*made, "x"])}
    return renamed(model, names | {"conv": "both", "both": "pool", "pool": "conv"})


def test_a_renamed_file_is_the_same_file() -> None:
    found = aligned(Variant("B", other_producer(rich())), Variant("A", rich()), FEEDS)
    assert found.differences == ()
    assert len(found.notes) == 2
    assert first_divergence(found.reference, found.suspect, [("c", FEEDS[0])], {}) is None
    assert found.reference.names == found.suspect.names, "every tensor has its partner"


@pytest.mark.parametrize("fault", [m for m in mutations(rich()) if m.node and not m.condition], ids=lambda m: m.name)
def test_a_fault_is_found_in_spite_of_other_names(fault: object) -> None:
    mutant = fault.of(rich())  # type: ignore[attr-defined]
    found = aligned(Variant("B", other_producer(rich())), Variant("A", mutant), FEEDS)
    hit = first_divergence(found.reference, found.suspect, [("c", FEEDS[0])], {})
    right = between_graphs(rich(), mutant, FEEDS[0])
    assert hit is not None
    assert right is not None
    assert right.position in hit.window
    assert len(hit.window) <= len(right.window) + 3


def test_the_command_ends_with_1_in_both_directions(tmp_path: Path) -> None:
    onnx.save(two("p", "q"), tmp_path / "a.onnx")
    onnx.save(two("p"), tmp_path / "b.onnx")
    for first, second in (("a", "b"), ("b", "a")):
        came = run("diff", tmp_path / f"{first}.onnx", tmp_path / f"{second}.onnx")
        assert came.code == 1
        assert "output 'q' of " in came.out
        assert "is missing in" in came.out
        assert "No divergence between what both have" in came.out
    with pytest.raises(GateError, match="output 'q' of model is missing in"):
        attn_export.diff(tmp_path / "a.onnx", str(tmp_path / "b.onnx"))
    came = run("diff", tmp_path / "a.onnx", tmp_path / "b.onnx", "--json")
    assert came.code == 1
    assert '"interface": ["output \'q\' of model is missing in' in came.out
    onnx.save(renamed(two("p", "q"), {"p": "one", "q": "two", "x": "in"}), tmp_path / "c.onnx")
    came = run("diff", tmp_path / "a.onnx", tmp_path / "c.onnx")
    assert came.code == 0, came.err
    assert came.out.count("same values") == 2


def test_a_constant_that_is_listed_as_an_input_and_read_by_nobody_needs_no_value(tmp_path: Path) -> None:
    model = two("p", "q")
    model.graph.input.append(helper.make_tensor_value_info("unused", TensorProto.FLOAT, [3]))
    set_tensor(model.graph, "unused", np.zeros(3, np.float32))
    onnx.save(model, tmp_path / "a.onnx")
    came = run("diff", tmp_path / "a.onnx")
    assert came.code == 0, came.err


def normed(fold: bool, fault: float = 0.0) -> onnx.ModelProto:
    """Three convolutions with batch norms that take away a mean fifty times the spread; or with those folded in."""
    random, nodes, last, held = np.random.default_rng(0), list[onnx.NodeProto](), "x", dict[str, np.ndarray]()  # type: ignore[type-arg]
    for n in range(3):
        w = (random.standard_normal((8, 8, 3, 3)) * 0.1).astype(np.float32)
        gamma, beta, mean = (random.standard_normal((3, 8)) + np.array([[1], [0], [50]])).astype(np.float32)
        bias = mean + np.float32(0.5)
        var = np.full(8, 0.5, np.float32)
        scale = gamma / np.sqrt(var + np.float32(1e-5))
        if fold:
            w, bias = w * scale[:, None, None, None], scale * (bias - mean) + beta
            w[3] *= np.float32(1 + fault * (n == 1))
        held |= {f"w{n}": w, f"b{n}": bias}
        made = f"n{n}" if fold else f"c{n}"
        nodes.append(helper.make_node("Conv", [last, f"w{n}", f"b{n}"], [made], f"conv{n}", pads=[1] * 4))
        if not fold:
            held |= {f"g{n}": gamma, f"s{n}": beta, f"m{n}": mean, f"v{n}": var}
            norm = ["c{}", "g{}", "s{}", "m{}", "v{}"]
            nodes.append(helper.make_node("BatchNormalization", [one.format(n) for one in norm], [f"n{n}"], f"norm{n}"))
        nodes.append(helper.make_node("Relu", [f"n{n}"], [last := f"r{n}"], f"relu{n}"))
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["b", 8, 12, 12]) for name in ("x", last)]
    tensors = [numpy_helper.from_array(value, name) for name, value in held.items()]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


IMAGE = {"x": np.random.default_rng(1).standard_normal((1, 8, 12, 12)).astype(np.float32)}


def test_folding_in_float32_is_no_fault_and_a_thousandth_in_one_channel_is() -> None:
    assert between_graphs(normed(False), normed(True), IMAGE) is None
    assert between_graphs(normed(True), normed(False), IMAGE) is None
    found = between_graphs(normed(False), normed(True, 1e-3), IMAGE)
    assert found is not None
    assert (found.node, found.tensor) == ("conv1", "n1")
    assert found.error > 10 * found.bound
    back = between_graphs(normed(True, 1e-3), normed(False), IMAGE)
    assert back is not None
    assert back.tensor == "n1"


def test_a_name_that_means_something_else_is_no_partner() -> None:
    """The folded convolution has the name that the bare one had, as one simplifier leaves it."""
    kept = renamed(normed(True, 1e-3), {f"n{place}": f"c{place}" for place in range(3)})
    found = between_graphs(normed(False), kept, IMAGE)
    assert found is not None
    assert (found.node, found.tensor) == ("conv1", "c1")
    assert false_partners(kept, normed(False), IMAGE) == {"c0"}
    assert false_partners(normed(True, 1e-3), normed(False), IMAGE) == set()


def test_what_both_have_is_not_moved() -> None:
    assert new_constants(rich(), rich()) == {}
    changed = rich()
    set_tensor(changed.graph, "linear.weight", floats(GraphIndex(rich()))["linear.weight"] * np.float32(1.5))
    assert list(new_constants(changed, rich())) == ["linear.weight"]
    weight = np.random.default_rng(0).standard_normal((4, 5, 3)).astype(np.float32)
    other = moved(weight, np.random.default_rng(1))
    steps = np.abs(other - weight) / (UNIT * np.abs(weight))
    assert 0 <= steps.min() < 0.1
    assert 3.9 < steps.max() < 4.1
    assert np.array_equal(moved(np.float32([0, 0, 2]), np.random.default_rng(0))[:2], [0, 0])


def test_a_narrowed_graph_has_no_idle_nodes() -> None:
    assert [node.op_type for node in narrowed(two("p", "q"), {"q"}).graph.node] == ["Abs"]
