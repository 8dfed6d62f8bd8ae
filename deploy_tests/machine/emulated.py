"""Whether this processor is emulated. Arithmetic can be proven on one; its times are the emulator's, and say nothing.

An emulator of programs (qemu-user) answers ``uname`` and ``/proc/self/exe`` as the machine that it plays would. The
kernel below is the real one, and it says two things that no emulator in use puts right: what it was built for, and
what it really runs in this process. Whoever starts the emulator on purpose says so as well, for where /proc is masked.
"""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

from attn_export.errors import InconclusiveError

#: By what this process is emulated, set by whoever starts it so.
VARIABLE = "ATTN_EXPORT_EMULATED"
#: Names of one family of processors, which a kernel runs without emulation: 32-bit programs on a 64-bit one.
_FAMILIES = {"x86": re.compile(r"x86_64|amd64|i\d86"), "arm": re.compile(r"aarch64(_be)?|arm.*")}


def emulated(*, root: Path = Path("/"), machine: str | None = None) -> str | None:
    """Say by what this processor is emulated, or None; ``root`` and ``machine`` are this system's unless given."""
    if said := os.environ.get(VARIABLE):
        return said
    machine = machine or platform.machine()
    kernel = _read(root / "proc/sys/kernel/arch")
    # One task's link is as the kernel gives it; that of the process is what emulators replace.
    runs, claims = _target(root / "proc/thread-self/exe"), _target(root / "proc/self/exe")
    by = f" by {Path(runs).name}" if runs and claims and runs != claims else ""
    if kernel and _family(kernel) != _family(machine):
        return f"{machine} on {kernel}{by}"
    return f"{machine}{by}" if by else None


def refuse_to_measure() -> None:
    """Refuse to take a time where the processor is emulated.

    Raises:
        InconclusiveError: it is.
    """
    if what := emulated():
        raise InconclusiveError(
            f"no time is measured on an emulated processor ({what}): it would be the emulator's; measure on the device"
            " itself. Here `attn-export verify` holds, and the main job with --no-bench"
        )


def _family(machine: str) -> str:
    return next((name for name, pattern in _FAMILIES.items() if pattern.fullmatch(machine)), machine)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _target(link: Path) -> str:
    try:
        return os.readlink(link)  # noqa: PTH115  # nothing of it is to be normalised
    except OSError:
        return ""
