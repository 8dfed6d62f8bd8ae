"""What the main job costs and gives: one whole process of ``attn-export repvgg --fuse``, and its figures.

python -m benchmarks.main_job
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time

from attn_export.deploy_tests.machine import environment


def main() -> None:
    """Run it once and print seconds by stage, nodes, ratio with control, parity with bound."""
    machine = environment.describe()
    print(f"{machine['processor']}, {machine['cores']} cores, load {machine['load']}")
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "attn_export", "repvgg", "--fuse", "--json", "-q", "-o", f"{folder}/repvgg"]
        began = time.perf_counter()
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        whole = time.perf_counter() - began
    print(f"exit code {done.returncode} after {whole:.1f} s")
    result = json.loads(done.stdout)
    if "error" in result:
        raise SystemExit(result["error"])
    for name, spent in result["seconds"].items():
        print(f"  {name:<28} {spent:6.1f} s")
    for stage in result["stages"]:
        error = f"{stage['normalized_error']:.2f}x (limit {stage['normalized_limit']:g}x)"
        print(f"  {stage['name']:<28} nodes {stage['nodes']}, error {error}")
    contest = result["comparison"]
    for name in ("ratio", "control"):
        value = contest[name]
        print(f"  fused/un-fused {name:<8} {value['estimate']:.3f} [{value['low']:.3f}, {value['high']:.3f}]")


if __name__ == "__main__":
    main()
