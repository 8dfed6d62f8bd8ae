"""How long the command line takes to answer when it needs no torch: median of ten whole processes.

python -m benchmarks.startup
"""

from __future__ import annotations

import subprocess
import sys
import time

from attn_export.deploy_tests.latency.statistics import percentile
from attn_export.deploy_tests.machine import environment

COMMANDS = {"--help": 0.4, "list": 0.3, "show se": 0.3, "--version": 0.3}


def seconds(arguments: list[str], runs: int = 10) -> list[float]:
    """Wall seconds of each of ``runs`` processes, after one that is not counted."""
    command = [sys.executable, "-m", "attn_export", *arguments]
    samples = []
    for _ in range(runs + 1):
        began = time.perf_counter()
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        samples.append(time.perf_counter() - began)
    return samples[1:]


def main() -> None:
    """Print one line a command."""
    machine = environment.describe()
    print(f"{machine['processor']}, load {machine['load']}, Python {machine['python']}")
    for command, bound in COMMANDS.items():
        samples = seconds(command.split())
        print(
            f"attn-export {command:<10} median {percentile(samples, 50):.3f} s"
            f" [{min(samples):.3f}, {max(samples):.3f}], wanted < {bound} s"
        )


if __name__ == "__main__":
    main()
