"""What each node computes and moves, from shapes; and where in the user's code it came from."""

from __future__ import annotations

import json
from typing import Any

import pytest
from onnx import TensorProto, helper

from attn_export.export.graph.cost import costs, origins_of, to_manifest
from tests.deploy_tests.profiled import ROWS, net


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    return to_manifest(costs(net(), {"x": (2, 16, 8, 8)}), "one")["nodes"]  # type: ignore[no-any-return]


def test_what_profiles_are_tested_with_is_what_a_manifest_says(rows: list[dict[str, Any]]) -> None:
    assert [{key: row[key] for key in ROWS[0]} for row in rows] == ROWS


def test_costs_by_hand(rows: list[dict[str, Any]]) -> None:
    macs = {row["name"]: row["macs"] for row in rows}
    y = 2 * 32 * 8 * 8
    assert macs == {
        "first": y * 16 * 9, "act": 0, "depthwise": y * 9, "pool": 0, "flat": 0, "head": 2 * 10 * 32, "soft": 0
    }  # fmt: skip
    flops = {row["name"]: row["flops"] for row in rows}
    assert flops["first"] == 2 * macs["first"]
    assert (flops["act"], flops["pool"], flops["flat"], flops["soft"]) == (y, y, 0, 20)
    assert rows[0]["bytes"] == 4 * (2 * 16 * 64 + 32 * 16 * 9 + y)
    assert rows[4]["bytes"] == 0, "a view moves nothing"
    assert all(row["known"] for row in rows)
    json.dumps(rows, allow_nan=False)


def test_costs_follow_the_sizes_of_the_case() -> None:
    small, large = (costs(net(), {"x": (b, 16, 8, 8)})[0].macs for b in (1, 4))
    assert large == 4 * small


def test_unknown_shapes_are_said() -> None:
    assert not costs(net(), {})[0].known


def test_origins_survive_a_simplifier_that_drops_them() -> None:
    bare = net()
    del bare.graph.node[0].metadata_props[:]
    bare.graph.initializer[2].name = bare.graph.node[5].input[1] = "classifier.fc.weight"
    came = {row.name: row for row in costs(bare, {"x": (2, 16, 8, 8)}, origins_of(net()))}
    assert came["first"].source == "net.py:7"
    assert came["head"].module == "classifier.fc", "a weight's name says whose it is"


def test_a_node_says_where_it_came_from(rows: list[dict[str, Any]]) -> None:
    assert rows[0]["module"] == "stem.conv"
    assert rows[0]["source"] == "net.py:7", "without the folders of the machine it was built on"
    assert rows[1]["module"] == ""


@pytest.mark.parametrize(
    ("op", "shapes", "made", "macs", "attributes"),
    [
        ("MatMul", {"a": (2, 4, 5), "b": (5, 7)}, (2, 4, 7), 2 * 4 * 5 * 7, {}),
        ("Gemm", {"a": (5, 4), "b": (5, 7)}, (4, 7), 4 * 5 * 7, {"transA": 1}),
        ("ConvTranspose", {"a": (1, 3, 4, 4), "b": (3, 6, 2, 2)}, (1, 6, 5, 5), 3 * 16 * 6 * 4, {}),
        ("Einsum", {"a": (2, 4, 5), "b": (2, 5, 7)}, (2, 4, 7), 2 * 4 * 5 * 7, {"equation": "bij,bjk->bik"}),
        ("Add", {"a": (2, 4), "b": (2, 4)}, (2, 4), 0, {}),
    ],
)
def test_macs_of(
    op: str, shapes: dict[str, tuple[int, ...]], made: tuple[int, ...], macs: int, attributes: dict[str, Any]
) -> None:
    graph = helper.make_graph(
        [helper.make_node(op, list(shapes), ["y"], name="n", **attributes)],
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, made)],
    )
    assert costs(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), shapes)[0].macs == macs
