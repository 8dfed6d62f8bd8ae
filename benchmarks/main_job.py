"""What the main job costs and gives: one whole process of ``attn-export repvgg --fuse``, and its figures.

    python -m benchmarks.main_job [--no-bench] [--rounds N]

The processor's seconds of each round stand beside those of its floor, a process that imports torch and exports the same
network once: on a machine that does other things too, the ratio of the two says more than either.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from typing import Any

from attn_export.deploy_tests.machine import environment

FLOOR = """
import torch
from attn_export.mechanisms.rep.repvgg import RepVGG
free = {"x": {0: torch.export.Dim("b", min=1)}}
torch.onnx.export(RepVGG().eval(), (torch.rand(2, 3, 224, 224),), dynamo=True, dynamic_shapes=free, verbose=False)
"""


def spent(command: list[str]) -> tuple[subprocess.CompletedProcess[str], float, float]:
    """Run a command, and say what it took: seconds of the wall clock, and of the processor."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    kept = {"ATTN_EXPORT_CACHE_DIR": "off"}  # an answer out of the cache costs nothing
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False, env={**os.environ, **kept}
    )
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return done, wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Run it and print seconds by stage, nodes, parity with bound, and where it was measured the ratio with control."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--no-bench", action="store_true", help="Do not measure latency.")
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    machine = environment.describe()
    print(f"{machine['processor']}, {machine['cores']} cores, load {machine['load']}")
    more = ["--no-bench"] if options.no_bench else []
    for _ in range(options.rounds):
        _, _, floor = spent([sys.executable, "-c", FLOOR])
        with tempfile.TemporaryDirectory() as folder:
            words = ["repvgg", "--fuse", "--json", "-q", "-o", f"{folder}/repvgg", *more]
            done, wall, taken = spent([sys.executable, "-m", "attn_export", *words])
        print(
            f"exit code {done.returncode} after {wall:.1f} s and {taken:.1f} CPU s: {taken / floor:.2f} times its",
            end="",
        )
        print(f" floor of {floor:.1f}")
        result = json.loads(done.stdout)
        if "error" in result:
            raise SystemExit(result["error"])
        _tell(result)


def _tell(result: Mapping[str, Any]) -> None:
    for name, seconds in result["seconds"].items():
        print(f"  {name:<28} {seconds:6.1f} s")
    for stage in result["stages"]:
        error = f"{stage['normalized_error']:.2f}x (limit {stage['normalized_limit']:g}x)"
        print(f"  {stage['name']:<28} nodes {stage['nodes']}, error {error}")
    contest = result.get("comparison") or {}
    for name, value in ((name, contest[name]) for name in ("ratio", "control") if name in contest):
        print(f"  fused/un-fused {name:<8} {value['estimate']:.3f} [{value['low']:.3f}, {value['high']:.3f}]")


if __name__ == "__main__":
    main()
