"""Say on stderr what is being done and how long it took; a spinner only on a terminal."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.text import Text

from attn_export.process import activity
from attn_export.tools.console import cell


class Progress:
    """Stages with their time. Verbosity: -1 quiet, 0 warnings (and stages on a terminal), 1 stages always."""

    def __init__(self, verbosity: int = 0) -> None:
        self.console = Console(stderr=True, highlight=False)
        self._verbosity = verbosity
        self._shown = verbosity > 0 or (verbosity == 0 and self.console.is_terminal)
        self.seconds: dict[str, float] = {}
        self._detail = ""

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Show ``name`` while the block runs, and its time when it is done."""
        began, self._detail = time.perf_counter(), ""
        with activity.doing(name, who="", model=""):
            if self._shown and self.console.is_terminal:
                with self.console.status(cell(f"{name} …")):
                    yield
            else:
                yield
        self.seconds[name] = time.perf_counter() - began
        if self._shown:
            line = Text.assemble(("✓", "green"), " ", cell(f"{name:<28} {self.seconds[name]:6.1f} s"))
            if self._detail:
                line.append("  ").append_text(Text(cell(self._detail).plain, "dim"))
            self.console.print(line, soft_wrap=True)

    def detail(self, text: str) -> None:
        """Add a word to the running stage's line."""
        self._detail = text
        activity.alive()

    def warn(self, text: str) -> None:
        """Say what the user should know although it is no failure."""
        if self._verbosity >= 0:
            self.console.print(Text.assemble(("warning:", "yellow"), " ", cell(text)), soft_wrap=True)
