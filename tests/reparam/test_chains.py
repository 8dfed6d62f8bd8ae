"""Long chains and wide fans: they neither overflow the stack nor take time that grows with their square."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from attn_export.export.onnx.read import read_model
from attn_export.pipeline import lint
from attn_export.reparam.adapters.onnx.read import OnnxReader
from attn_export.reparam.fuse_onnx import fuse_graph
from attn_export.reparam.planning import cones
from attn_export.reparam.planning import cost as costs
from attn_export.reparam.planning.plan import Planner

Link = Callable[[str, str], NodeProto]
#: One node of a chain, from its input to its output; each kind once overflowed the stack or took minutes.
LINKS: dict[str, Link] = {
    "relu": lambda a, b: helper.make_node("Relu", [a], [b]),
    "identity": lambda a, b: helper.make_node("Identity", [a], [b]),
    "doubled": lambda a, b: helper.make_node("Add", [a, a], [b]),
    "input added": lambda a, b: helper.make_node("Add", [a, "x"], [b]),
    "constant added": lambda a, b: helper.make_node("Add", [a, "c"], [b]),
    "pointwise": lambda a, b: helper.make_node("Conv", [a, "one"], [b]),
    "three by three": lambda a, b: helper.make_node("Conv", [a, "three"], [b], pads=[1] * 4),
    "turned": lambda a, b: helper.make_node("Transpose", [a], [b], perm=[0, 1, 3, 2]),
}


def value(name: str, shape: list[int] | None = None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape or [1, 1, 4, 4])


def whole(nodes: list[NodeProto], *outputs: onnx.ValueInfoProto) -> onnx.ModelProto:
    constants = {"c": np.full(1, 0.5), "one": np.full((1, 1, 1, 1), 0.999), "three": np.full((1, 1, 3, 3), 0.1)}
    tensors = [numpy_helper.from_array(array.astype(np.float32), name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "g", [value("x")], list(outputs) or [value("y")], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def chain(link: Link, length: int) -> onnx.ModelProto:
    names = ["x", *(f"t{n}" for n in range(1, length)), "y"]
    return whole([link(names[n], names[n + 1]) for n in range(length)])


@pytest.mark.slow
@pytest.mark.parametrize("kind", LINKS)
def test_a_long_chain_is_fused(kind: str) -> None:
    fusion = fuse_graph(chain(LINKS[kind], 1500), certificate=kind != "doubled")
    assert fusion.certificate.ok
    if kind in ("constant added", "pointwise"):
        assert len(fusion.model.graph.node) == 1, "what one round left, the next took"


def test_a_chain_of_twenty_thousand_is_read_and_linted(tmp_path: Path) -> None:
    onnx.save(chain(LINKS["relu"], 20_000), tmp_path / "m.onnx")
    assert len(read_model(tmp_path / "m.onnx").graph.node) == 20_000
    assert lint.by_rules(lint.load(tmp_path / "m.onnx"), "tensorrt") == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["identity", "doubled", "pointwise"])
def test_the_work_grows_with_the_length(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    counted, tried = dict[int, int](), list[None]()
    price: Any = Planner._price

    def counting(self: Planner, *rest: Any) -> Any:
        tried.append(None)
        return price(self, *rest)

    monkeypatch.setattr(Planner, "_price", counting)
    for length in (400, 1600):
        fuse_graph(chain(LINKS[kind], length), certificate=False)
        counted[length] = len(tried)
        tried.clear()
    assert counted[1600] <= 8 * counted[400], "a square would be sixteen times as much"
    assert counted[1600] <= 12 * 1600, "not every value is a root of sixty-four candidates"


def test_constants_that_the_file_could_not_store_are_not_made() -> None:
    fusion = fuse_graph(chain(LINKS["doubled"], 300))
    weights = [numpy_helper.to_array(tensor) for tensor in fusion.model.graph.initializer]
    assert fusion.sites
    assert all(np.isfinite(array).all() for array in weights)
    assert fusion.rolled_back == ()


def test_constants_computed_from_constants_are_folded_without_recursion() -> None:
    made = [helper.make_node("Neg", [f"k{n}" if n else "c"], [f"k{n + 1}"]) for n in range(1500)]
    fusion = fuse_graph(
        whole(
            [
                *made,
                helper.make_node("Conv", ["x", "one"], ["p"]),
                LINKS["relu"]("p", "q"),
                helper.make_node("Add", ["q", "k1500"], ["y"]),
            ]
        )
    )
    assert fusion.certificate.ok


def test_one_value_read_by_thousands_and_thousands_brought_together() -> None:
    branches = [helper.make_node("Conv", ["r", "three"], [f"f{n}"], pads=[1] * 4) for n in range(1500)]
    root = helper.make_node("Conv", ["x", "three"], ["r"], pads=[1] * 4)
    assert fuse_graph(whole([root, *branches], *(value(f"f{n}") for n in range(1500)))).certificate.ok
    joined = helper.make_node("Concat", [f"f{n}" for n in range(1500)], ["y"], axis=1)
    assert fuse_graph(whole([root, *branches, joined], value("y", [1, 1500, 4, 4]))).certificate.ok


def test_readers_without_end_are_not_all_followed_from_every_value_before(monkeypatch: pytest.MonkeyPatch) -> None:
    before = chain(LINKS["pointwise"], 40).graph.node
    fan = [helper.make_node("Conv", ["y", "three"], [f"f{n}"], pads=[1] * 4) for n in range(2000)]
    stopped, transfer = list[None](), cones.transfer

    def counting(*arguments: Any) -> Any:
        if arguments[0].weight.size == 9:
            stopped.append(None)
            raise cones.NotFusibleError("counted")
        return transfer(*arguments)

    monkeypatch.setattr(cones, "transfer", counting)
    graph = OnnxReader(whole([*before, *fan], *(value(f"f{n}") for n in range(2000))), {"x": (1, 1, 4, 4)}).graph
    Planner(costs.profile("cpu")).candidates(graph, set(), None)
    assert len(stopped) < 40 * 1000


def test_networks_as_they_are_have_no_chain_that_is_long() -> None:
    """What bounds the work on long chains changes nothing anywhere else."""
    short = chain(LINKS["pointwise"], cones.MOST_NODES - 1)
    graph = OnnxReader(short, {"x": (1, 1, 4, 4)}).graph
    assert cones.followers(graph) == {}
    assert set(cones.reaches(graph).values()) == {cones.MOST_NODES}
