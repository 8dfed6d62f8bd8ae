"""One thread for every test that may compute with PyTorch: results must not depend on how many cores are free.

What runs on a device is tested where PyTorch is missing too, so nothing here may need it.
"""

from __future__ import annotations

import contextlib
import gc
import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

from attn_export import bundle
from attn_export.bundle import writer
from attn_export.cache import place
from attn_export.tools import entry
from tests.pipeline.schema import folder_faults

#: How the paths of tests begin that need no PyTorch, and should not pay for importing it.
DEVICE_SIDE = ("cache", "deploy_tests", "process", "test_bundle", "test_untrusted")


@pytest.hookimpl(tryfirst=True)  # before ``-m`` chooses by marker
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs TensorRT for RTX; set one thread for the host side, where there is a PyTorch to be told."""
    for item in items:
        if "rtx" in getattr(item, "fixturenames", ()):
            item.add_marker("rtx")
    root = Path(__file__).parent
    host = any(not str(item.path.relative_to(root)).startswith(DEVICE_SIDE) for item in items)
    if host and importlib.util.find_spec("torch") is not None:
        import torch

        torch.set_num_threads(1)


def pytest_collection_finish() -> None:
    """Leave what was imported to collect the tests out of every later search for circles, as the program does."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*entry.COLLECTED)


@pytest.fixture(scope="session", autouse=True)
def nothing_is_taken_from_a_cache() -> Iterator[None]:
    """Let every run of a test do its work; those of the cache have one of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(place.FOLDER, place.OFF)
        yield


@pytest.fixture(scope="session", autouse=True)
def every_bundle_keeps_its_schema() -> Iterator[None]:
    """Hold both files of every bundle that a test finishes against the schemas, before it is put into its place."""
    written = writer.writing

    @contextlib.contextmanager
    def checked(target: Path) -> Iterator[Path]:
        with written(target) as folder:
            yield folder
            assert not folder_faults(folder), folder_faults(folder)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer, "writing", checked)
        patch.setattr(bundle, "writing", checked)
        yield
