"""A device for tests: a real sshd of this user's on a free port of the loopback, with its own home and programs."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
#: As this test found them: a PATH that ``Device.client`` gave has another ``ssh``.
SSH, PATH = shutil.which("ssh"), os.environ.get("PATH", "")
#: The folder in which sshd shuts itself in where the administrator runs it.
JAIL = Path("/run/sshd")


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def until(true: Callable[[], object], seconds: float = 20) -> None:
    """Wait for something that a process does."""
    ends = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < ends, "it did not happen"
        time.sleep(0.02)


class Device:
    """One sshd; what a login there finds is ``home`` and ``path``."""

    def __init__(self, folder: Path, home: Path, path: str, *, more: str = "") -> None:
        assert SSHD, "openssh-server is not installed"
        folder.mkdir(parents=True, exist_ok=True)
        home.mkdir(exist_ok=True)
        self.folder, self.home, self.root = folder, home, home / ".cache" / "attn-export"
        self.port, self.user = free_port(), pwd.getpwuid(os.getuid()).pw_name
        for name in ("host", "user", "stranger"):
            if not (folder / name).exists():
                words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
                subprocess.run(words, check=True, stdin=subprocess.DEVNULL)
        shutil.copy(folder / "user.pub", folder / "authorized")
        kind, key, *_ = (folder / "host.pub").read_text().split()
        (folder / "known").write_text(f"[127.0.0.1]:{self.port} {kind} {key}\n")
        (folder / "nothing").touch()
        (folder / "sshd_config").write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {folder / 'host'}\nPidFile none\nStrictModes no\n"
            f"AuthorizedKeysFile {folder / 'authorized'}\nUsePAM no\nPasswordAuthentication no\n"
            f"KbdInteractiveAuthentication no\nPermitRootLogin yes\nSetEnv HOME={home} PATH={path} XDG_CACHE_HOME=no\n"
            f"{more}\n"
        )
        self.start()

    def start(self) -> None:
        if os.geteuid() == 0:
            JAIL.mkdir(mode=0o755, exist_ok=True)
        words = [str(SSHD), "-D", "-f", str(self.folder / "sshd_config"), "-E", str(self.folder / "sshd.log")]
        self.process = subprocess.Popen(words, stdin=subprocess.DEVNULL)
        until(self.answers)

    def answers(self) -> bool:
        assert self.process.poll() is None, (self.folder / "sshd.log").read_text()
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1) as one:
            return one.recv(4) == b"SSH-"
        return False

    @property
    def address(self) -> str:
        return f"ssh://{self.user}@127.0.0.1:{self.port}"

    def client(self, *, key: str = "user", known: str = "known", first: str = "") -> str:
        """Give a PATH whose ``ssh`` is the real one with settings of this device's, as a user's own file has them."""
        own = self.folder / f"client-{key}-{known}"
        own.mkdir(exist_ok=True)
        (own / "config").write_text(
            f"Host *\n  IdentityFile {self.folder / key}\n  IdentitiesOnly yes\n  IdentityAgent none\n"
            f"  UserKnownHostsFile {self.folder / known}\n  GlobalKnownHostsFile none\n"
        )
        (own / "ssh").write_text(f'#!/bin/sh\nexec {SSH} -F {own / "config"} {first} "$@"\n')
        (own / "ssh").chmod(0o755)
        return f"{own}:{PATH}"

    def sessions(self) -> list[int]:
        """The processes of sshd that serve a connection."""
        return children_of(self.process.pid)

    def blocks(self, seconds: int) -> bool:
        """Whether a call waits there for the end of a run, for so long at most."""
        words = b"flock\0-w\0%d\0" % seconds
        return any(command_of(one).startswith(words) for one in below(self.process.pid))

    def drop(self) -> None:
        """Kill whatever serves a connection, as a line that breaks does."""
        for number in self.sessions():
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)

    def jobs(self) -> list[Path]:
        return sorted((self.root / "job").glob("*")) if (self.root / "job").is_dir() else []

    def waits(self) -> bool:
        return any((job / "waiting").exists() for job in self.jobs())

    def stop(self) -> None:
        served = self.sessions()  # they outlive the one that listens
        self.process.kill()
        for number in served:
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        self.process.wait()


def children_of(process: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    except OSError:
        return []


def below(process: int) -> list[int]:
    found = children_of(process)
    return [*found, *(inner for one in found for inner in below(one))]


def command_of(process: int) -> bytes:
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return b""


#: What our scripts take of a device, but for Python.
TOOLS = (
    "sh", "uname", "df", "dirname", "nproc", "date", "cat", "tar", "gzip", "mv", "rm", "mkdir", "flock", "setsid",
    "sleep", "find", "touch", "head", "tail", "cp", "bash",
)  # fmt: skip


def tools(folder: Path, **scripts: str) -> str:
    """Make a PATH of nothing but those, and of scripts that stand for some; an empty one is not there."""
    folder.mkdir()
    for name in TOOLS:
        if name not in scripts and (real := shutil.which(name)):
            (folder / name).symlink_to(real)
    for name, text in scripts.items():
        if text:
            (folder / name).write_text(f"#!/bin/sh\n{text}\n")
            (folder / name).chmod(0o755)
    return str(folder)


def with_python() -> str:
    """A PATH whose ``python3`` is this one, with what is installed here."""
    return f"{Path(sys.executable).parent}:/usr/bin:/bin"


@contextlib.contextmanager
def running(device: Device) -> Iterator[Device]:
    try:
        yield device
    finally:
        device.stop()
