"""Calls over ``ssh``: framed, so that its own failure is told from the device's answer, and repeated where it fails.

``ssh`` ends with 255 both where it fails itself and where a signal ended the remote command; and what a login shell's
own files print stands before any answer. So a script's output stands between two marks that hold a number of this call,
the last with its exit code. Where the marks are missing, nothing is known but that the line broke.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from attn_export.errors import BackendMissingError, DeviceError
from attn_export.process import activity
from attn_export.tools.devices.address import Address
from attn_export.tools.emulation import foreign
from attn_export.untrusted import text

#: What is asked of OpenSSH beside the user's own settings. Nobody answers a question; a dead line is noticed after
#: 15 s; and nothing of what he has set up for a session of his own, such as forwarded ports, gets in the way.
_OPTIONS = {
    "BatchMode": "yes",
    "ConnectTimeout": "10",
    "ServerAliveInterval": "5",
    "ServerAliveCountMax": "3",
    "ClearAllForwardings": "yes",
    "RemoteCommand": "none",
    "RequestTTY": "no",
}
#: Calls after the first take the same connection, which ends half a minute after the last of them.
_SHARED = {"ControlMaster": "auto", "ControlPersist": "30"}
#: Bytes of the path of a socket, less what OpenSSH adds while it makes one.
_SOCKET = 108 - 18
#: Seconds between two tries: the first, and the most.
_FIRST, _MOST = 0.25, 5.0
#: Seconds in which the device answers a call that does not wait for anything.
ANSWER = 30.0
_MARK = "@@attn-export"

#: What OpenSSH says, and what to do about it. It says so in English everywhere.
_ADVICE = (
    (
        r"REMOTE HOST IDENTIFICATION HAS CHANGED",
        "its host key is another than your known_hosts says; if that is right, remove the old one with"
        " `ssh-keygen -R HOST` and connect to it once with ssh",
    ),
    (
        r"Host key verification failed|No \S+ host key is known",
        "its host key is not in your known_hosts: connect to it once with ssh, and compare the fingerprint",
    ),
    (
        r"Permission denied|Too many authentication failures",
        "it refuses the user or the key: `ssh-copy-id` gives it yours, and a key with a passphrase wants ssh-agent",
    ),
    (r"Connection refused", "nothing listens there: is the port right, and sshd running?"),
    (r"Could not resolve hostname", "nobody knows a machine of that name"),
    (
        r"[Tt]imed out|No route to host|Network is unreachable|banner exchange|Connection closed|Connection reset",
        "it does not answer as an SSH server: is it on, and the port right?",
    ),
)


class LostError(Exception):
    """A call brought no answer: the line broke, or there never was one. What ``ssh`` said is its text."""


class SilentError(LostError):
    """A call was not answered in its time, although nothing says that the line broke."""


@dataclass(frozen=True)
class Reply:
    """What a script on the device gave: its exit code, and what it printed."""

    code: int
    out: bytes
    err: str

    @property
    def text(self) -> str:
        """What it printed, as text."""
        return self.out.decode("utf-8", "replace").strip()

    def fields(self) -> list[tuple[str, str]]:
        """Give what it printed as lines of ``name=value``, in their order; other lines are left out."""
        parts = (line.partition("=") for line in self.text.splitlines())
        return [(name, value.strip()) for name, sign, value in parts if sign]


class Connection:
    """Calls to one device; once it has answered, a broken line is waited for."""

    def __init__(self, address: Address, *, patience: float, say: Callable[[str], None]) -> None:
        """Prepare calls.

        Args:
            address: of the device.
            patience: seconds that a device which has answered before may be away.
            say: is told when the line is lost and when it is back.
        """
        if shutil.which("ssh") is None:
            raise BackendMissingError("--on needs the OpenSSH client: apt install openssh-client")
        self.address, self.patience, self._say = address, patience, say
        self._reached = False
        self._folder = Path(tempfile.mkdtemp(prefix="ssh-"))
        socket = self._folder / ("%C" if len(os.fsencode(self._folder)) + 1 + 40 <= _SOCKET else "")
        options = {**_OPTIONS, **(_SHARED | {"ControlPath": str(socket)} if socket != self._folder else {})}
        self._ssh = ["ssh", *(word for name, value in options.items() for word in ("-o", f"{name}={value}"))]

    def close(self) -> None:
        """End the shared connection."""
        self._part()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _part(self) -> None:
        """Let the next call make a connection of its own."""
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            if any(self._folder.iterdir()):
                subprocess.run(
                    [*self._ssh, "-O", "exit", *self.address.words()],
                    stdin=subprocess.DEVNULL, capture_output=True, timeout=5, check=False,
                )  # fmt: skip

    def call(
        self,
        script: str,
        *words: str,
        feed: Callable[[IO[bytes]], None] | None = None,
        seconds: float = ANSWER,
    ) -> Reply:
        """Run a script on the device, which may run more than once, and return what it gave.

        Args:
            script: for ``sh``; nothing that was typed stands in it.
            words: its arguments, quoted for the login shell.
            feed: writes what the script reads.
            seconds: in which it has to end.

        Raises:
            DeviceError: the device was never reached.
            LostError: it was, and did not come back within ``patience``.
        """
        began, pause, told = time.monotonic(), _FIRST, False
        while True:
            try:
                reply = self.once(script, *words, feed=feed, seconds=seconds)
            except LostError as lost:  # noqa: PERF203  # the call is what takes time
                silent = isinstance(lost, SilentError)
                if silent:
                    self._part()
                if not self._reached and (told or not silent):
                    raise DeviceError(f"{self.address} cannot be reached: {_advised(str(lost))}") from lost
                # Of a call that waits, only what follows it is absence.
                away = time.monotonic() - began
                if away > self.patience and told:
                    raise
                if not told:
                    self._say(f"lost {self.address.host} ({lost}); trying again for {self.patience:g} s")
                    began, told = time.monotonic(), True
                _sleep(min(pause, max(0.05, self.patience - (time.monotonic() - began) + 0.05)))
                pause = min(2 * pause, _MOST)
            else:
                if told:
                    self._say(f"{self.address.host} is back")
                self._reached = True
                return reply

    def once(
        self, script: str, *words: str, feed: Callable[[IO[bytes]], None] | None = None, seconds: float = ANSWER
    ) -> Reply:
        """Run a script once.

        Raises:
            LostError: no answer came.
        """
        number = secrets.token_hex(8)
        framed = f'printf "{_MARK} begin {number}\\n"; ( {script}\n); printf "\\n{_MARK} rc=%s {number}\\n" "$?"'
        remote = "exec sh -c " + " ".join(map(shlex.quote, (framed, "attn-export", *words)))
        with tempfile.TemporaryFile() as said:  # a pipe would be held open by the connection that outlives the call
            child = subprocess.Popen(
                [*self._ssh, *self.address.words(), remote],
                stdin=subprocess.DEVNULL if feed is None else subprocess.PIPE,
                stdout=subprocess.PIPE, stderr=said, env={**os.environ, "LC_ALL": "C.UTF-8"},
            )  # fmt: skip
            with activity.doing(f"waiting for {self.address.host}", who="ssh"), child, foreign.ended(child):
                if feed is not None and child.stdin is not None:
                    with contextlib.suppress(BrokenPipeError), child.stdin as pipe:
                        feed(pipe)
                    child.stdin = None
                out = _output(child, seconds)
            said.seek(0)
            errors = said.read().decode("utf-8", "replace")
        found = re.search(
            rb"%b begin %b\n(.*)\n%b rc=(\d+) %b\n" % tuple(map(str.encode, (_MARK, number, _MARK, number))),
            out,
            re.DOTALL,
        )
        if found is None:
            raise LostError(_last(errors) or f"ssh ended with {child.returncode} and no answer")
        return Reply(int(found[2]), found[1], errors)


def _output(child: subprocess.Popen[bytes], seconds: float) -> bytes:
    """Read what a child prints, to its end."""
    began = time.monotonic()
    while True:
        try:
            return child.communicate(timeout=foreign.LOOK)[0]
        except subprocess.TimeoutExpired:  # noqa: PERF203  # it waits for seconds
            activity.alive()
            if time.monotonic() - began > seconds:
                raise SilentError(f"no answer within {seconds:g} s") from None


def _sleep(seconds: float) -> None:
    activity.alive()
    time.sleep(seconds)


def _last(errors: str) -> str:
    """Give the lines by which ``ssh`` said why, without those of a banner before them."""
    lines = [text.one_line(line) for line in errors.splitlines() if line.strip(" @\r\n")]
    shown = [line for line in lines if re.search("|".join(pattern for pattern, _ in _ADVICE), line)] or lines[-1:]
    return "; ".join(dict.fromkeys(shown))[:400]


def _advised(said: str) -> str:
    """Add to what ``ssh`` said what to do about it."""
    advice = next((what for pattern, what in _ADVICE if re.search(pattern, said)), "try it with ssh itself")
    return f"{advice} (ssh: {said})"
