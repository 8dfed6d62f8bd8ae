"""One run of our command line on a device, which does not depend on the line: started, waited for, brought back.

A run has a folder of its own there, named by a number that is drawn here. It holds two locks of the kernel by itself,
which end as it ends, however that is: one says that it lives; the other is the device's, so that no two runs measure
each other. What a run gives is written under another name and renamed, so that what has its name is whole.
"""

from __future__ import annotations

import contextlib
import io
import secrets
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from attn_export.errors import AttnExportError, DeviceError, InconclusiveError, WriteError
from attn_export.process import activity
from attn_export.tools.devices.connection import Connection, LostError
from attn_export.tools.devices.probe import Device
from attn_export.untrusted import text

#: Seconds that one call waits there, and what it may take beyond that.
_BLOCK, _MORE = 10, 30.0
#: The files of a run that are brought back, and the bytes of all of them.
_OUT, _ERR, _RESULT = "out", "err", "result.json"
_MOST = 512 * 2**20

#: What runs there, detached from the call that started it; a second one of the same name does nothing.
_RUN = """
root=$1 job=$2 who=$3 python=$4 path=$5; shift 5
exec 8>"$job/alive"; flock -n 8 || exit 0
[ -e "$job/started" ] && exit 0
echo $$ >"$job/started"
exec 9>>"$root/lock"
if ! flock -n 9; then
  cp "$root/lock" "$job/waiting"; flock 9; rm -f "$job/waiting"
fi
printf "%s\n" "$who" >"$root/lock"
cd "$job" || exit 1
unset PYTHONHOME PYTHONSTARTUP
export PYTHONPATH="$path" PYTHONNOUSERSITE=1 ATTN_EXPORT_CACHE_DIR=off ATTN_EXPORT_RESULT="$job/result.json"
export LC_ALL=C.UTF-8 COLUMNS=160
"$python" -m attn_export "$@" >out 2>err </dev/null
echo $? >rc.new && mv -f rc.new rc
"""
_START = """
root=$1 job=$1/job/$2 run=$3 who=$4; shift 4
umask 077; mkdir -p "$job" || exit 20
find "$root/job" -mindepth 1 -maxdepth 1 -mtime +7 -exec rm -rf {} + 2>/dev/null
[ -e "$job/started" ] || setsid sh -c "$run" attn-export "$root" "$job" "$who" "$@" </dev/null >/dev/null 2>&1 &
n=0; while [ ! -s "$job/started" ] && [ $n -lt 50 ]; do sleep 0.1; n=$((n + 1)); done
[ -s "$job/started" ] || exit 23
"""
_WAIT = """
job=$1/job/$2
[ -e "$job/started" ] || { printf "state=none\n"; exit 0; }
flock -w "$3" "$job/alive" true; ended=$?
if [ -e "$job/rc" ]; then printf "state=done\nrc=%s\n" "$(cat "$job/rc")"
elif [ $ended = 0 ]; then printf "state=died\nsaid=%s\n" "$(tail -n 1 "$job/err" 2>/dev/null)"
elif [ -e "$job/waiting" ]; then printf "state=waiting\nfor=%s\n" "$(head -n 1 "$job/waiting")"
else printf "state=running\nsaid=%s\n" "$(tail -n 1 "$job/err" 2>/dev/null)"; fi
"""
_FETCH = """
cd "$1/job/$2" || exit 24
set --; for file in out err result.json; do [ -e "$file" ] && set -- "$@" "$file"; done
tar -cf - "$@"
"""
_STOP = """
job=$1/job/$2
[ -s "$job/started" ] && kill -TERM -- "-$(cat "$job/started")" 2>/dev/null
flock -w 3 "$job/alive" true || kill -KILL -- "-$(cat "$job/started")" 2>/dev/null
rm -rf "$job"
"""
_FORGET = 'rm -rf "$1/job/$2"'


@dataclass(frozen=True)
class Outcome:
    """What a run gave.

    Attributes:
        code: its exit code.
        out: what it printed.
        err: what it printed on stderr.
        result: its JSON object as it was written; empty where there is none.
    """

    code: int
    out: str
    err: str
    result: str


@dataclass(frozen=True)
class Job:
    """What is to be run.

    Attributes:
        python: the interpreter there.
        path: where it finds our packages, in their order.
        words: of our command line.
        who: what stands in the device's lock while it runs.
    """

    python: str
    path: Sequence[str]
    words: Sequence[str]
    who: str


def run(
    line: Connection,
    device: Device,
    job: Job,
    *,
    say: Callable[[str], None],
    detail: Callable[[str], None],
) -> Outcome:
    """Run a job on a device and bring back what it gave, however often the line breaks.

    Args:
        line: to the device.
        device: what is there.
        job: what to run.
        say: is told whom it waits for.
        detail: is told what the run said last.

    Raises:
        DeviceError: it could not be started.
        WriteError: the disk there is full.
        InconclusiveError: the device did not come back, or the run ended without a result.
    """
    name = secrets.token_hex(8)
    started = False
    try:
        with activity.doing(f"running on {device.host}", who=""):
            _start(line, device, name, job)
            started = True
            code = _ended(line, device, name, say, detail)
            outcome = _fetched(line, device, name, code)
    except LostError as error:
        raise InconclusiveError(
            f"{device.host} did not come back within {line.patience:g} s ({error}); what ran there says nothing;"
            " wait longer with --patience SECONDS"
        ) from error
    except Exception:  # it has ended, or never began
        with contextlib.suppress(LostError):
            line.once(_FORGET, device.root, name)
        raise
    except BaseException:
        if started:
            with contextlib.suppress(LostError, AttnExportError):
                line.once(_STOP, device.root, name, seconds=4)
        raise
    with contextlib.suppress(LostError):
        line.once(_FORGET, device.root, name)
    return outcome


def _start(line: Connection, device: Device, name: str, job: Job) -> None:
    path = ":".join(f"{device.root}/{place}" for place in job.path)
    reply = line.call(_START, device.root, name, _RUN, job.who, job.python, path, *job.words)
    if reply.code:
        said = reply.err.strip().splitlines()[-1:] or ["it said nothing"]
        full = "No space left" in reply.err or reply.code == 23
        raise (WriteError if full else DeviceError)(
            f"{device.host} could not start the run in {device.root}/job ({said[0]}); is its disk full?"
        )


def _ended(
    line: Connection, device: Device, name: str, say: Callable[[str], None], detail: Callable[[str], None]
) -> int:
    """Wait for the run's exit code."""
    waits, block = "", 1
    while True:
        reply = line.call(_WAIT, device.root, name, str(block), seconds=block + _MORE)
        found = dict(reply.fields())
        state, said = found.get("state"), text.one_line(found.get("said", ""))[:300]
        block = min(2 * block, _BLOCK)
        activity.alive()
        if state == "done":
            return _code(found.get("rc", ""), device)
        if state == "waiting":
            holder = text.one_line(found.get("for", ""))[:200] or "another run"
            if holder != waits:
                say(f"{device.host} is in use by {holder}; waiting until that has ended")
                waits = holder
        elif state == "running":
            if waits:
                say(f"{device.host} is free; running")
                waits = ""
            detail(said)
        else:
            more = f"; the last that it said: {said}" if said else ""
            raise InconclusiveError(
                f"the run on {device.host} ended without a word: it was killed, or the device was started anew{more}."
                " This says nothing about the model"
            )


def _code(rc: str, device: Device) -> int:
    if not rc.isdigit():
        raise WriteError(f"{device.host} could not keep the result: its disk is full; make room in {device.root}")
    return int(rc)


def _fetched(line: Connection, device: Device, name: str, code: int) -> Outcome:
    reply = line.call(_FETCH, device.root, name)
    if reply.code or len(reply.out) > _MOST:
        raise DeviceError(f"what the run on {device.host} gave could not be read: {reply.err.strip()[:300]}")
    found = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(reply.out)) as archive:
            for entry in archive:
                if entry.isreg() and (file := archive.extractfile(entry)) is not None:
                    found[entry.name] = file.read().decode("utf-8", "replace")
    except tarfile.TarError as error:
        raise DeviceError(f"what the run on {device.host} gave could not be read: {error}") from error
    return Outcome(code, found.get(_OUT, ""), found.get(_ERR, ""), found.get(_RESULT, ""))


def died(outcome: Outcome, device: Device) -> InconclusiveError | None:
    """Say that a run was ended from outside and gave no result; None where it ended by itself."""
    if outcome.code < 126:
        return None
    said = text.one_line((outcome.err.strip().splitlines() or [""])[-1])[:300]
    number = outcome.code - 128
    how = {9: "killed, often for want of memory", 15: "terminated", 11: "a crash of its runtime"}.get(number, "")
    return InconclusiveError(
        f"no result from {device.host}: the run there ended with exit code {outcome.code}"
        f"{f' ({how})' if how else ''}{f': {said}' if said else ''}"
    )
