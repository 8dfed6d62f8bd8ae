"""The emulated machine: what it is put together from, and how the command line runs on it."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from attn_export.deploy_tests.machine import emulated
from attn_export.errors import BackendError, UnknownNameError
from attn_export.pipeline.progress import Progress
from attn_export.process import activity, children
from attn_export.tools.emulation import cache, debian, foreign, trees
from attn_export.tools.emulation.debian import Tree

#: What can be emulated, in the words of ``uname``.
MACHINES = ("aarch64",)
#: What most boards are, in arithmetic: it and its neighbours compute alike. ``max`` has instructions that no board has.
CPU = "cortex-a72"
PYTHON = "3.13"
EMULATOR = Tree("emulator", "qemu-user", "amd64", ("qemu-user",), 81)
SYSTEM = Tree(
    "aarch64",
    f"Python {PYTHON} for aarch64",
    "arm64",
    (
        "libbz2-1.0", "libc6", "libexpat1", "libffi8", "libgcc-s1", "libgomp1", "liblzma5", "libssl3t64", "libstdc++6",
        "zlib1g", "libpython3.13-minimal", "libpython3.13-stdlib", "python3.13-minimal",
    ),
    21,
)  # fmt: skip
#: Megabytes to download for the wheels of the base install, and that all of it takes once unpacked.
WHEELS, UNPACKED = 46, 250
#: Of the environment, what would lead the guest to libraries of the host's processor; and as compiling modules takes
#: longer there than all the rest, what is compiled is kept.
_NOT_PASSED = ("PYTHONPATH", "PYTHONHOME", "LD_PRELOAD", "LD_LIBRARY_PATH", "PYTHONDONTWRITEBYTECODE")


@dataclass(frozen=True)
class Guest:
    """An emulated machine, ready to run: folders of the cache."""

    emulator: Path
    system: Path
    wheels: Path
    code: Path
    cpu: str

    def command(self, *words: str) -> list[str]:
        """Give the command line that runs ours on it, with nothing on the import path but what was made for it."""
        python = self.system / "usr" / "bin" / f"python{PYTHON}"
        emulator = [str(self.emulator / "usr" / "bin" / "qemu-aarch64"), "-cpu", self.cpu, "-L", str(self.system)]
        return [*emulator, str(python), "-S", "-P", "-m", "attn_export", *words]

    def environment(self) -> dict[str, str]:
        """Give the environment that it runs in."""
        kept = {name: value for name, value in os.environ.items() if name not in _NOT_PASSED}
        path = os.pathsep.join(map(str, (self.code, self.wheels)))
        own = {"PYTHONPATH": path, "PYTHONPYCACHEPREFIX": str(self.wheels / ".bytecode"), "PYTHONNOUSERSITE": "1"}
        return {**kept, **own, emulated.VARIABLE: self.summary()}

    def summary(self) -> str:
        """Say what it is, as it stands in every record that is made on it."""
        return f"aarch64 by {self._emulator('--version').partition('(')[0].replace(' version', '').strip()}, {self.cpu}"

    def cpus(self) -> list[str]:
        """List the processors that the emulator knows."""
        return self._emulator("-cpu", "help", done=(0, 1)).split(":", 1)[-1].split()

    def _emulator(self, *words: str, done: Sequence[int] = (0,)) -> str:
        return foreign.run(self.command()[0], *words, what="start the emulator", seconds=60, done=done)


def missing() -> str | None:
    """Say why no machine can be emulated here, or None; what only a download takes is seen later."""
    here, system = platform.machine(), platform.system()
    if (system, here) != ("Linux", "x86_64"):
        return f"expected Linux on x86_64, got {system} on {here}"
    if what := emulated.emulated():
        return f"this machine is emulated itself: {what}"
    return None


def announcement(wanted: Sequence[str]) -> str | None:
    """Say what will be downloaded, how much, from where and where to; None where all of it is there."""
    missing_trees = [tree for tree in (EMULATOR, SYSTEM) if not cache.place(tree.kind, tree.asked).is_dir()]
    lacking = [f"{tree.title} from Debian {debian.SUITE}" for tree in missing_trees]
    amount = sum(tree.megabytes for tree in missing_trees)
    if not cache.place("wheels", trees.asked(wanted, "aarch64", PYTHON)).is_dir():
        amount += WHEELS
        lacking.append(f"from pip's index for aarch64 {', '.join(wanted)} and what they need")
    if not lacking:
        return None
    return (
        f"--emulate downloads, once, about {amount} MB, more where a runtime beyond the base install is asked for:"
        f" {'; '.join(lacking)}. All of it is unpacked to {cache.root()} (about {UNPACKED} MB, safe to delete), and"
        " nothing is installed"
    )


def made(cpu: str, wanted: Sequence[str], progress: Progress) -> Guest:
    """Put a machine together: what is missing in the cache is downloaded.

    Args:
        cpu: the processor, in the emulator's words.
        wanted: what to install on it, for pip.
        progress: is told what is downloaded.

    Raises:
        BackendMissingError: it cannot be had here.
        UnknownNameError: the emulator knows no such processor.
        WriteError: the cache cannot be written.
    """
    emulator, system = _tree(EMULATOR, _only_ours, progress), _tree(SYSTEM, _merged, progress)
    guest = Guest(emulator, system, trees.packages(wanted, "aarch64", PYTHON, progress), trees.code(), cpu)
    if cpu not in (known := guest.cpus()):
        raise UnknownNameError("processor to emulate", cpu, known)
    return guest


def run(guest: Guest, words: Iterable[str]) -> int:
    """Run our command line there, on this process's standard streams, and give its exit code.

    Raises:
        BackendError: the emulator died.
    """
    with activity.doing("running on the emulated processor", who=guest.summary()):
        child = subprocess.Popen(guest.command(*words), env=guest.environment())
        with foreign.ended(child):
            while True:
                try:
                    code = child.wait(foreign.LOOK)
                    break
                except subprocess.TimeoutExpired:
                    activity.alive()  # the command has a parent of its own there, which sees to its limits
    if code < 0:
        raise BackendError(f"the emulator ({guest.summary()}) broke: {children.ending(code)}; this proves nothing")
    return code


def _tree(tree: Tree, finish: Callable[[Path], None], progress: Progress) -> Path:
    def fill(into: Path) -> None:
        with progress.stage(f"get {tree.title}"):
            debian.unpack(tree, into, progress.detail)
            finish(into)

    return cache.kept(tree.kind, tree.asked, fill)


def _only_ours(folder: Path) -> None:
    """Leave the one emulator of thirty that is needed."""
    for path in (folder / "usr" / "bin").iterdir():
        if path.name != "qemu-aarch64":
            path.unlink()


def _merged(folder: Path) -> None:
    """Make the link that a package leaves to the installer."""
    (folder / "lib").symlink_to("usr/lib")
