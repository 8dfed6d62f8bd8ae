"""Run the command line inside the test's process: what it printed and how it ended."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

from attn_export.tools.cli import main


@dataclass(frozen=True)
class Result:
    """Exit code and both streams."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Stdout as the one JSON object that ``--json`` promises."""
        return json.loads(self.out)


def run(*arguments: object) -> Result:
    """Run ``attn-export ARGUMENTS``."""
    out, err = io.StringIO(), io.StringIO()
    code: object = 0
    with (
        patch.object(sys, "argv", ["attn-export", *map(str, arguments)]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as stop:
            code = stop.code or 0
    assert isinstance(code, int)
    return Result(code, out.getvalue(), err.getvalue())
