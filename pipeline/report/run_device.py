"""Which device a run of a report is of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: Where the environment of a run says which device it was; a run of the machine that wrote the bundle has it not.
DEVICE = "device"


def host(run: Mapping[str, Any]) -> str:
    """Name the device that a run is of; empty where it was the machine that wrote the bundle.

    >>> host({"environment": {"device": {"host": "board"}}}), host({})
    ('board', '')
    """
    known = run.get("environment", {}).get(DEVICE)
    return str(known.get("host", "")) if isinstance(known, Mapping) else ""
