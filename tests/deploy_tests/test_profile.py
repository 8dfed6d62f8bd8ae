"""Where the time goes: kernels back to our nodes, shares of a measured peak."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attn_export.deploy_tests.backend import Kernel
from attn_export.deploy_tests.backends.onnxruntime.profile import kernel, kernels, record
from attn_export.deploy_tests.latency.profile import attribute
from attn_export.deploy_tests.latency.roofline import Roofline, measure_roofline
from tests.deploy_tests.profiled import ROWS, net


def test_kernels_go_back_to_our_nodes() -> None:
    found = [
        kernel("b_nchwc", "Conv", 60),
        kernel("fused depthwise", "FusedConv", 20),
        Kernel("ReorderOutput", "ReorderOutput", 10),
        Kernel("soft", "Softmax", 10),
    ]
    came = attribute(found, ROWS, 30, Roofline(1e10, 1e10, 1))
    assert [(row.name, row.nodes) for row in came.rows] == [
        ("first", ("first", "act")),
        ("depthwise", ("depthwise",)),
        ("ReorderOutput", ()),
        ("soft", ("soft",)),
    ]
    assert came.mapped_share == pytest.approx(0.9)
    assert came.rows[0].module == "stem.conv"
    assert came.rows[0].limited_by == "compute"
    assert came.rows[0].roofline_share == pytest.approx((ROWS[0]["flops"] + ROWS[1]["flops"]) / 1e10 / 60e-6)
    assert came.rows[2].roofline_share is None


def test_without_costs_all_time_is_the_runtimes_own() -> None:
    came = attribute([Kernel("first", "Conv", 5)], [], 1)
    assert came.mapped_share == 0
    assert came.rows[0].name == "first"


def test_events_are_read_and_warm_up_is_left_out() -> None:
    def event(time: int, **change: Any) -> dict[str, Any]:
        arguments = {"op_name": "Conv", "node_index": "1"}
        return {"cat": "Node", "name": "first_kernel_time", "dur": time, "args": arguments} | change

    came = kernels([event(9), event(10), event(12), event(11), event(1, cat="Session"), event(1, name="x")], skip=1)
    assert came == (Kernel("first", "Conv", 10.0),)


def test_a_real_profile_is_mapped(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(net().SerializeToString())
    found = record(path, {"x": np.ones((2, 16, 8, 8), np.float32)}, threads=1, runs=5)
    came = attribute(found, ROWS, 5)
    named = {name for row in came.rows for name in row.nodes}
    assert {"first", "depthwise", "head", "soft"} <= named
    assert not list(tmp_path.glob("profile*")), "the profiler's file is not left behind"


def test_the_peak_is_measured_and_plausible() -> None:
    came = measure_roofline(1, size=256, megabytes=32, seconds=0.05)
    assert 1e8 < came.flops_per_s < 1e14
    assert 1e8 < came.bytes_per_s < 1e13
    assert came.shortest(came.flops_per_s, 0) == pytest.approx(1)
    assert came.bound(1, came.bytes_per_s) == "memory"


def test_work_takes_as_long_as_the_slower_of_arithmetic_and_memory() -> None:
    machine = Roofline(flops_per_s=100.0, bytes_per_s=10.0, threads=1)
    assert (machine.shortest(200, 5), machine.bound(200, 5)) == (2.0, "compute")
    assert (machine.shortest(200, 50), machine.bound(200, 50)) == (5.0, "memory")
