"""The box that an attempt runs in: folders of its own, and, where this user may, nothing else that can be written to.

    BOX/work        the working folder, with the input in it
    BOX/keep        what must be there afterwards: a thesis, a repository, a bundle of last year
    BOX/home        HOME
    BOX/tmp         TMPDIR

As root on Linux the process that enters a box gets a mount namespace: BOX is a small disk in memory and everything
else can only be read, so that an attempt that does harm does it to nobody.
"""

from __future__ import annotations

import ctypes
import fnmatch
import os
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path

from benchmarks.attack.mutate import MARKER

_NEWNS = 0x20000
READ_ONLY, _NOSUID, _NOEXEC, REMOUNT, BIND, _REC, _PRIVATE = 1, 2, 8, 32, 4096, 16384, 1 << 18
#: Bytes of the disk.
SIZE = "1g"
_DETACH = 2
KEEP = {
    "thesis.tex": b"years of work",
    "repository/.git/config": b"[core]",
    "app/manifest.json": b'{"name": "a web app"}',
}

Snapshot = dict[str, tuple[int, ...]]


def mount(source: str, target: Path, kind: str | None, flags: int, data: str | None = None) -> None:
    """``mount(2)``.

    Raises:
        OSError: it was refused.
    """
    call = ctypes.CDLL(None, use_errno=True).mount
    words = [os.fsencode(word) if word is not None else None for word in (source, str(target), kind)]
    if call(*words, ctypes.c_ulong(flags), data.encode() if data else None):
        number = ctypes.get_errno()
        raise OSError(number, f"mount {target}: {os.strerror(number)}")


def unmount_below(folder: Path) -> None:
    """Take away whatever is mounted in a folder, so that it can be removed."""
    lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    places = [line.split()[4].encode().decode("unicode_escape") for line in lines]
    for place in reversed(places):
        if Path(place).is_relative_to(folder):
            ctypes.CDLL(None, use_errno=True).umount2(os.fsencode(place), _DETACH)


def private_mounts() -> None:
    """Give this process mounts of its own, that nobody else sees.

    Raises:
        OSError: it may not.
    """
    if ctypes.CDLL(None, use_errno=True).unshare(_NEWNS):
        number = ctypes.get_errno()
        raise OSError(number, f"unshare: {os.strerror(number)}")
    mount("none", Path("/"), None, _REC | _PRIVATE)


@dataclass(frozen=True)
class Box:
    """The folders of one worker."""

    root: Path

    @property
    def work(self) -> Path:
        """The working folder."""
        return self.root / "work"

    @property
    def keep(self) -> Path:
        """What no attempt may touch."""
        return self.root / "keep"

    @property
    def home(self) -> Path:
        """HOME."""
        return self.root / "home"

    @property
    def tmp(self) -> Path:
        """TMPDIR."""
        return self.root / "tmp"

    def enter(self) -> bool:
        """Shut this process in, as far as it may; whether everything else is read-only now."""
        self.root.mkdir(parents=True, exist_ok=True)
        try:
            private_mounts()
            mount("tmpfs", self.root, "tmpfs", _NOSUID, f"size={SIZE}")
            self._seal()
        except OSError:
            return False
        return True

    def _seal(self) -> None:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
        for line in lines:
            place = line.split()[4].encode().decode("unicode_escape")
            if place != str(self.root) and not place.startswith(("/proc", "/sys")):
                flags = sum(
                    bit
                    for word, bit in (("nosuid", _NOSUID), ("noexec", _NOEXEC), ("nodev", 4), ("noatime", 1024))
                    if word in line.split()[5].split(",")
                )
                mount("none", Path(place), None, REMOUNT | BIND | READ_ONLY | flags)

    def fresh(self) -> None:
        """Empty everything but what is kept, which is put back where it was touched."""
        for folder in (self.work, self.home, self.tmp):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        for name, content in KEEP.items():
            file = self.keep / name
            if not file.is_file() or file.read_bytes() != content:
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(content)

    def look(self) -> Snapshot:
        """Kind, size, time and number of everything in the box."""
        found: Snapshot = {}
        waiting = [str(self.root)]
        while waiting:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    seen = entry.stat(follow_symlinks=False)
                    folder = stat.S_ISDIR(seen.st_mode)
                    if folder:
                        waiting.append(entry.path)
                    size, time = (0, 0) if folder else (seen.st_size, seen.st_mtime_ns)
                    found[os.path.relpath(entry.path, self.root)] = (seen.st_mode, size, time, seen.st_ino)
        return found

    def harm(self, before: Snapshot, writes: tuple[str, ...]) -> list[tuple[str, str]]:
        """Name what is not as it was: flaws with the files they are about.

        ``writes`` are patterns of names in the working folder that may appear or change.
        """
        after = self.look()
        found = [("executed", name) for name in after if MARKER in name and name not in before]
        for name in sorted(before.keys() | after.keys()):
            if before.get(name) == after.get(name) or MARKER in name:
                continue
            top, _, rest = name.partition("/")
            if top == "work" and any(fnmatch.fnmatch(rest, pattern) for pattern in writes) and not _stray(rest):
                continue
            found.append(("left" if name not in before else "lost", name))
        return found


def _stray(name: str) -> bool:
    """Whether a name is one that only a run that has not ended should have."""
    return ".partial" in name or "attn-export-" in name or name.startswith("tmp")
