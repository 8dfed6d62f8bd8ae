"""What the stages made, in the cache: where only injected faults, measurements or the like change, they are not run."""

from __future__ import annotations

import tempfile
from pathlib import Path

from attn_export.cache import store
from attn_export.cache.store import DamagedError, GoneError
from attn_export.pipeline import built
from attn_export.pipeline.built import Built
from attn_export.process import activity
from attn_export.tools.commands.kept import Job

_STATE = "state.json"


class Stages:
    """The shelf of one run of the main job.

    Attributes:
        since: when what was taken had been put there, in seconds since 1970; None where nothing was taken.
    """

    def __init__(self, job: Job, command: tuple[str, ...]) -> None:
        self.since: float | None = None
        self._job, self._command = job, command

    def take(self) -> Built | None:
        """Give what an earlier run has put there; None where there is nothing."""
        entry = self._job.found(self._job.stages_key)
        if entry is None:
            return None
        try:
            with activity.doing("taking what the stages made from the cache"):
                found = built.read(
                    store.content(entry, _STATE).decode("utf-8"), lambda name: store.content(entry, name)
                )
        except GoneError:
            return None
        except (DamagedError, ValueError, TypeError, KeyError, AttributeError, ImportError) as error:
            self._job.damaged(entry, f"{type(error).__name__}: {error}")
            return None
        store.used(entry)
        self.since = entry.created
        return found

    def put(self, made: Built) -> None:
        """Keep it for a later run, where that can be done."""
        with activity.doing("putting what the stages made into the cache"), tempfile.TemporaryDirectory() as folder:
            content: dict[str, Path] = {}

            def keep(piece: bytes) -> str:
                name = built.named(piece)
                if name not in content:
                    content[name] = Path(folder, name)
                    content[name].write_bytes(piece)
                return name

            try:
                written = built.write(made, keep)
                content[_STATE] = Path(folder, _STATE)
                content[_STATE].write_text(written, encoding="ascii")
            except (TypeError, ValueError, OSError):  # a kind of value that nobody has foreseen, or no room
                return
            self._job.put(self._job.stages_key, content, {"command": list(self._command), "stages": True})
