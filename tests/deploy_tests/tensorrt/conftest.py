"""What these tests need beyond the base: TensorRT for RTX, which builds without a GPU."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from attn_export.deploy_tests.backends.tensorrt import evidence


@pytest.fixture(scope="session")
def rtx() -> None:
    """Require TensorRT for RTX; in CI its absence is a failure."""
    if why := evidence.missing():
        (pytest.fail if os.environ.get("CI") else pytest.skip)(why)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test reads or writes the user's engines."""
    folder = tmp_path_factory.mktemp("engines")
    monkeypatch.setenv("ATTN_EXPORT_CACHE", str(folder))
    return folder
