"""Latency and what stands beside it: percentiles, MLPerf's rule, footprint, sweeps, drift, preflight."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from attn_export import bundle
from attn_export.bundle import Artifact, Bundle, Case
from attn_export.deploy_tests.latency import footprint, mlperf, sweeps
from attn_export.deploy_tests.latency.measure import KEPT, Latency, Protocol, measure_latency
from attn_export.deploy_tests.latency.statistics import median, quantile
from attn_export.deploy_tests.machine import preflight
from attn_export.errors import BackendError, InconclusiveError, UsageError
from tests.artifacts import onnx as onnx_artifact

SHORT = Protocol(warmup=0, warmup_runs=1, duration=0.01, iterations=5)


def write(folder: Path, *, dynamic: bool = True, weights: int = 16) -> Bundle:
    """A bundle with one matrix product, its batch free or fixed at 2."""
    batch: Any = "b" if dynamic else 2
    weight = np.random.default_rng(0).standard_normal((weights, weights)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name="product")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, weights])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, weights])],
        [onnx.numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    with bundle.writing(folder) as place:
        (place / "model.onnx").write_bytes(model.SerializeToString())
        x = np.ones((2, weights), np.float32)
        bundle.write_cases(place / "cases.npz", (Case("one", {"x": x}, {"y": x @ weight}, {"y": 0.0}),))
        ports = {
            side: [{"name": name, "dtype": "float32", "shape": [batch, weights]}]
            for side, name in (("inputs", "x"), ("outputs", "y"))
        }
        varying = [{"name": "b", "step": 2, "min": 2, "max": 8}] if dynamic else []
        content = {
            "subject": {"name": "product"},
            "artifacts": [onnx_artifact()],
            "dynamic_dims": varying,
            **ports,
        }
        bundle.write_manifest(place, content)
    return bundle.read(folder)


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write(tmp_path_factory.mktemp("latency") / "product")


def test_it_warms_up_and_samples_for_as_long_and_as_often_as_asked() -> None:
    runs: list[int] = []
    came = measure_latency(lambda _: runs.append(1) or {}, {}, threads=1, cold_start=0, protocol=Protocol(0, 7, 0, 30))  # type: ignore[func-returns-value]
    assert len(runs) == 37
    assert len(came.wall) == len(came.cpu) == 30
    began = measure_latency(lambda _: {}, {}, threads=1, cold_start=0, protocol=Protocol(0, 1, 0.05, 1))
    assert sum(began.wall) <= 0.05e9 * 1.5
    assert len(began.wall) > 100


def test_percentiles_are_of_all_samples_though_few_are_kept() -> None:
    came = Latency(tuple(range(1, 20_001)), (1,) * 20_000, 1, 0.0)
    plain = came.to_dict()
    assert plain["runs"] == 20_000
    assert plain["wall_ms"]["p90"] == 18_000 / 1e6
    assert len(plain["samples"]["wall_ns"]) <= KEPT
    assert plain["samples"]["every"] == 4
    assert plain["samples"]["wall_ns"][:2] == [1, 5]


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    for share, truth in ((50, 0.6931), (90, 2.3026)):
        inside = 0
        for _ in range(400):
            came = quantile(rng.exponential(size=200), share)
            inside += came.low <= truth <= came.high
        assert 0.92 <= inside / 400 <= 0.99


def test_the_interval_of_a_median_is_finite_however_few_the_samples() -> None:
    json.dumps(median([3.0]).high, allow_nan=False)
    assert quantile([3.0], 99).high == float("inf")


@pytest.mark.parametrize(("over", "share", "least"), [(0, 0.9, 44), (1, 0.9, 64), (0, 0.99, 459), (1, 0.99, 662)])
def test_mlperf_floors(over: int, share: float, least: int) -> None:
    assert mlperf.fewest(over, share) == least, "the floors that LoadGen is documented with"


def test_mlperf_is_above_the_plain_percentile_and_nears_it() -> None:
    rng = np.random.default_rng(0)
    gaps = []
    for n in (64, 1000, 100_000):
        came = mlperf.single_stream((rng.exponential(size=n) * 1e6).astype(int).tolist())
        assert came.estimate_ms >= came.percentile_ms
        gaps.append(came.estimate_ms / came.percentile_ms)
    assert gaps[-1] < 1.02 < gaps[0]
    assert not came.long_enough


def test_mlperf_keeps_its_confidence() -> None:
    rng = np.random.default_rng(1)
    low = sum(
        mlperf.single_stream((rng.exponential(size=200) * 1e6).astype(int).tolist()).estimate_ms < 2.3026
        for _ in range(500)
    )
    assert low / 500 <= 0.02, "99 in 100 estimates lie above the true p90"


def test_mlperf_says_how_many_queries_are_missing() -> None:
    with pytest.raises(InconclusiveError, match="needs 64 queries, got 63"):
        mlperf.single_stream([1] * 63)


def test_the_footprint_is_the_models_own(product: Bundle, tmp_path: Path) -> None:
    ballast = np.ones(200_000_000, np.uint8)  # what the parent holds must not be charged to the child
    small = footprint.measure_footprint(product, "onnxruntime")
    large = footprint.measure_footprint(write(tmp_path / "large", weights=4000), "onnxruntime")
    assert ballast[-1]
    assert small.peak_bytes is not None
    assert small.model_bytes is not None
    assert large.model_bytes is not None
    assert small.peak_bytes < 200e6
    assert large.model_bytes > 60e6 > small.model_bytes >= 0
    assert large.file_bytes > 64e6 > small.file_bytes > 1000
    assert min(large.import_s, large.open_s, large.first_run_s) > 0
    assert large.cold_start_s == pytest.approx(large.import_s + large.open_s + large.first_run_s)
    json.dumps(small.to_dict(), allow_nan=False)


def test_the_size_of_a_model_counts_its_weights_wherever_they_lie(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(bytes(100))
    (tmp_path / "model.onnx.data").write_bytes(bytes(5000))
    files = (tmp_path / "model.onnx", tmp_path / "model.onnx.data")
    assert footprint.file_bytes(Artifact("model", "onnx", files)) == 5100


def test_a_child_that_breaks_is_an_error(product: Bundle) -> None:
    with pytest.raises(BackendError, match="in a process of its own broke"):
        footprint.measure_footprint(product, "tensorrt_rtx" if "tensorrt_rtx" in _missing() else "no_such")


def _missing() -> list[str]:
    from attn_export.deploy_tests.backends import BACKENDS

    return [name for name in ("tensorrt_rtx",) if BACKENDS[name].missing()]


def test_sweeps_measure_every_setting(product: Bundle) -> None:
    points = sweeps.threads(product, "onnxruntime", [1, 2], protocol=SHORT)
    assert [(p.setting, p.latency.threads) for p in points] == [(1, 1), (2, 2)]
    sizes = sweeps.batches(product, "onnxruntime", [2, 6], protocol=SHORT)
    assert [p.setting for p in sizes] == [2, 6]
    assert sizes[1].per_item == pytest.approx(sizes[1].latency.median().estimate / 6)
    json.dumps([p.to_dict() for p in (*points, *sizes)], allow_nan=False)


def test_a_batch_is_repeated_or_cut(product: Bundle) -> None:
    assert sweeps.resized(product, 6)["x"].shape == (6, 16)
    assert sweeps.batch_of(product) == 2
    for size in (1, 3, 10):
        with pytest.raises(UsageError, match="multiples of 2 from 2 to 8"):
            sweeps.resized(product, size)


def test_a_fixed_batch_cannot_be_swept(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="fixed batch"):
        sweeps.resized(write(tmp_path / "fixed", dynamic=False), 4)


def test_drift_is_found_where_it_is_and_only_there() -> None:
    rng = np.random.default_rng(0)
    level = 10 + rng.normal(0, 0.1, 20)
    steady = sweeps.of_windows(level.tolist(), 120)
    warm = sweeps.of_windows((level + np.linspace(0, 3, 20)).tolist(), 120)
    burst = sweeps.of_windows(np.where(np.arange(20) == 7, 40, level).tolist(), 120)
    assert steady.steady
    assert burst.steady, "one disturbed window is no drift"
    assert not warm.steady
    assert warm.change == pytest.approx(0.25, abs=0.06)
    assert warm.slope_ms_per_minute == pytest.approx(1.5, abs=0.2)


def test_a_run_is_watched_for_as_long_as_asked(product: Bundle) -> None:
    came = sweeps.sustain(product, "onnxruntime", 0.1, windows=4)
    assert len(came.window_p50_ms) == 4
    assert came.duration_s >= 0.1


def machine(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    return root


CPU = "sys/devices/system/cpu"
ZONE = "sys/class/thermal/thermal_zone0"
FAULTS: dict[str, tuple[dict[str, str], str]] = {
    "governor": ({f"{CPU}/cpu0/cpufreq/scaling_governor": "powersave\n"}, "cpupower"),
    "turbo": ({f"{CPU}/intel_pstate/no_turbo": "0"}, "no_turbo"),
    "throttling": ({f"{CPU}/cpu1/thermal_throttle/core_throttle_count": "12"}, "cool"),
    "heat": (
        {f"{ZONE}/temp": "88000", f"{ZONE}/trip_point_0_type": "passive", f"{ZONE}/trip_point_0_temp": "95000"},
        "wait",
    ),
    "smt": (
        {f"{CPU}/cpu{i}/topology/thread_siblings_list": "0-1" for i in (0, 1)},
        "--threads 1",
    ),
    "quota": ({"sys/fs/cgroup/cpu.max": "50000 100000"}, "--cpus"),
}
FINE = {
    f"{CPU}/cpu0/cpufreq/scaling_governor": "performance",
    f"{CPU}/intel_pstate/no_turbo": "1",
    f"{CPU}/cpu1/thermal_throttle/core_throttle_count": "0",
    f"{ZONE}/temp": "40000",
    f"{ZONE}/trip_point_0_type": "passive",
    f"{ZONE}/trip_point_0_temp": "95000",
    f"{CPU}/cpu0/topology/thread_siblings_list": "0",
    f"{CPU}/cpu1/topology/thread_siblings_list": "1",
    "sys/fs/cgroup/cpu.max": "max 100000",
}


@pytest.mark.parametrize("kind", FAULTS)
def test_preflight_finds_it_and_says_what_to_do(tmp_path: Path, kind: str) -> None:
    files, remedy = FAULTS[kind]
    found = preflight.check(2, root=machine(tmp_path, FINE | files), load=0.0, cores=frozenset({0, 1}))
    assert [w.kind for w in found] == [kind]
    assert remedy in str(found[0])


def test_preflight_is_silent_on_a_fine_machine_and_on_one_that_tells_nothing(tmp_path: Path) -> None:
    assert preflight.check(2, root=machine(tmp_path / "a", FINE), load=0.1, cores=frozenset({0, 1})) == ()
    assert preflight.check(2, root=tmp_path / "b", load=0.1, cores=frozenset({0, 1})) == ()


@pytest.mark.parametrize(
    ("load", "threads", "cores", "kinds"),
    [(3.0, 1, 2, ["load"]), (1.0, 1, 2, []), (0.2, 2, 1, ["affinity"]), (1.0, 1, 1, ["load"])],
)
def test_preflight_weighs_load_and_affinity(
    tmp_path: Path, load: float, threads: int, cores: int, kinds: list[str]
) -> None:
    found = preflight.check(threads, root=tmp_path, load=load, cores=frozenset(range(cores)))
    assert [w.kind for w in found] == kinds


def test_preflight_reads_this_machine() -> None:
    assert all(w.found and w.remedy for w in preflight.check())


def test_the_high_water_mark_is_the_childs_own() -> None:
    ballast = np.ones(300_000_000, np.uint8)
    code = "from attn_export.deploy_tests.latency.footprint import high_water; print(high_water() or 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ballast[-1]
    assert int(done.stdout) < 200e6
