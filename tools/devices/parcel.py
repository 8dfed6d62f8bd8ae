"""What is brought to a device: files under a name that is made of what is in them, so that it is brought once."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import os
import tarfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from attn_export import bundle
from attn_export.bundle import Bundle

#: A file that is the last of a parcel: tar takes a stream that ends between two files for a whole one.
LAST = ".whole"
#: What a run leaves in a tree of packages, and no part of it.
_LEFT = ("__pycache__", ".bytecode")
#: Bytes that are read at a time.
_BLOCK = 1 << 18


@dataclass(frozen=True)
class Parcel:
    """Files for a device.

    Attributes:
        kind: the folder there that holds all of this kind.
        key: the name of this one: a hash of its content.
        files: by name, where each lies here; sorted.
        packed: whether it is worth compressing.
        title: what it is, in words.
    """

    kind: str
    key: str
    files: tuple[tuple[str, Path], ...]
    packed: bool
    title: str

    @property
    def size(self) -> int:
        """Bytes that it takes there."""
        return sum(path.stat().st_size for _, path in self.files)

    @property
    def place(self) -> str:
        """Where it lies, below our folder there."""
        return f"{self.kind}/{self.key}"

    def write(self, stream: IO[bytes], sent: Callable[[int], None]) -> None:
        """Write it as a tape archive; ``sent`` is told the bytes of content so far."""
        if self.packed:
            with gzip.GzipFile(fileobj=stream, mode="wb", compresslevel=1, mtime=0) as pipe:
                self._write(pipe, sent)
        else:
            self._write(stream, sent)

    def _write(self, stream: IO[bytes] | gzip.GzipFile, sent: Callable[[int], None]) -> None:
        done = 0
        with tarfile.open(mode="w|", fileobj=stream, format=tarfile.PAX_FORMAT, bufsize=_BLOCK) as archive:
            for name, path in self.files:
                with path.open("rb") as file:
                    entry = tarfile.TarInfo(name)
                    found = os.fstat(file.fileno())
                    entry.size, entry.mode = found.st_size, 0o755 if found.st_mode & 0o100 else 0o644
                    archive.addfile(entry, file)
                done += entry.size
                sent(done)
            archive.addfile(tarfile.TarInfo(LAST), io.BytesIO())


def of_bundle(whole: Bundle, scratch: Path) -> Parcel:
    """Pack a bundle as a device needs it: models, cases and a manifest of just these.

    Report, page, original and signature stay here. So its name there does not change as runs are added to the report,
    and what is signed was checked here. The manifest is written below ``scratch``.
    """
    left = {bundle.REPORT, bundle.PAGE, whole.manifest.get("original")}
    names = sorted(name for name in whole.manifest["files"] if name not in left)
    hashes = {name: whole.manifest["files"][name] for name in names}
    scratch.mkdir(parents=True)
    manifest = scratch / bundle.MANIFEST
    bundle.write_json(manifest, {**whole.manifest, "files": hashes, "original": None})
    files = ((bundle.MANIFEST, manifest), *((name, whole.path / name) for name in names))
    key = hashlib.sha256(manifest.read_bytes()).hexdigest()
    return Parcel("bundle", key, files, packed=False, title=f"the bundle {whole.path.name}")


def of_file(path: Path) -> Parcel:
    """Pack one file, such as a report to compare with."""
    key = hashlib.sha256(path.read_bytes()).hexdigest()
    return Parcel("bundle", key, (("report.json", path),), packed=False, title=path.name)


def of_tree(folder: Path, title: str) -> Parcel:
    """Pack a folder of packages that does not change any more."""
    return Parcel("env", _content(folder), tuple(_files(folder)), packed=True, title=title)


def _files(folder: Path) -> Iterable[tuple[str, Path]]:
    for at, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name not in _LEFT)
        for name in sorted(names):
            path = Path(at, name)
            if not name.endswith(".pyc"):
                yield path.relative_to(folder).as_posix(), path


def _content(folder: Path) -> str:
    """Name a tree by its files and what is in them; it is remembered beside it, since a tree of packages is large."""
    kept = folder.with_name(f"{folder.name}.sha256")
    try:
        known, stamp = kept.read_text(encoding="ascii").split()
        if len(known) == 64 and stamp == _stamp(folder):
            return known
    except (OSError, ValueError):
        pass
    total = hashlib.sha256()
    for name, path in _files(folder):
        total.update(f"{name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode("utf-8", "surrogateescape"))
    with contextlib.suppress(OSError):  # a cache that others fill for us may be read-only
        kept.write_text(f"{total.hexdigest()} {_stamp(folder)}", encoding="ascii")
    return total.hexdigest()


def _stamp(folder: Path) -> str:
    """Tell one making of a folder from another; it is renamed to its place, so that its number is its own."""
    found = folder.stat()
    return f"{found.st_dev}-{found.st_ino}"
