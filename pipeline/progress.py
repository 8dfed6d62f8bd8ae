"""What a long job says while it runs. This one is silent; who wants to see it, or to log it, overrides ``ended``."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from attn_export.process import activity


class Progress:
    """The stages of a job with their time, in seconds of the wall clock and of the processor."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.processor: dict[str, float] = {}
        #: What was warned of, said or not.
        self.warned: list[str] = []
        self._detail = ""

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Note what is being done while the block runs, and its time when it is done."""
        began, computed, self._detail = time.perf_counter(), time.process_time(), ""
        with activity.doing(name, who="", model=""), self.shown(name):
            yield
        self.seconds[name] = time.perf_counter() - began
        self.processor[name] = time.process_time() - computed
        self.ended(name, self.seconds[name], self._detail)

    def detail(self, text: str) -> None:
        """Add a word to the running stage's line."""
        self._detail = text
        activity.alive()

    @contextmanager
    def shown(self, name: str) -> Iterator[None]:  # noqa: ARG002  # for those who override it
        """Show that a stage is running."""
        yield

    def ended(self, name: str, seconds: float, detail: str) -> None:
        """Show that a stage has ended well."""

    def warn(self, text: str) -> None:
        """Say what the user should know although it is no failure."""
        self.warned.append(text)
