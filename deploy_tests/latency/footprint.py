"""What a model costs before its first answer: cold start, peak memory and file size, in a fresh child process.

A process that has imported PyTorch, or opened the model before, would hide all three: its memory is grown, its
libraries are loaded, the file is in its cache. The peak is the kernel's high-water mark of the child itself (VmHWM):
``ru_maxrss`` of a started process begins at its parent's size on Linux.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from attn_export.bundle import Artifact, Bundle, read, unchanged
from attn_export.deploy_tests.open_bundle import chosen
from attn_export.errors import BackendError
from attn_export.process import activity, children


@dataclass(frozen=True)
class Footprint:
    """Seconds and bytes.

    Attributes:
        import_s: importing the runtime.
        open_s: creating the session, file read and graph optimised.
        first_run_s: the first answer after that.
        peak_bytes: high-water mark of resident memory; None where the system does not say.
        runtime_bytes: the same before the model was opened: interpreter, NumPy and runtime.
        file_bytes: the model's files.
    """

    import_s: float
    open_s: float
    first_run_s: float
    peak_bytes: int | None
    runtime_bytes: int | None
    file_bytes: int

    @property
    def cold_start_s(self) -> float:
        """From nothing loaded to the first answer."""
        return self.import_s + self.open_s + self.first_run_s

    @property
    def model_bytes(self) -> int | None:
        """Memory that the model itself added."""
        if self.peak_bytes is None or self.runtime_bytes is None:
            return None
        return self.peak_bytes - self.runtime_bytes

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self), "cold_start_s": self.cold_start_s, "model_bytes": self.model_bytes}


def measure_footprint(bundle: Bundle, backend: str, *, threads: int = 1) -> Footprint:
    """Open and run the bundle once in a fresh interpreter.

    Raises:
        BackendError: the child broke, such as for want of memory.
    """
    model = chosen(bundle, backend)
    asked = {"bundle": str(bundle.path), "backend": backend, "threads": threads, "artifact": model.name}
    request = json.dumps(asked)
    with activity.doing("measuring its cold start and memory", who=backend, model=model.path):
        done = children.run("attn_export.deploy_tests.latency.footprint", request)
    if done.returncode:
        last = children.ending(done.returncode, done.stderr)
        raise BackendError(f"opening {model.path} on {backend} in a process of its own broke: {last}")
    unchanged(bundle)  # the child has read it by itself
    return Footprint(**json.loads(done.stdout.splitlines()[-1]), file_bytes=file_bytes(model))


def file_bytes(artifact: Artifact) -> int:
    """Add up the sizes of an artifact's files."""
    return sum(file.stat().st_size for file in artifact.files)


def high_water() -> int | None:
    """Read this process's own peak of resident memory in bytes."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        return None
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return None


def _serve(request: dict[str, Any]) -> dict[str, Any]:
    from attn_export.deploy_tests.backends import BACKENDS
    from attn_export.deploy_tests.open_bundle import alone, chosen, opened

    whole = read(Path(request["bundle"]))  # before the mark, so that the cases are not charged to the model
    began = time.perf_counter()
    BACKENDS[request["backend"]].version()
    imported, runtime = time.perf_counter(), high_water()
    named = request["artifact"]
    whole = alone(whole, chosen(whole, request["backend"], named))
    with opened(whole, request["backend"], request["threads"], artifact=named) as (run, _, open_s):
        entered = time.perf_counter()
        run(whole.cases[0].inputs)
        first = time.perf_counter() - entered
    return {
        "import_s": imported - began,
        "open_s": open_s,
        "first_run_s": first,
        "peak_bytes": high_water(),
        "runtime_bytes": runtime,
    }


if __name__ == "__main__":
    print(json.dumps(_serve(json.loads(sys.argv[1]))))  # noqa: T201  # the answer to the parent process
