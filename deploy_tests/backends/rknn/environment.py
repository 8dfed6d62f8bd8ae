"""The environment that rknn-toolkit2 lives in: its pins are of 2024, and nothing of ours bears them.

$XDG_CACHE_HOME/attn-export/environments/rknn-2.5.0-py3.11/{bin/python, complete}
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

from attn_export.errors import BackendError
from attn_export.process import activity, children

VERSION = "2.5.0"
#: Written last: an environment without it is a half one.
COMPLETE = "complete"
#: The whole environment. It is installed without looking at what the packages ask for: rknn-toolkit2 asks for
#: protobuf <= 4.25.4 and torch <= 2.4 and works with these (tried), and needs setuptools for its ``pkg_resources``.
PINS = (
    f"rknn-toolkit2=={VERSION}",
    "coloredlogs==15.0.1",
    "fast-histogram==0.14",
    "filelock==4.3.1",
    "flatbuffers==25.12.19",
    "fsspec==2026.9.0",
    "humanfriendly==10.0",
    "jinja2==3.1.6",
    "markupsafe==3.0.4",
    "mpmath==1.3.0",
    "networkx==3.6.1",
    "numpy==1.26.4",
    "onnx==1.18.0",
    "onnxruntime==1.23.2",
    "opencv-python-headless==4.11.0.86",
    "packaging==26.4",
    "protobuf==4.25.8",
    "psutil==7.2.2",
    "ruamel.yaml==0.19.1",
    "scipy==1.15.3",
    "setuptools==79.0.1",
    "sympy==1.14.0",
    "tqdm==4.70.1",
    "typing-extensions==4.16.0",
)
#: By itself, since PyPI's brings CUDA: this index has the one for CPUs, and is asked for nothing else.
TORCH, TORCH_INDEX = "torch==2.13.0", "https://download.pytorch.org/whl/cpu"
SIZE = "about 1.5 GB"
#: Seconds that one call of pip may take.
LIMIT = 3600.0


def folder() -> Path:
    """Where the environment lies, or would lie."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    return Path(base).expanduser() / "attn-export" / "environments" / f"rknn-{VERSION}-py{version}"


def python() -> Path | None:
    """Give the interpreter of the environment; None where there is none, or half of one."""
    place = folder()
    return place / "bin" / "python" if (place / COMPLETE).is_file() else None


def unsupported() -> str | None:
    """Say why there is no rknn-toolkit2 for this Python, or None."""
    if sys.version_info[:2] not in ((3, 11), (3, 12)) or sysconfig.get_platform() != "linux-x86_64":
        here = f"Python {sys.version_info.major}.{sys.version_info.minor} on {sysconfig.get_platform()}"
        return f"rknn-toolkit2 {VERSION} and its pins are for Python 3.11 and 3.12 on linux-x86_64, and this is {here}"
    return None


def plan() -> str:
    """Say what ``make`` installs, and where."""
    return f"{SIZE} in {folder()} by pip, under their makers' licences: {', '.join((*PINS, TORCH))}"


def make() -> None:
    """Make the environment anew, whole or not at all.

    Raises:
        BackendError: pip, or venv, failed or did not end.
    """
    if why := unsupported():
        raise BackendError(why)
    place = folder()
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=f".{place.name}-", suffix=".partial", dir=place.parent))
    except OSError as error:
        raise BackendError(f"cannot make {place}: {error.strerror}; set XDG_CACHE_HOME to a folder that can") from error
    try:
        with activity.partial(made):
            _do("venv", str(made))
            inside = made / "bin" / "python"
            pip = ("pip", "install", "--quiet", "--no-input", "--disable-pip-version-check", "--no-deps")
            _do(*pip, *PINS, inside=inside)
            _do(*pip, "--retries", "1", "--extra-index-url", TORCH_INDEX, TORCH, inside=inside)
            (made / COMPLETE).write_text("\n".join((*PINS, TORCH)), encoding="utf-8")
            shutil.rmtree(place, ignore_errors=True)
            made.rename(place)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _do(module: str, *words: str, inside: Path | None = None) -> None:
    """Run a module of Python to its end, in the environment or in this one.

    Raises:
        BackendError: it failed, or did not end.
    """
    until = time.monotonic() + LIMIT
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as said:
        process = children.start(
            module, *words, python=inside, stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True
        )
        while process.poll() is None:
            activity.alive()  # it has a limit of its own
            try:
                process.wait(timeout=1.0)
            except subprocess.TimeoutExpired:
                if time.monotonic() > until:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
                    raise BackendError(f"python -m {module} did not end within {LIMIT:g} s") from None
        said.seek(0)
        if process.returncode:
            lines = [line.strip() for line in said.read().splitlines() if line.strip()] or ["no reason was given"]
            wrong = [line for line in lines if line.startswith("ERROR")] or lines[-1:]
            raise BackendError(f"python -m {module} failed, and nothing was installed: {'; '.join(wrong)[:600]}")
