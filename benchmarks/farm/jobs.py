"""What runs the jobs of the benchmark: entries as in any sweep, and some that sleep, kill their worker or hold much.

Which one it is stands in the preset: ``sleep-7`` takes as many milliseconds as stand in ATTN_EXPORT_FARM_SLEEP.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from attn_export.pipeline.sweep import worker

#: The variable of the environment that names the file with a line for each job that was begun.
BEGUN = "ATTN_EXPORT_FARM_BEGUN"
SLEEP = "ATTN_EXPORT_FARM_SLEEP"


def run(job: dict[str, Any]) -> worker.Answered:
    """Run one job."""
    if begun := os.environ.get(BEGUN):
        with Path(begun).open("a") as file:
            file.write(f"{job['label']}\n")
    kind = job["preset"].partition("-")[0]
    if kind == "sleep":
        time.sleep(float(os.environ.get(SLEEP, "0")) / 1000)
        return "passed", "slept", {}
    if kind == "kill":
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(60)
    if kind == "hold":
        held = bytearray()
        while len(held) < 3_000_000_000:
            held += b"x" * 50_000_000
            time.sleep(0.02)
    return worker.run(job)


if __name__ == "__main__":
    worker.serve(run)
