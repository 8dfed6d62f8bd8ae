"""One run as it is kept: when it was, on which machine, of what, and its report as it came."""

from __future__ import annotations

import hashlib
import json
import math
import re
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Literal

from attn_export.types import Text
from attn_export.untrusted import fields, plain_json, text
from attn_export.untrusted.fields import Within

SCHEMA_VERSION = 1
#: Kinds of runs, by the command that made them.
Kind = Literal["bench", "verify", "export", "sweep"]
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")

_Word = Annotated[str, Within(0, 1000)]


@dataclass(frozen=True)
class Machine:
    """Which machine measured: figures of two machines are never compared.

    Attributes:
        id: tells machines apart, and says nothing else of them.
        name: what people call it.
        processor: its model, as the system gives it.
        cores: those that the run might use.
        emulated: by what, if it is.
    """

    id: Text
    name: Text
    processor: _Word = ""
    cores: Annotated[int, Within(0, 100_000)] = 0
    emulated: _Word = ""


@dataclass(frozen=True)
class Subject:
    """What one run of a report was of; runs are of one series where all of this but the digest and version is equal.

    Attributes:
        name: of the subject, as the bundle says.
        digest: of the bundle, ``sha256:…``.
        fused: whether it went through the fuser.
        artifact: of the bundle.
        precision: that the artifact computes in.
        backend: that ran it.
        version: of the runtime.
        device: that the backend runs on.
        threads: of the runtime.
        clock: what counts as its time: ``CPU time`` or ``wall time``.
        inputs: shapes of what was timed, such as ``x 1x3x224x224``.
    """

    name: Text
    digest: _Word = ""
    fused: bool = False
    artifact: _Word = ""
    precision: _Word = ""
    backend: _Word = ""
    version: _Word = ""
    device: _Word = ""
    threads: Annotated[int, Within(0, 100_000)] = 1
    clock: _Word = "wall time"
    inputs: _Word = ""


@dataclass(frozen=True)
class Record:
    """One run of a command.

    Attributes:
        schema_version: of this form.
        kind: which command it was.
        recorded: when it ended, in UTC, such as ``2026-12-01T09:30:00.000000Z``; by the clock of whoever keeps it, as
            some devices have none.
        machine: which measured.
        subjects: what each of the report's ``runs`` was of, in their order.
        report: what the command reported, raw samples included.
    """

    kind: Kind
    recorded: str
    machine: Machine
    subjects: Annotated[tuple[Subject, ...], Within(0, 10_000)]
    report: Mapping[str, Any] = field(repr=False)
    schema_version: Annotated[int, Within(SCHEMA_VERSION, SCHEMA_VERSION)] = SCHEMA_VERSION

    def content(self) -> bytes:
        """Give the bytes of its file: of two equal records they are the same."""
        return _canonical(asdict(self))

    def measurement(self) -> str:
        """Tell one measurement from another, whatever it was of: its report, its time and its machine."""
        return hashlib.sha256(_canonical([self.report, self.recorded, self.machine.id])).hexdigest()


def utc(when: float | None = None) -> str:
    """Give a moment, in seconds since 1970, as records have it; this one unless given.

    >>> utc(1.5)
    '1970-01-01T00:00:01.500000Z'
    """
    moment = time.time() if when is None else when
    whole = math.floor(moment)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(whole))}.{int((moment - whole) * 1e6):06d}Z"


def made(
    kind: Kind, machine: Machine, subjects: tuple[Subject, ...], report: Mapping[str, Any], when: float | None = None
) -> Record:
    """Draw up the record of a run that ended at ``when``, or now: whatever JSON cannot hold is made what it can.

    Raises:
        ValueError: something of it is not what it must be, such as a name of a thousand letters.
    """
    plain = {
        "kind": kind,
        "recorded": utc(when),
        "machine": asdict(machine),
        "subjects": [asdict(subject) for subject in subjects],
        "report": _finite(report),
    }
    return parse(_canonical(text.everywhere(plain)))


def parse(content: bytes) -> Record:
    """Read a record: every field of it but the report is of its type and within its bounds.

    Raises:
        ValueError: it is none; the message says what is wrong.
    """
    record = fields.build(Record, plain_json.parse(content.decode("utf-8")))
    if not _TIME.fullmatch(record.recorded):
        raise ValueError(f"recorded: expected a time such as {utc(0)}, got {record.recorded[:40]!r}")
    return record


def _canonical(plain: Any) -> bytes:
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def _finite(value: Any) -> Any:
    """Put null in place of what is not finite, which JSON has no number for."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): _finite(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value
