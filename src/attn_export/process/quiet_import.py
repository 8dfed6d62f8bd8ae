"""Import a package without one that it would load: some report home through another as soon as they are imported."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType


def without(name: str, hidden: str) -> ModuleType:
    """Import ``name`` as if ``hidden`` were not installed; what was imported before stays as it is.

    ``hidden`` is there again afterwards, for whoever imports it himself.

    >>> without("json", "no_such_package").__name__
    'json'

    Raises:
        ImportError: ``name`` cannot be imported, or needs ``hidden``.
    """
    if name in sys.modules:
        return importlib.import_module(name)
    before = sys.modules.get(hidden)
    sys.modules[hidden] = None  # type: ignore[assignment]  # what import takes for "is not there"
    try:
        return importlib.import_module(name)
    finally:
        del sys.modules[hidden]
        if before is not None:
            sys.modules[hidden] = before
