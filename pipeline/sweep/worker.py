"""A worker of the sweep: jobs come as lines of JSON on standard input, and each is answered with one.

What a job prints, from whatever language, goes to the log of that job; a crash leaves its trace there.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from attn_export import bundle
from attn_export.errors import AttnExportError
from attn_export.mechanisms import MECHANISMS
from attn_export.pipeline.progress import Progress

Answered = tuple[str, str, dict[str, Any] | None]


def serve(run: Callable[[dict[str, Any]], Answered]) -> None:
    """Take jobs until the parent ends; ``log`` names the file for what a job prints."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        for line in sys.stdin:
            job = json.loads(line)
            try:
                with _logged(Path(job["log"])):
                    answer = run(job)
            except OSError as error:
                answer = "WriteError", f"cannot write {job['log']}: {error.strerror or error}", None
            answers.write(json.dumps(answer) + "\n")
            answers.flush()


@contextlib.contextmanager
def _logged(path: Path) -> Iterator[None]:
    """Send both streams of this process to a file, those of compiled code as well."""
    with path.open("w", encoding="utf-8") as log:
        faulthandler.enable(log)
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            faulthandler.disable()


class _Log(Progress):
    """A line a stage and a line a warning, into the log."""

    def ended(self, name: str, seconds: float, detail: str) -> None:
        """Write a line."""
        sys.stderr.write(f"{name:<28} {seconds:6.1f} s  {detail}\n")

    def warn(self, text: str) -> None:
        """Write a warning."""
        sys.stderr.write(f"warning: {text}\n")


def run(job: dict[str, Any]) -> Answered:
    """Run one job in this process; whatever happens is an answer: its status, a sentence, and the result."""
    try:
        import torch

        from attn_export.export.sources.catalogue import from_spec
        from attn_export.pipeline import deploy, portability
        from attn_export.pipeline.options import BuildOptions, DeployOptions

        torch.set_num_threads(1)
        target = Path(job["target"])
        subject = from_spec(job["name"], MECHANISMS[job["name"]], job["preset"])
        options = DeployOptions(
            output=target,
            build=BuildOptions(fuse=job["fuse"], fp16=job["precision"] == "float16", to=tuple(job["to"])),
            bench=job["bench"],
            mutants=job["mutants"],
            command=("sweep", job["label"]),
        )
        outcome = deploy.deploy(subject, options, _Log())
        portability.gate(subject, bundle.read(target).model)
        return "passed", outcome.stages[-1].parity.summary(), outcome.to_dict()
    except AttnExportError as error:
        return type(error).__name__, str(error), None
    except Exception as error:  # a defect of ours: told like any other failure, with its trace in the log
        traceback.print_exc()
        return "crashed", f"{type(error).__name__}: {error}", None


if __name__ == "__main__":
    serve(run)
