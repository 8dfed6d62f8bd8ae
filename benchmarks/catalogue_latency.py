"""Latency of every bundle that a sweep left: ONNX Runtime on one thread, the batch of one that stands first.

python -m benchmarks.catalogue_latency FOLDER [FOLDER ...]

What was taken is kept in ``latency.json`` beside the sweep's results after each bundle, so that the pass can be
stopped and goes on where it was; a bundle whose model has changed since is measured again, ``--again`` measures all.
Bundles that fusing left as they were are measured once, plain.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from attn_export import bundle
from attn_export.deploy_tests.latency.measure import Protocol, bundle_latency
from attn_export.deploy_tests.machine import environment
from attn_export.tools.measured import LATENCY, Timing, from_sweep, model_of, timings

BACKEND = "onnxruntime"
#: Enough for the interval of a median; small graphs give thousands of samples in this time.
PROTOCOL = Protocol(warmup=0.2, warmup_runs=3, duration=0.8, iterations=25)


def wanted(folder: Path) -> list[str]:
    """Labels to be measured: all that passed, without the fused twins of what has nothing to fuse."""
    runs = from_sweep(folder)
    found = []
    for label, run in runs.items():
        plain = runs.get(label.removesuffix("-fused")) if label.endswith("-fused") else None
        if plain is None or (plain.nodes, plain.k) != (run.nodes, run.k):
            found.append(label)
    return found


def take(folder: Path, label: str, machine: str) -> Timing:
    """Measure one bundle."""
    timed = bundle_latency(bundle.read(folder / label), BACKEND, threads=1, protocol=PROTOCOL)
    middle = timed.median()
    p50, low, high = (round(value, 6) for value in (middle.estimate, middle.low, middle.high))
    return Timing(p50, low, high, len(timed.wall), machine)


def measure(folder: Path, machine: str, *, again: bool = False) -> int:
    """Measure what is left in one folder; the number of bundles that were measured."""
    known = {} if again else timings(folder)
    left = [label for label in wanted(folder) if known.get(label, ("",))[0] != model_of(folder, label)]
    for count, label in enumerate(left):
        known[label] = model_of(folder, label), take(folder, label, machine)
        print(f"[{count + 1}/{len(left)}] {label}: {known[label][1]}", flush=True)
        rows = {key: {"model": model, "latency": asdict(timing)} for key, (model, timing) in known.items()}
        partial = folder / f"{LATENCY}.partial"
        partial.write_text(json.dumps(rows, indent=1), encoding="utf-8")
        partial.replace(folder / LATENCY)
    return len(left)


def describe() -> str:
    """Describe the machine in a few words."""
    machine = environment.describe()
    runtime = machine["libraries"]["onnxruntime"]
    return f"{machine['processor']}, {machine['cores']} cores, ONNX Runtime {runtime}, one thread"


def main() -> None:
    """Measure every folder that was named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--again", action="store_true", help="measure what has not changed, too")
    asked = parser.parse_args()
    machine = describe()
    print(f"{machine}, load {environment.describe()['load']}")
    for folder in asked.folders:
        print(f"{measure(folder, machine, again=asked.again)} bundles measured in {folder}")


if __name__ == "__main__":
    main()
