"""Many builds in one process: a compiler's worker is loaded once, and what it prints goes beside each build.

    python -m benchmarks.probes.batch WORKER LIST

``LIST`` names a folder a line, each as ``deploy_tests.compiling.child`` lays it out. The first build that takes the
process along leaves no result, and those behind it wait for another process.
"""

from __future__ import annotations

import functools
import importlib
import os
import sys
from pathlib import Path
from typing import Any

from attn_export.deploy_tests.compiling import child


def once(module: Any) -> None:
    """Let a provider be registered again without an error: a worker expects a process of its own."""
    module.register_execution_provider_library = functools.cache(module.register_execution_provider_library)


def main(worker: str, names: Path) -> None:
    """Build in every folder that has no result yet."""
    build = importlib.import_module(worker).build
    import onnxruntime

    once(onnxruntime)
    for line in names.read_text(encoding="utf-8").splitlines():
        folder = Path(line)
        if (folder / child.RESULT).exists() or (folder / child.SAID).exists():
            continue
        said = os.open(folder / child.SAID, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        for stream in (1, 2):
            os.dup2(said, stream)
        os.close(said)
        os.chdir(folder)
        child.work(folder, build)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
