"""The runtimes a bundle can be proven on: one file or package each, torch-free, imported only when used."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from attn_export.deploy_tests.backend import Backend, Options, Run
from attn_export.errors import AttnExportError, BackendError
from attn_export.process import activity
from attn_export.registry import Registry
from attn_export.types import Feeds

BACKENDS: Registry[Backend] = Registry("attn_export.deploy_tests.backends", "BACKEND", "backend", families=False)
#: The one of the base install: where the pipeline proves and measures, and what commands take unless told otherwise.
DEFAULT = "onnxruntime"


def found(name: str) -> Backend:
    """The backend of that name, imported; a plug-in may do anything while it is.

    Raises:
        UnknownNameError: there is no such backend.
        BackendError: it is a plug-in that cannot be imported.
    """
    with activity.doing("importing the backend", who=name), _blamed(name):
        return BACKENDS[name]


def missing(name: str) -> str | None:
    """What to install or plug in before ``opened`` can work, or None.

    Raises:
        UnknownNameError, BackendError: as ``found``; or it is a plug-in that breaks on the question.
    """
    backend = found(name)
    with activity.doing("asking the backend what it needs", who=name), _blamed(name):
        return backend.missing()


@contextmanager
def _blamed(name: str) -> Iterator[None]:
    """What a plug-in raises is its own failure, whatever it is; our own code is to be mended where it raises."""
    try:
        yield
    except (AttnExportError, KeyboardInterrupt):
        raise
    except (Exception, SystemExit) as error:
        if BACKENDS.entry(name).path:
            raise
        raise BackendError(f"{name} broke while {activity.now().doing}: {type(error).__name__}: {error}") from error


@contextmanager
def opened(name: str, model: Path, options: Options) -> Iterator[Run]:
    """Open ``model`` on a backend, and note whose code runs from here on: a crash in it is then named.

    Raises:
        UnknownNameError: there is no such backend.
        BackendMissingError, BackendError: as the backend's ``open``.
    """
    with activity.doing("opening the model", who=name, model=model):
        backend = found(name)
        with backend.open(model, options) as run, activity.doing("running the model", who=backend.version()):
            yield run if BACKENDS.entry(name).path else _translated(run, name)


def _translated(run: Run, name: str) -> Run:
    """``run`` of a plug-in, whose every failure names it."""

    def translated(feeds: Feeds) -> dict[str, NDArray[Any]]:
        with _blamed(name):
            return run(feeds)

    return translated
