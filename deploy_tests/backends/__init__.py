"""The runtimes a bundle can be proven on: one file or package each, torch-free, imported only when used."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from attn_export._shelf import Shelf
from attn_export.deploy_tests.backend import Backend, Options, Run
from attn_export.process import activity

BACKENDS: Shelf[Backend] = Shelf("attn_export.deploy_tests.backends", "BACKEND", "backend", families=False)


@contextmanager
def opened(name: str, model: Path, options: Options) -> Iterator[Run]:
    """Open ``model`` on a backend, and note whose code runs from here on: a crash in it is then named.

    Raises:
        UnknownNameError: there is no such backend.
        BackendMissingError, BackendError: as the backend's ``open``.
    """
    with activity.doing("opening the model", who=name, model=model):
        backend = BACKENDS[name]
        with backend.open(model, options) as run, activity.doing("running the model", who=backend.version()):
            yield run
