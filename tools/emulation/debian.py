"""Packages of Debian, of any architecture, unpacked into a folder: downloaded and checked by apt, installed nowhere."""

from __future__ import annotations

import getpass
import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from attn_export.errors import BackendMissingError
from attn_export.tools.emulation import foreign

#: The emulator of Debian 12 (7.2) crashes in current runtimes; this release has 10.0.
SUITE = "trixie"
MIRROR = "http://deb.debian.org/debian"
KEYS = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
#: A line of ``apt-get download --print-uris``: address, name, bytes, hash.
_LINE = re.compile(r"^'\S+' \S+ (\d+) \S+$", re.MULTILINE)


@dataclass(frozen=True)
class Tree:
    """What is unpacked together.

    Attributes:
        kind: what the folder is called.
        title: what it is, in words.
        architecture: in Debian's words.
        packages: all that is needed; dependencies are not followed.
        megabytes: what their download takes, the lists of packages included, as it was when this was written.
    """

    kind: str
    title: str
    architecture: str
    packages: tuple[str, ...]
    megabytes: int

    @property
    def asked(self) -> tuple[str, ...]:
        """What names the folder."""
        return (SUITE, self.architecture, *self.packages)


def missing() -> str | None:
    """Say what this system lacks for unpacking packages of Debian, or None."""
    if lacking := [name for name in ("apt-get", "dpkg-deb") if shutil.which(name) is None]:
        return f"it needs {' and '.join(lacking)}, as Debian and Ubuntu have them"
    if not KEYS.is_file():
        return f"it needs the keys of Debian's archive at {KEYS}: apt install debian-archive-keyring"
    return None


def mirror() -> str:
    """Name the mirror of Debian that apt uses here; the general one on other systems."""
    known = foreign.run(
        "apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", what="ask apt for its mirror"
    )
    return next((line.rstrip("/") for line in known.splitlines() if line.endswith("/debian/")), MIRROR)


def unpack(tree: Tree, into: Path, say: Callable[[str], None]) -> None:
    """Download the packages of ``tree`` and unpack them to ``into``; ``say`` is told how much that is.

    Raises:
        BackendMissingError: a program is missing, or the mirror cannot be reached.
    """
    if why := missing():
        raise BackendMissingError(why)
    with tempfile.TemporaryDirectory() as name:
        state = Path(name)
        for folder in ("lists/partial", "archives/partial", "got"):
            (state / folder).mkdir(parents=True)
        (state / "status").touch()
        (state / "sources.list").write_text(f"deb [signed-by={KEYS}] {mirror()} {SUITE} main\n", encoding="ascii")
        what = f"get packages of Debian {SUITE} for {tree.architecture}"

        def apt(*words: str) -> str:
            return foreign.run("apt-get", *_options(tree, state), *words, what=what, cwd=state / "got")

        apt("update")
        sizes = _LINE.findall(apt("download", "--print-uris", *tree.packages))
        say(f"{len(sizes)} package(s), {sum(map(int, sizes)) / 1e6:.1f} MB")
        apt("download", *tree.packages)
        for package in sorted((state / "got").glob("*.deb")):
            foreign.run("dpkg-deb", "-x", str(package), str(into), what=f"unpack {package.name}")
        (into / "packages.txt").write_text(
            "".join(f"{package.name}\n" for package in sorted((state / "got").glob("*.deb"))), encoding="utf-8"
        )


def _options(tree: Tree, state: Path) -> list[str]:
    """Options that give apt a state of its own, so that it reads and writes nothing of this system's."""
    options = {
        "APT::Architecture": tree.architecture,
        "APT::Architectures": tree.architecture,
        "APT::Sandbox::User": getpass.getuser(),
        "APT::Update::Error-Mode": "any",
        "Acquire::GzipIndexes": "true",
        "Acquire::Languages": "none",
        "Acquire::Retries": "2",
        "Acquire::http::Timeout": "60",
        "Dir::Cache": str(state),
        "Dir::Cache::archives": str(state / "archives"),
        "Dir::Cache::pkgcache": "",
        "Dir::Cache::srcpkgcache": "",
        "Dir::Etc::sourcelist": str(state / "sources.list"),
        "Dir::Etc::sourceparts": "-",
        "Dir::State": str(state),
        "Dir::State::status": str(state / "status"),
    }
    return ["-qq", *(word for name, value in options.items() for word in ("-o", f"{name}={value}"))]
