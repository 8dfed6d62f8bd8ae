"""What must not run beside each other on a machine, whoever started it: a measurement stands alone.

The locks are the kernel's (``flock``), so they end with the process that holds them. A scheduler counts what a worker
offers; two workers on one machine, or two sweeps, are seen by these alone.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

#: Not where TMPDIR points: every process of a user must find the same files.
PLACE = Path("/tmp")  # noqa: S108  # opened without following links, and nothing is read from it


@contextlib.contextmanager
def machine(*, alone: bool) -> Iterator[None]:
    """Hold this machine while the block runs: together with others, or alone.

    Who waits to be alone keeps later ones from entering, so that a measurement is not starved by builds.
    """
    with contextlib.ExitStack() as held:
        with _lock("gate", shared=False):
            held.enter_context(_lock("machine", shared=not alone))
        yield


@contextlib.contextmanager
def device(address: str) -> Iterator[None]:
    """Hold a device that is reached from here while the block runs."""
    with _lock(hashlib.sha256(address.encode()).hexdigest()[:16], shared=False):
        yield


@contextlib.contextmanager
def _lock(name: str, *, shared: bool) -> Iterator[None]:
    try:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(PLACE / f"attn-export-{os.getuid()}-{name}.lock", flags, 0o600)
    except OSError:  # nowhere to put it: the scheduler's count is all there is
        yield
        return
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
