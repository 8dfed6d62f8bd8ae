"""What every backend shares that compiles here and runs nothing: a build is no run, and a simulator no device."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import ClassVar

from attn_export.deploy_tests.backend import CompileOptions, Options, Run
from attn_export.deploy_tests.refusal import Complaint, RefusedError
from attn_export.errors import BackendMissingError


def refuse_without_ranges(who: str, model: Path, options: CompileOptions) -> None:
    """Refuse int8 where no inputs tell how far tensors reach.

    Raises:
        RefusedError: there are none.
    """
    if not options.calibration:
        complaint = Complaint("", "", "there are no inputs of the fixed sizes to take ranges from")
        raise RefusedError(f"{who} cannot bring {model} to int8", "start", [complaint])


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
