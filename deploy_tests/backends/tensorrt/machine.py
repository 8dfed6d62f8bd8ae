"""What a measurement depends on besides the engine: GPU, driver, clocks, power mode. Best effort; nothing is set."""

from __future__ import annotations

import shutil
import subprocess

from attn_export.deploy_tests.backends.tensorrt.cuda import Runtime

_QUERY = "name,driver_version,pstate,clocks.sm,clocks.max.sm,clocks.mem,power.limit,temperature.gpu,persistence_mode"
#: Where they are installed: the board's power mode on a Jetson, clocks and limits on a desktop.
COMMANDS = {
    "nvpmodel": ["nvpmodel", "-q"],
    "jetson_clocks": ["jetson_clocks", "--show"],
    "nvidia_smi": ["nvidia-smi", f"--query-gpu={_QUERY}", "--format=csv"],
}


def describe(runtime: Runtime, device: int) -> dict[str, str]:
    """Describe a GPU and the state it is in, in words for a report."""
    cuda, driver = runtime.versions()
    free, total = runtime.free_memory()
    facts = {
        "gpu": runtime.name(device),
        "sm": runtime.sm(device),
        "cuda_runtime": cuda,
        "cuda_driver": driver,
        "memory_free_mb": str(free >> 20),
        "memory_total_mb": str(total >> 20),
    }
    for name, command in COMMANDS.items():
        if said := _ask(command):
            facts[name] = said
    return facts


def _ask(command: list[str]) -> str:
    if shutil.which(command[0]) is None:
        return ""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"no answer: {error}"
    return done.stdout.strip() or done.stderr.strip()
