"""Say on what a figure was measured: processor and whether it is emulated, cores, clock policy, load, versions."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from attn_export.deploy_tests.backends import libraries
from attn_export.deploy_tests.machine.emulated import emulated

#: What makes the models, wherever it is installed; what runs them is the backends' to say.
_LIBRARIES = ("numpy", "torch", "onnx", "onnxscript", "onnxsim")


def describe(*plug_ins: str) -> dict[str, Any]:
    """Describe this machine and its libraries, without importing any of them; those of the backends that are ours too.

    Args:
        plug_ins: backends of other distributions, whose libraries are to be told as well.
    """
    return {
        "processor": processor(),
        **({"emulated": what} if (what := emulated()) else {}),
        "cores": os.cpu_count(),
        "affinity": sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor") or "unknown",
        "load": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "libraries": {name: found for name in (*_LIBRARIES, *libraries(*plug_ins)) if (found := _version(name))},
    }


def processor() -> str:
    """Read the processor's model name as the kernel gives it."""
    for line in _read("/proc/cpuinfo").splitlines():
        if line.startswith(("model name", "Model", "Hardware")):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
