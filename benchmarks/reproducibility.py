"""How far a latency figure moves between repeats of one command on one file, by our rules and by others'.

Each rule is re-implemented from the defaults in its source (warm-up, number of runs, statistic), and plays in a fresh
process each time, as the command it stands for would. The rules take turns, so that all see the same machine.

    polygraphy   NVIDIA/TensorRT, tools/Polygraphy/polygraphy/comparator/comparator.py: ``run(warm_up=None)`` means 0,
                 one pass over the data loader, whose default (data_loader.py) is a single iteration; the mean
    trtexec      NVIDIA/TensorRT, samples/common/sampleOptions.h: defaultWarmUp 200 ms, defaultDuration 3 s,
                 defaultIterations 10; it prints the median among others
    timm         huggingface/pytorch-image-models, benchmark.py: --num-warm-iter 10, --num-bench-iter 40, step_time is
                 the mean
    olive        microsoft/Olive, olive/evaluator/metric_config.py: WARMUP_NUM 10, REPEAT_TEST_NUM 20, SLEEP_NUM 0

What each gives:

    polygraphy   `polygraphy run`: no warm-up, 1 iteration (``--warm-up``, ``--iterations``), its mean wall time
    trtexec      200 ms of warm-up, then 3 s and 10 iterations at least, median (``--warmUp --duration --iterations``)
    timm         `benchmark.py`: 10 warm-up runs, 40 runs, mean wall time of all together
    olive        `LatencyMetric`: 10 warm-up runs, 20 repeats, average of single wall times
    ours, p50    200 ms and 10 runs of warm-up, 3 s and 200 runs at least, median wall time
    ours, CPU    the same runs, median CPU time
    ours, ratio  one contest of the file against itself, over process pairs: what comparisons are made with

Then a planted slow-down must be called slower, and the file against itself must not be:

    python -m benchmarks.reproducibility BUNDLE --repeats 15 --contests 20
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
from onnx import helper, numpy_helper

from attn_export import bundle
from attn_export.deploy_tests.backend import Run
from attn_export.deploy_tests.latency.comparison import LatencyComparison, Rules, compare_latency
from attn_export.deploy_tests.latency.measure import Protocol, measure_latency
from attn_export.deploy_tests.latency.statistics import percentile
from attn_export.deploy_tests.machine import environment
from attn_export.deploy_tests.open_bundle import opened
from attn_export.types import Feeds

Rule = Callable[[Run, Feeds], dict[str, float]]


def _walls(run: Run, feeds: Feeds, warm: int, runs: int) -> list[float]:
    for _ in range(warm):
        run(feeds)
    samples = []
    for _ in range(runs):
        began = time.perf_counter()
        run(feeds)
        samples.append((time.perf_counter() - began) * 1e3)
    return samples


def _polygraphy(run: Run, feeds: Feeds) -> dict[str, float]:
    return {"polygraphy": statistics.fmean(_walls(run, feeds, 0, 1))}


def _trtexec(run: Run, feeds: Feeds) -> dict[str, float]:
    came = measure_latency(run, feeds, threads=1, cold_start=0, protocol=Protocol(0.2, 0, 3.0, 10))
    return {"trtexec": percentile(came.wall, 50) / 1e6}


def _timm(run: Run, feeds: Feeds) -> dict[str, float]:
    return {"timm": statistics.fmean(_walls(run, feeds, 10, 40))}


def _olive(run: Run, feeds: Feeds) -> dict[str, float]:
    return {"olive": statistics.fmean(_walls(run, feeds, 10, 20))}


def _ours(run: Run, feeds: Feeds) -> dict[str, float]:
    came = measure_latency(run, feeds, threads=1, cold_start=0)
    return {"ours, p50": percentile(came.wall, 50) / 1e6, "ours, CPU": percentile(came.cpu, 50) / 1e6}


RULES: dict[str, Rule] = {
    "polygraphy": _polygraphy, "trtexec": _trtexec, "timm": _timm, "olive": _olive, "ours": _ours
}  # fmt: skip


def play(rule: str, path: str) -> dict[str, float]:
    """One figure by one rule, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.reproducibility", path, "--play", rule]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def slowed(model: onnx.ModelProto, share: float, total_macs: int) -> onnx.ModelProto:
    """Make a copy with one more node: a product of constants-to-be that costs ``share`` of the model's multiply-adds.

    It hangs on the first input, so the runtime cannot fold it, and its result is an output, so it cannot be dropped.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    side = 256
    rows = max(1, round(share * total_macs / side**2))
    port = copy.graph.input[0].name
    start = {"nought": [0], "one": [1], "flat": [-1]}
    for name, value in start.items():
        copy.graph.initializer.append(numpy_helper.from_array(_array(value, "int64"), f"planted.{name}"))
    copy.graph.initializer.append(numpy_helper.from_array(_array([rows, side], "int64"), "planted.shape"))
    weight = _array([[1.0 / (i + j + 1) for j in range(side)] for i in range(side)], "float32")
    copy.graph.initializer.append(numpy_helper.from_array(weight, "planted.weight"))
    nodes = [
        helper.make_node("Reshape", [port, "planted.flat"], ["planted.line"], name="planted.line"),
        helper.make_node(
            "Slice", ["planted.line", "planted.nought", "planted.one"], ["planted.first"], name="planted.first"
        ),
        helper.make_node("Expand", ["planted.first", "planted.shape"], ["planted.wide"], name="planted.wide"),
        helper.make_node("MatMul", ["planted.wide", "planted.weight"], ["planted.product"], name="planted.product"),
        helper.make_node("ReduceMax", ["planted.product"], ["planted"], name="planted.most", keepdims=0),
    ]
    copy.graph.node.extend(nodes)
    copy.graph.output.append(helper.make_tensor_value_info("planted", onnx.TensorProto.FLOAT, []))
    return copy


def _array(value: Any, kind: str) -> Any:
    import numpy as np

    return np.asarray(value, dtype=kind)


def spreads(path: str, repeats: int, contests: int) -> dict[str, list[float]]:
    """Figures of each rule over ``repeats``, the rules taking turns."""
    found: dict[str, list[float]] = {}
    for index in range(repeats):
        for rule in RULES:
            for name, figure in play(rule, path).items():
                found.setdefault(name, []).append(figure)
        if index < contests:
            found.setdefault("ours, ratio", []).append(_contest(Path(path), None, Rules()).ratio.estimate)
        _say(f"repeat {index + 1} of {repeats}, load {os.getloadavg()[0]:.1f}")
    return found


def _contest(path: Path, contender: Path | None, rules: Rules) -> LatencyComparison:
    model = path / bundle.MODEL
    return compare_latency(contender or model, model, path / bundle.CASES, rules=rules)


def planted(path: str, share: float, runs: int, rules: Rules, until: float) -> dict[str, list[dict[str, Any]]]:
    """Contests of the slowed model and of the model itself against the model, in turn, until done or out of time."""
    model = onnx.load(str(Path(path) / bundle.MODEL))
    whole = bundle.read(Path(path))
    found: dict[str, list[dict[str, Any]]] = {"planted": [], "A/A": []}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "slowed.onnx"
        extra = _calibrated(model, whole, share, file)
        for index in range(runs):
            for name, contender in (("planted", file), ("A/A", None)):
                if time.time() > until:
                    return found
                came = _contest(Path(path), contender, rules)
                found[name].append({**came.to_dict(name, "bundle"), "pairs": len(came.pairs), "extra": extra})
                _say(f"{name} {index + 1}: {came.ratio} {came.verdict}, {len(came.pairs)} pairs")
    return found


def _calibrated(model: onnx.ModelProto, whole: bundle.Bundle, share: float, file: Path) -> float:
    """Write the slowed model, its node sized by the runtime's own profile to take ``share`` of the kernels' time."""
    from attn_export.deploy_tests.backends.onnxruntime.profile import record

    feeds = whole.cases[0].inputs
    base = sum(kernel.microseconds for kernel in record(whole.model, feeds, 1, 40))
    macs = 200_000_000
    for _ in range(4):
        file.write_bytes(slowed(model, 1.0, macs).SerializeToString())
        rows = record(file, feeds, 1, 40)
        own = sum(kernel.microseconds for kernel in rows if "planted" in kernel.name)
        macs = max(65_536, round(macs * share * base / own))
        if abs(own / (share * base) - 1) < 0.05:
            return own / base
    return own / base


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    """Run both tables and print them; the raw figures go to ``--output``."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("bundle")
    words.add_argument("--play", choices=RULES)
    words.add_argument("--repeats", type=int, default=15)
    words.add_argument("--ratios", type=int, default=15, help="of the repeats, how many also play a contest")
    words.add_argument("--contests", type=int, default=20)
    words.add_argument("--share", type=float, default=0.03)
    words.add_argument("--processes", type=int, default=5)
    words.add_argument("--minutes", type=float, default=600)
    words.add_argument("--output", type=Path)
    asked = words.parse_args()
    if asked.play:
        whole = bundle.read(Path(asked.bundle))
        with opened(whole, "onnxruntime", 1) as (run, _, _):
            print(json.dumps(RULES[asked.play](run, whole.cases[0].inputs)))
        return
    until = time.time() + 60 * asked.minutes
    result: dict[str, Any] = {"environment": environment.describe()}
    result["spread"] = spreads(asked.bundle, asked.repeats, asked.ratios) if asked.repeats else {}
    for name, figures in result["spread"].items():
        print(f"{name:<12} max/min {max(figures) / min(figures):6.3f}   {len(figures)} repeats, min {min(figures):.4g}")
    rules = Rules(processes=asked.processes)
    result["contests"] = planted(asked.bundle, asked.share, asked.contests, rules, until) if asked.contests else {}
    for name, rows in result["contests"].items():
        verdicts = [row["verdict"] for row in rows]
        print(f"{name:<8} {len(rows)} runs: " + ", ".join(f"{v} {verdicts.count(v)}" for v in sorted(set(verdicts))))
    print(f"load at the end {os.getloadavg()[0]:.2f}")
    if asked.output:
        bundle.write_json(asked.output, result)


if __name__ == "__main__":
    main()
