"""A matrix: subjects × precisions × targets × devices, as a file of TOML that says what a sweep runs.

    subjects = ["se", "repvgg:test", "rep*", "./bundles/mine"]
    fuse = [false, true]
    precisions = ["float32", "float16"]
    to = ["ort"]
    targets = ["onnxruntime"]
    devices = ["rack", "jetson-1"]

    [device.jetson-1]
    address = "ssh://user@10.0.0.7"

    [bench]
    duration = 3.0

    [[exclude]]
    device = "jetson-1"
    precision = "float16"

A subject is an entry of the catalogue (its preset is ``test`` unless it stands behind a colon; ``*`` and ``?`` as in
file names), or with a slash in it the folder of a bundle, which is measured as it is. Without ``targets`` bundles are
made and nothing is measured. A device without an address is the machine of a worker that offers ``device:NAME``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, get_args

from attn_export import bundle
from attn_export.deploy_tests.backends import BACKENDS
from attn_export.errors import UnknownNameError, UsageError
from attn_export.mechanisms import MECHANISMS, static_spec
from attn_export.pipeline.options import Precision
from attn_export.pipeline.sweep.job import HERE, BenchSettings, MeasureJob, Plan, SweepJob
from attn_export.untrusted import fields, toml

#: The preset of a subject that names none.
PRESET = "test"
#: A device's name becomes part of the names of files, and of a worker's resources.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_ADDRESS = re.compile(r"ssh://\S+")


@dataclass(frozen=True, kw_only=True)
class Device:
    """How a worker beside it reaches a device."""

    address: str


@dataclass(frozen=True, kw_only=True)
class Exclude:
    """Combinations to leave out: those that have all of what is said; of several, any."""

    subject: str | tuple[str, ...] = ()
    fuse: bool | None = None
    precision: str | tuple[str, ...] = ()
    target: str | tuple[str, ...] = ()
    device: str | tuple[str, ...] = ()

    def takes(self, subject: str, fuse: bool | None, precision: str, target: str, device: str) -> bool:
        """Whether a combination is left out; what has no target yet is so only where none is said, nor a device."""
        asked = ((self.subject, subject), (self.precision, precision), (self.target, target), (self.device, device))
        said = all(not wanted or any(fnmatchcase(found, one) for one in _several(wanted)) for wanted, found in asked)
        return said and self.fuse in (None, fuse)


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """What stands in the file, by its own names."""

    subjects: tuple[str, ...]
    fuse: tuple[bool, ...] = (False,)
    precisions: tuple[str, ...] = ("float32",)
    to: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    devices: tuple[str, ...] = (HERE,)
    device: Mapping[str, Device] = field(default_factory=dict)
    bench: BenchSettings = field(default_factory=BenchSettings)
    exclude: tuple[Exclude, ...] = ()


def read(file: Path) -> Plan:
    """Read the file and multiply it out.

    Raises:
        UsageError: it cannot be read, asks for what is not there, excludes what was never in it, or leaves nothing.
        UnknownNameError: a key, an entry, a preset, a precision, a backend or a device that does not exist.
    """
    content = toml.read(file, UsageError)
    _known_keys(content, file)
    try:
        matrix = fields.build(Matrix, content)
    except ValueError as error:
        raise UsageError(f"{file}: {error}") from error
    return plan(matrix, file)


def plan(matrix: Matrix, file: Path) -> Plan:
    """Multiply a matrix out; bundles are found beside ``file``, which is named in errors, too.

    Raises:
        UsageError, UnknownNameError: as ``read``.
    """
    _check(matrix, file)
    used = [False] * len(matrix.exclude)

    def left_out(*combination: Any) -> bool:
        taken = [rule.takes(*combination) for rule in matrix.exclude]
        for place, hit in enumerate(taken):
            used[place] |= hit
        return any(taken)

    builds: list[SweepJob] = []
    measures: list[MeasureJob] = []
    given: dict[str, Path] = {}
    for subject, job, folder in _subjects(matrix, file):
        if left_out(subject, job.fuse if job else None, job.precision if job else "", "", ""):
            continue
        label = job.label if job else folder.name
        if job:
            builds.append(job)
        elif given.setdefault(label, folder) != folder:
            raise UsageError(f"{file}: expected bundles of different names, got two of {label!r}; rename one")
        for target in matrix.targets:
            for name in matrix.devices:
                if left_out(subject, job.fuse if job else None, job.precision if job else "", target, name):
                    continue
                address = matrix.device[name].address if name in matrix.device else ""
                measures.append(MeasureJob(label, target, name, address, matrix.bench))
    if idle := [rule for rule, hit in zip(matrix.exclude, used, strict=True) if not hit]:
        said = {name: value for name, value in asdict(idle[0]).items() if value not in ((), None)}
        raise UsageError(f"{file}: an [[exclude]] matches no combination: {said}; mend or remove it")
    made = Plan(tuple(dict.fromkeys(builds)), tuple(dict.fromkeys(measures)), given)
    if not made.jobs:
        raise UsageError(f"{file}: nothing is left to do; give targets for the bundles, or fewer [[exclude]]")
    return made


def _known_keys(content: Mapping[str, Any], file: Path) -> None:
    """Name the nearest of what a key could have been: a typing error must not be a smaller sweep."""

    def known(found: object, kind: type, where: str) -> None:
        names = list(getattr(kind, "__dataclass_fields__", {}))
        for key in found if isinstance(found, Mapping) else ():
            if key not in names:
                raise UnknownNameError(f"key in {where}{file}", key, names)

    def every(found: object) -> Iterable[Any]:
        return found if isinstance(found, list) else ()

    known(content, Matrix, "")
    known(content.get("bench"), BenchSettings, "[bench] of ")
    for rule in every(content.get("exclude")):
        known(rule, Exclude, "[[exclude]] of ")
    devices = content.get("device")
    for name, table in devices.items() if isinstance(devices, Mapping) else ():
        known(table, Device, f"[device.{name}] of ")


def _check(matrix: Matrix, file: Path) -> None:
    for precision in matrix.precisions:
        if precision not in get_args(Precision):
            raise UnknownNameError(f"precision for {file}", precision, get_args(Precision))
    for target in matrix.targets:
        if target not in BACKENDS:
            raise UnknownNameError(f"backend for targets of {file}", target, BACKENDS)
    for name, device in matrix.device.items():
        if name not in matrix.devices:
            raise UnknownNameError(f"device for [device.{name}] in devices of {file}", name, matrix.devices)
        if not _ADDRESS.fullmatch(device.address):
            raise UsageError(f"{file}: expected an address such as ssh://user@host, got {device.address!r} for {name}")
    for name in matrix.devices:
        if not _NAME.fullmatch(name):
            raise UsageError(f"{file}: expected a device's name of letters, digits, '.', '_' and '-', got {name!r}")


def _subjects(matrix: Matrix, file: Path) -> Iterator[tuple[str, SweepJob | None, Path]]:
    """Yield each subject by its name, with the job that makes its bundle, or with the folder of the bundle."""
    for typed in matrix.subjects:
        if "/" in typed:
            folder = file.parent / typed
            if not (folder / bundle.MANIFEST).is_file():
                raise UsageError(f"{file}: expected the folder of a bundle at {folder}, found none")
            yield typed, None, folder
            continue
        for name, preset in _entries(typed):
            for fuse in matrix.fuse:
                for precision in matrix.precisions:
                    yield f"{name}:{preset}", SweepJob(name, preset, fuse, _precision(precision), matrix.to), file


def _entries(typed: str) -> Iterator[tuple[str, str]]:
    """Yield the catalogue's entries that are meant, each with the preset."""
    wanted, _, preset = typed.partition(":")
    preset = preset or PRESET
    names = [name for name, place in MECHANISMS.entries.items() if place.path and fnmatchcase(name, wanted)]
    if not names:
        raise UnknownNameError("mechanism", wanted, MECHANISMS)
    pattern, found = names != [wanted], False
    for name in names:
        path = MECHANISMS.entry(name).path
        assert path is not None
        spec = static_spec.read(path).spec
        if preset in spec.configurations:
            found = True
            yield name, preset
        elif not pattern:
            raise UnknownNameError(f"preset of {name}", preset, spec.configurations)
    if not found:
        raise UsageError(f"no entry that {wanted!r} means has a preset {preset!r}; `attn-export show NAME` lists them")


def _precision(typed: str) -> Precision:
    return "float16" if typed == "float16" else "float32"


def _several(value: str | tuple[str, ...]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else value
