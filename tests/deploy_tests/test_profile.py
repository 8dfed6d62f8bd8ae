"""Where the time goes: costs from shapes, kernels back to our nodes, shares of a measured peak."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from attn_export.deploy_tests.backend import Kernel
from attn_export.deploy_tests.backends.onnxruntime.profile import kernel, kernels, record
from attn_export.deploy_tests.latency.profile import attribute
from attn_export.deploy_tests.latency.roofline import Roofline, measure_roofline
from attn_export.export.graph.cost import costs, origins_of, to_manifest

RNG = np.random.default_rng(0)


def weights(**shapes: tuple[int, ...]) -> list[TensorProto]:
    return [numpy_helper.from_array(RNG.standard_normal(s).astype(np.float32), n) for n, s in shapes.items()]


def net() -> onnx.ModelProto:
    """A convolution with its activation, a depthwise one, a pooling, a product: one of each kind of cost."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], name="first", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"], name="act"),
        helper.make_node("Conv", ["b", "d"], ["c"], name="depthwise", group=32, pads=[1, 1, 1, 1]),
        helper.make_node("GlobalAveragePool", ["c"], ["e"], name="pool"),
        helper.make_node("Flatten", ["e"], ["f"], name="flat"),
        helper.make_node("Gemm", ["f", "g"], ["h"], name="head", transB=1),
        helper.make_node("Softmax", ["h"], ["y"], name="soft"),
    ]
    nodes[0].metadata_props.add(key="pkg.torch.onnx.name_scopes", value="['', 'stem.conv', 'conv2d']")
    nodes[0].metadata_props.add(
        key="pkg.torch.onnx.stack_trace", value='File "/a/net.py", line 7, in forward\n    return self.stem(x)'
    )
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", 16, "h", "w"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["b", 10])],
        weights(w=(32, 16, 3, 3), d=(32, 1, 3, 3), g=(10, 32)),
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    return to_manifest(costs(net(), {"x": (2, 16, 8, 8)}), "one")["nodes"]  # type: ignore[no-any-return]


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


def test_kernels_go_back_to_our_nodes(rows: list[dict[str, Any]]) -> None:
    found = [
        kernel("b_nchwc", "Conv", 60),
        kernel("fused depthwise", "FusedConv", 20),
        Kernel("ReorderOutput", "ReorderOutput", 10),
        Kernel("soft", "Softmax", 10),
    ]
    came = attribute(found, rows, 30, Roofline(1e10, 1e10, 1))
    assert [(row.name, row.nodes) for row in came.rows] == [
        ("first", ("first", "act")),
        ("depthwise", ("depthwise",)),
        ("ReorderOutput", ()),
        ("soft", ("soft",)),
    ]
    assert came.mapped == pytest.approx(0.9)
    assert came.rows[0].module == "stem.conv"
    assert came.rows[0].bound == "compute"
    assert came.rows[0].roofline == pytest.approx((rows[0]["flops"] + rows[1]["flops"]) / 1e10 / 60e-6)
    assert came.rows[2].roofline is None


def test_without_costs_all_time_is_the_runtimes_own() -> None:
    came = attribute([Kernel("first", "Conv", 5)], [], 1)
    assert came.mapped == 0
    assert came.rows[0].name == "first"


def test_events_are_read_and_warm_up_is_left_out() -> None:
    def event(time: int, **change: Any) -> dict[str, Any]:
        arguments = {"op_name": "Conv", "node_index": "1"}
        return {"cat": "Node", "name": "first_kernel_time", "dur": time, "args": arguments} | change

    came = kernels([event(9), event(10), event(12), event(11), event(1, cat="Session"), event(1, name="x")], skip=1)
    assert came == (Kernel("first", "Conv", 10.0),)


def test_a_real_profile_is_mapped(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(net().SerializeToString())
    found = record(path, {"x": np.ones((2, 16, 8, 8), np.float32)}, threads=1, runs=5)
    came = attribute(found, rows, 5)
    named = {name for row in came.rows for name in row.nodes}
    assert {"first", "depthwise", "head", "soft"} <= named
    assert not list(tmp_path.glob("profile*")), "the profiler's file is not left behind"


def test_the_peak_is_measured_and_plausible() -> None:
    came = measure_roofline(1, size=256, megabytes=32, seconds=0.05)
    assert 1e8 < came.flops < 1e14
    assert 1e8 < came.bandwidth < 1e13
    assert came.shortest(came.flops, 0) == pytest.approx(1)
    assert came.bound(1, came.bandwidth) == "memory"


def test_work_takes_as_long_as_the_slower_of_arithmetic_and_memory() -> None:
    machine = Roofline(flops=100.0, bandwidth=10.0, threads=1)
    assert (machine.shortest(200, 5), machine.bound(200, 5)) == (2.0, "compute")
    assert (machine.shortest(200, 50), machine.bound(200, 50)) == (5.0, "memory")
