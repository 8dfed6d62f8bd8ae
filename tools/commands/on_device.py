"""``--on``: the same command on a device over ssh; what it gives is printed here, and kept in the bundle as a run."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attn_export import bundle
from attn_export.bundle import SCHEMA_VERSION, Bundle, figures, versions
from attn_export.deploy_tests import backends
from attn_export.deploy_tests.latency.timed_model import runtime_for
from attn_export.errors import BundleError, DeviceError, UsageError, WriteError
from attn_export.pipeline.report import keep_runs, run_device
from attn_export.tools import console
from attn_export.tools.commands import stored
from attn_export.tools.devices import address, parcel, session
from attn_export.tools.devices.address import Address
from attn_export.tools.devices.connection import Connection
from attn_export.tools.devices.parcel import Parcel
from attn_export.tools.devices.session import Answer, Asked
from attn_export.tools.emulation import wheels
from attn_export.tools.progress import TerminalProgress

if TYPE_CHECKING:
    from attn_export.deploy_tests.store.record import Kind
    from attn_export.tools.commands.bench import BenchOptions
    from attn_export.tools.commands.device import VerifyOptions

#: Options that the device does not get: they were seen to here.
_SEEN_TO = ("--expect", "--signers", "--faster-than", "--baseline")
#: What a report keeps of a run.
_FIELDS = {one.name for one in fields(figures.RunRecord)}


@dataclass(frozen=True, kw_only=True)
class Device:
    """What was typed about the device.

    Attributes:
        on: its address, ``ssh://user@host``.
        patience: seconds that it may be away.
        keep: whether what ran is added to the bundle's report.
        words: the command for it, without these options.
    """

    on: str
    patience: float = 60.0
    keep: bool = True
    words: Sequence[str] = field(default=())

    @property
    def options(self) -> list[str]:
        """The command and its options, without paths and what was seen to here."""
        ours = self.words[: list(self.words).index("--")]
        return [word for word in ours if word.partition("=")[0] not in _SEEN_TO]


def verify(asked: VerifyOptions, there: Device, *, as_json: bool) -> None:
    """Prove bundles on a device, and end as that ends there.

    Raises:
        SystemExit: with the exit code of the command there.
        UsageError: something asked for cannot work there.
        BundleError: there is no such bundle.
        BackendMissingError, DeviceError, WriteError, InconclusiveError: as ``session.run``.
    """
    where = address.parse(there.on)
    if asked.fresh:
        raise UsageError("--fresh evaluates with torch, which is not brought to a device; use it without --on")
    if asked.data is not None:
        raise UsageError("--data is not brought to a device; write it into the bundle with the main job's --data")
    if len(asked.paths) > 1 and asked.held.expect is not None:
        raise UsageError("--expect: expected one bundle, as a digest is of one; verify them one by one")
    store = stored.prepared(asked.store)
    wanted = wheels.requirements(tuple(dict.fromkeys((*asked.require, *asked.backends))) or (backends.DEFAULT,))
    wholes = [bundle.read(path) for path in asked.paths]
    sources = [asked.held.check(whole) for whole in wholes]
    with tempfile.TemporaryDirectory() as scratch:
        load = _Load(Path(scratch))
        places = [load.bundle(whole) for whole in wholes]
        words, what = [*there.options, "--", *places], f"verify of {asked.paths[0].name}"
        answer = _ran(_line(where, there), load, words, wanted, what=what)
    content = load.named(answer, answer.content())
    each = content.get("bundles", [content])
    lines = []
    for whole, source, proven in zip(wholes, sources, each, strict=False):
        if "environment" not in proven:
            continue  # it came to no runs
        proven.update({**source, "on": answer.machine(where)})
        runs = [run for run in proven["runs"] if run.get("parity") and not run.get("level")]
        said, proven["digest_with_run"] = _kept(whole, runs, proven, why=_held(asked, there))
        lines.append(said)
        _store(store, "verify", [(whole, run) for run in runs], {**proven, "runs": runs}, asked.threads)
    _print(answer, content, load, as_json=as_json)
    for line in lines:
        console.say(line, err=as_json)
    raise SystemExit(answer.outcome.code)


def bench(asked: BenchOptions, there: Device, *, as_json: bool, verbosity: int) -> None:
    """Measure on a device, and end as that ends there.

    Raises:
        SystemExit: with the exit code of the command there.
        UsageError: something asked for cannot work there.
        BundleError: there is no such bundle.
        BackendMissingError, DeviceError, WriteError, InconclusiveError: as ``session.run``.
    """
    from attn_export.tools.commands.bench import parse_side

    where = address.parse(there.on)
    store = stored.prepared(asked.store)
    wanted: list[str] = []
    wholes: list[Bundle] = []
    with tempfile.TemporaryDirectory() as scratch:
        load = _Load(Path(scratch))

        def place(path: Path) -> str:
            folder, artifact, backend = parse_side(str(path))
            whole = bundle.read(Path(folder))
            wholes.append(whole)
            wanted.append(backend or asked.backend or runtime_for(whole, artifact or asked.artifact))
            return load.bundle(whole) + str(path)[len(folder) :]

        places = [place(path) for path in asked.paths]
        options = list(there.options)
        if asked.faster_than is not None:
            options.append(f"--faster-than={place(asked.faster_than)}")
        if (base := asked.baseline) is not None:
            options.append(f"--baseline={load.file(base) if base.is_file() else place(base)}")
        if store is not None:
            options.append("--store=store")  # in the run's folder, and gone with it: here is what was measured for it
        requirements = wheels.requirements(tuple(dict.fromkeys(wanted)))
        what = f"bench of {asked.paths[0].name}"
        answer = _ran(
            _line(where, there), load, [*options, "--", *places], requirements, what=what, verbosity=verbosity
        )
    content = load.named(answer, answer.content())
    lines = []
    if "environment" in content:
        content["on"] = answer.machine(where)
        digests = []
        runs = content.get("runs", [])
        for path in dict.fromkeys(whole.path for whole in wholes[: len(asked.paths)]):
            whole = next(one for one in wholes if one.path == path)
            own = [run for run in runs if run.get("bundle") == str(path)]
            said, digest = _kept(whole, own, content, why="" if there.keep else "--no-keep")
            digests.append(digest)
            lines.append(said)
        content["digests_with_runs"] = digests
        _store(store, "bench", list(zip(wholes, runs, strict=False)), content, asked.threads)
    _print(answer, content, load, as_json=as_json)
    for line in lines:
        console.say(line, err=as_json)
    raise SystemExit(answer.outcome.code)


class _Load:
    """What is brought to a device, with what was typed for it."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self.parcels: dict[Parcel, str] = {}

    def bundle(self, whole: Bundle) -> str:
        """Bring a bundle, and say where it will lie below our folder there."""
        packed = parcel.of_bundle(whole, self._scratch / str(len(self.parcels)))
        self.parcels[packed] = str(whole.path)
        return packed.place

    def file(self, path: Path) -> str:
        """Bring a file, and say where it will lie."""
        packed = parcel.of_file(path)
        self.parcels[packed] = str(path.parent)
        return f"{packed.place}/{packed.files[0][0]}"

    def named(self, answer: Answer, content: Any) -> Any:
        """Give what the device said with what was typed in place of where it lay there."""
        there = {f"{answer.device.root}/{one.place}": typed for one, typed in self.parcels.items()}
        return session.replaced(content, there)


def _line(where: Address, there: Device) -> Connection:
    def say(text: str) -> None:
        console.say(text, err=True)

    return Connection(where, patience=there.patience, say=say)


def _ran(
    line: Connection,
    load: _Load,
    words: Sequence[str],
    wanted: tuple[str, ...],
    *,
    what: str,
    verbosity: int = 0,
) -> Answer:
    """Run ``words`` there, in which a place of ``load`` stands for where it lies."""

    def placed(root: str) -> list[str]:
        def word(text: str) -> str:
            name, sign, value = text.rpartition("=") if text.startswith("--") else ("", "", text)
            inside = any(value.startswith(one.place) for one in load.parcels)
            return f"{name}{sign}{root}/{value}" if inside else text

        return [word(text) for text in words]

    with contextlib.closing(line):
        asked = Asked(placed, tuple(load.parcels), wanted, what)
        return session.run(line, asked, TerminalProgress(verbosity), lambda text: console.say(text, err=True))


def _held(asked: VerifyOptions, there: Device) -> str:
    """Say why what ran is nothing that a bundle may say of itself; empty where it may."""
    if not there.keep:
        return "--no-keep"
    if asked.held.expect is not None:
        return "--expect holds it to its digest"
    limits = {"tolerance": asked.held.tolerance, "snr": asked.held.snr, "atol": asked.atol, "rtol": asked.rtol}
    if given := [f"--{name}" for name, value in limits.items() if value is not None]:
        return f"it was held to {' and '.join(given)} of this command"
    return ""


def _kept(whole: Bundle, runs: Sequence[Mapping[str, Any]], content: Mapping[str, Any], *, why: str) -> tuple[str, str]:
    """Add runs to the bundle's report; a sentence about it, and its digest now, which is empty where it is as it was.

    What cannot be added, such as to a full disk, is said and no failure of what ran there.

    Args:
        whole: the bundle.
        runs: of it, as the device gave them.
        content: what the device gave around them: its environment, and under ``on`` which it is.
        why: it is not to be added; empty where it is.
    """
    if not runs:
        return f"{whole.path}: nothing ran that could be kept", ""
    machine = content["on"]
    around = {**content["environment"], run_device.DEVICE: machine}
    shared = {"environment": around, "conditions": content.get("conditions")}
    records = [{**shared, **{key: run[key] for key in run.keys() & _FIELDS - {"environment"}}} for run in runs]
    report = {versions.KEY: SCHEMA_VERSION, "runs": records}
    figures.check(report, f"what {machine['host']} gave", DeviceError)
    if why:
        return f"not kept in {whole.path}: {why}", ""
    try:
        digest = keep_runs.keep_runs(whole, records)
    except (WriteError, BundleError) as error:
        return f"not kept in {whole.path}: {error}", ""
    if digest:
        return f"kept in {whole.path} as run on {machine['host']}; its digest is now {digest}", digest
    return f"not kept in {whole.path}: it is signed", ""


def _store(
    root: Path | None,
    kind: Kind,
    ran: Sequence[tuple[Bundle, Mapping[str, Any]]],
    content: Mapping[str, Any],
    threads: int,
) -> None:
    """Put what ran into the store of this machine, as run on that one."""
    if root is None or not ran:
        return
    subjects = [
        stored.subject(
            whole,
            whole.artifact(run["artifact"]),
            run,
            threads=threads,
            clock=(run.get("repeated") or {}).get("clock", ""),
        )
        for whole, run in ran
    ]
    machine = stored.elsewhere(content["on"]["host"], [content])
    stored.keep(root, kind, subjects, content, machine=machine)


def _print(answer: Answer, content: dict[str, Any], load: _Load, *, as_json: bool) -> None:
    """Print what was printed there: on stderr what was, on stdout the same, or its JSON object."""
    for line in load.named(answer, answer.outcome.err).splitlines():
        console.say(line, err=True)
    if as_json and content:
        console.emit(content)
        return
    # As JSON this is one object: it ended before there was a result, and says why.
    for line in load.named(answer, answer.outcome.out).splitlines():
        console.say(line)
    if as_json:
        console.emitted_elsewhere()
