"""The process a build runs in: a crash, a hang or 10 GB of memory end here and not in the caller.

    python -m attn_export.deploy_tests.backends.tensorrt.worker FOLDER

``FOLDER/request.json`` says what to build; ``log.jsonl`` grows as TensorRT speaks; in the end there is ``engine`` and
``result.json``, or ``result.json`` with the refusal.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from attn_export.deploy_tests.backends.tensorrt import bindings, cuda, request
from attn_export.deploy_tests.backends.tensorrt.build import build
from attn_export.deploy_tests.refusal import RefusedError

REQUEST, LOG, ENGINE, RESULT = "request.json", "log.jsonl", "engine", "result.json"


def main(folder: Path) -> None:
    """Build what ``folder`` asks for and leave the outcome there."""
    wanted = request.loads((folder / REQUEST).read_text(encoding="utf-8"))
    start = time.monotonic()
    with (folder / LOG).open("w", encoding="utf-8", buffering=1) as log:

        def sink(severity: str, message: str) -> None:
            log.write(json.dumps([severity, message]) + "\n")

        try:
            if wanted.device and (runtime := cuda.load()):
                runtime.select(wanted.device)
            plan = build(wanted, sink)
        except RefusedError as refusal:
            _leave(folder, {"ok": False, **refusal.to_dict()})
            return
    (folder / ENGINE).write_bytes(plan)
    _leave(folder, {"ok": True, "version": bindings.version(wanted.maker), "seconds": time.monotonic() - start})


def _leave(folder: Path, result: dict[str, Any]) -> None:
    partial = folder / (RESULT + ".partial")
    partial.write_text(json.dumps(result), encoding="utf-8")
    partial.rename(folder / RESULT)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
