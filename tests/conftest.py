"""One thread for every test that may compute with PyTorch: results must not depend on how many cores are free.

What runs on a device is tested where PyTorch is missing too, so nothing here may need it.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

#: How the paths of tests begin that need no PyTorch, and should not pay for importing it.
DEVICE_SIDE = ("deploy_tests", "process", "test_bundle", "test_untrusted")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Set one thread in a process that is to run a test of the host side, where there is a PyTorch to be told."""
    root = Path(__file__).parent
    host = any(not str(item.path.relative_to(root)).startswith(DEVICE_SIDE) for item in items)
    if host and importlib.util.find_spec("torch") is not None:
        import torch

        torch.set_num_threads(1)
