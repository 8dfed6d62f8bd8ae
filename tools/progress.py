"""Say on stderr what is being done and how long it took; a spinner only on a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.status import Status
from rich.text import Text

from attn_export.pipeline.progress import Progress
from attn_export.tools.console import cell


class TerminalProgress(Progress):
    """Stages with their time. Verbosity: -1 quiet, 0 warnings (and stages on a terminal), 1 stages always."""

    def __init__(self, verbosity: int = 0) -> None:
        super().__init__()
        self.console = Console(stderr=True, highlight=False)
        self._verbosity = verbosity
        self._status: Status | None = None
        self._name = ""
        self._shown = verbosity > 0 or (verbosity == 0 and self.console.is_terminal)

    @contextmanager
    def shown(self, name: str) -> Iterator[None]:
        """Turn a spinner."""
        if self._shown and self.console.is_terminal:
            with self.console.status(cell(f"{name} …")) as self._status:
                self._name = name
                yield
            self._status = None
        else:
            yield

    def detail(self, text: str) -> None:
        """Show it beside the spinner as well."""
        super().detail(text)
        if self._status is not None:
            self._status.update(cell(f"{self._name} … {text}"))

    def ended(self, name: str, seconds: float, detail: str) -> None:
        """Print a line."""
        if not self._shown:
            return
        line = Text.assemble(("✓", "green"), " ", cell(f"{name:<28} {seconds:6.1f} s"))
        if detail:
            line.append("  ").append_text(Text(cell(detail).plain, "dim"))
        self.console.print(line, soft_wrap=True)

    def warn(self, text: str) -> None:
        """Print a warning."""
        super().warn(text)
        if self._verbosity >= 0:
            self.console.print(Text.assemble(("warning:", "yellow"), " ", cell(text)), soft_wrap=True)
