"""What every backend shares that compiles here and runs nothing: a build is no run, and a simulator no device."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import ClassVar

from attn_export.deploy_tests.backend import Options, Run
from attn_export.errors import BackendMissingError


class CompileOnly:
    """The half of a backend that would run.

    Attributes:
        absent: why nothing runs here, and the way out.
    """

    absent: ClassVar[str]

    def missing(self) -> str | None:
        """Say that it runs nothing here."""
        return self.absent

    def open(self, model: Path, options: Options) -> AbstractContextManager[Run]:  # noqa: ARG002  # the protocol's
        """Refuse.

        Raises:
            BackendMissingError: always.
        """
        raise BackendMissingError(f"{model} cannot run: {self.absent}")
