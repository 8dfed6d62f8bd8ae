"""Which version of the format a file is of; only the present one is read."""

from __future__ import annotations

from collections.abc import Mapping

from attn_export import __version__
from attn_export.bundle.format import SCHEMA_VERSION

KEY = "schema_version"


def refused(plain: object) -> str:
    """Why a manifest or report is of no version that is read here, to follow its name; empty where it is.

    Versions 1 and 2 called the same field ``schema``, and reports had none: those were never released.

    >>> refused({"schema_version": SCHEMA_VERSION}), refused({"schema": 1})[:31]
    ('', 'is of schema version 1, and att')
    """
    found = plain if isinstance(plain, Mapping) else {}
    version = found.get(KEY, found.get("schema"))
    if KEY in found and type(version) is int and version == SCHEMA_VERSION:
        return ""
    which = f"is of schema version {version}" if type(version) is int else "names no schema version"
    return f"{which}, and attn-export {__version__} reads version {SCHEMA_VERSION}; export it again"
