"""Runtimes that the tests of every day do without: `.ci/run` installs them in an environment of their own.

There ``ATTN_EXPORT_EDGE=1`` is set, and a package that is missing is a failure. Elsewhere it skips the test.
"""

from __future__ import annotations

import importlib.util
import os

import pytest


def needs(*packages: str) -> None:
    """Skip the test, or the module that is being imported, where a package is missing; in that environment, fail."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    require(f"{', '.join(missing)} is not installed" if missing else None)


def require(why: str | None) -> None:
    """Skip or fail likewise, where a backend says itself what it lacks; None where it lacks nothing."""
    if why is None:
        return
    if os.environ.get("ATTN_EXPORT_EDGE") == "1":
        pytest.fail(f"ATTN_EXPORT_EDGE=1 promises that nothing is missing: {why}")
    pytest.skip(f"{why}: tested in the second environment of .ci/run", allow_module_level=True)
