"""What every result depends on, whatever was asked for: our code, what is installed, the machine, libraries' settings.

All of it is read anew each time, and nothing of it is imported: this costs some hundredths of a second.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from attn_export.cache import place

#: What compiled libraries are told by variables of the environment, by how the names begin; Python is, too.
_SETTINGS = (
    "ATEN_",
    "ATTN_EXPORT_",
    "BLIS_",
    "CUDA_",
    "DNNL_",
    "GLIBC_",
    "GOMP_",
    "GOTO_",
    "HF_",
    "KMP_",
    "LD_",
    "MALLOC_",
    "MKL_",
    "NPY_",
    "NUMEXPR_",
    "NVIDIA_",
    "OMP_",
    "ONEDNN_",
    "ONNX",
    "OPENBLAS_",
    "ORT_",
    "OV_",
    "PYTHON",
    "PYTORCH_",
    "TORCH",
    "TRANSFORMERS_",
    "XNNPACK_",
)
#: Where something is kept changes no result; PyTorch sets one while it works.
_PLACES = "_CACHE_DIR"
#: What builds and tests programs computes nothing; one of these changes with every test. Nor does where runs are kept.
_TOOLS = ("PIP_", "PYTEST_", "UV_", place.BOUND, "ATTN_EXPORT_STORE", "ATTN_EXPORT_MACHINE")
#: Names in a folder of packages that say what is installed, and in which version.
_INSTALLED = (".dist-info", ".egg-info", ".egg-link", ".pth")
#: Lines of the description of a processor that differ from core to core, or from moment to moment.
_OF_THE_MOMENT = ("processor", "cpu MHz", "core id", "apicid", "initial apicid", "bogomips", "BogoMIPS", "physical id")
#: Bytes in which the first processor is described.
_FIRST = 16_384


def describe() -> dict[str, Any]:
    """Give plain data that is equal where results may be taken for each other."""
    installed = list(_installed())
    # ``torch-2.13.0.dist-info``: variables that begin with a package's name are for it.
    named = tuple({f"{name.partition('-')[0].partition('_')[0].upper()}_" for name in installed})
    return {
        "code": code(Path(__file__).parents[1]),
        "python": [sys.version, sys.implementation.cache_tag, sys.prefix, list(map(str, sys.flags)), sys.path],
        "installed": installed,
        "settings": {
            name: value
            for name, value in sorted(os.environ.items())
            if name.startswith((*_SETTINGS, *named)) and not name.endswith(_PLACES) and not name.startswith(_TOOLS)
        },
        "machine": _machine(),
    }


def code(package: Path) -> str:
    """Hash every file of a package but its bytecode: our own code, templates included."""
    digest = hashlib.sha256()
    for path in _files(str(package)):
        digest.update(f"{path}\0".encode("utf-8", "surrogateescape"))
        with open(path, "rb") as file:  # noqa: PTH123  # six hundred times, each time
            content = file.read()
        digest.update(f"{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def _files(folder: str) -> Iterator[str]:
    with os.scandir(folder) as scanned:
        found = sorted(scanned, key=lambda entry: entry.name)
    for entry in found:
        if entry.is_dir():
            if entry.name != "__pycache__":
                yield from _files(entry.path)
        elif not entry.name.endswith(".pyc"):
            yield entry.path


def _installed() -> Iterator[str]:
    """Name every package and its version, as the folders that Python looks into tell."""
    for folder in sys.path:
        try:
            names = sorted(name for name in os.listdir(folder or ".") if name.endswith(_INSTALLED))  # noqa: PTH208
        except OSError:
            continue
        yield from names


def _machine() -> dict[str, Any]:
    """Describe what results and figures hold for: this machine, its system, and the part of it that we are given."""
    system = os.uname()
    return {
        "system": [system.sysname, system.release, system.machine],
        "libc": os.confstr("CS_GNU_LIBC_VERSION") if "CS_GNU_LIBC_VERSION" in os.confstr_names else None,
        "processor": _processor(),
        "cores": [os.cpu_count(), sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None],
        "share": _read("/sys/fs/cgroup/cpu.max"),
        "identity": hashlib.sha256((_read("/etc/machine-id") or system.nodename).encode()).hexdigest(),
    }


def _processor() -> list[str]:
    first = _read("/proc/cpuinfo").partition("\n\n")[0]
    return [line for line in first.splitlines() if line.partition("\t")[0].strip(" :") not in _OF_THE_MOMENT]


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:  # noqa: PTH123
            return file.read(_FIRST)
    except OSError:
        return ""
