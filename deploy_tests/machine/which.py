"""Which machine this is, for figures that are kept: those of two machines are never compared."""

from __future__ import annotations

import hashlib
import hmac
import os
import platform
from pathlib import Path

from attn_export.deploy_tests.machine.emulated import emulated
from attn_export.deploy_tests.machine.environment import processor
from attn_export.deploy_tests.store.record import Machine

#: A name that the user gives, for machines that are made anew for each run and for those that share an image.
VARIABLE = "ATTN_EXPORT_MACHINE"
_LONGEST = 200


def this_machine(*, root: Path = Path("/")) -> Machine:
    """Describe this machine; ``root`` is this system's unless given.

    Its id comes from that of the system, hashed with a key of ours: nobody can tell the system's from it.
    """
    named = os.environ.get(VARIABLE, "")[:_LONGEST]
    name = named or platform.node() or "unnamed"
    secret = f"named {named}" if named else _read(root / "etc/machine-id") or f"host {name}"
    digest = hmac.new(b"attn-export store", secret.encode("utf-8", "surrogateescape"), hashlib.sha256)
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Machine(digest.hexdigest()[:16], name, processor(), usable, emulated() or "")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()[:_LONGEST]
    except OSError:
        return ""
