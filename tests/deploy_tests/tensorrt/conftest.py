"""What these tests need beyond the base: TensorRT for RTX, which builds without a GPU."""

from __future__ import annotations

import os

import pytest

from attn_export.deploy_tests.backends.tensorrt import evidence


@pytest.fixture(scope="session")
def rtx() -> None:
    """Require TensorRT for RTX; in CI its absence is a failure."""
    if why := evidence.missing():
        (pytest.fail if os.environ.get("CI") else pytest.skip)(why)
