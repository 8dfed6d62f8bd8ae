"""``--on``: the same command on a device over ssh; what it gives is printed here, and kept in the bundle as a run."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attn_export import bundle
from attn_export.bundle import SCHEMA_VERSION, Bundle, figures, versions
from attn_export.deploy_tests import backends
from attn_export.errors import BundleError, DeviceError, UsageError, WriteError
from attn_export.pipeline.report import keep_runs, run_device
from attn_export.tools import console
from attn_export.tools.devices import address, connection, parcel, session
from attn_export.tools.devices.session import Answer, Asked
from attn_export.tools.emulation import wheels
from attn_export.tools.progress import TerminalProgress

if TYPE_CHECKING:
    from attn_export.tools.commands.device import VerifyOptions

#: Words of a run on this machine that the device does not get: they were seen to here.
_SEEN_TO = ("--expect", "--signers", "--on", "--patience")


def verify(asked: VerifyOptions, on: str, patience: float, words: Sequence[str], *, as_json: bool) -> None:
    """Run ``words``, which mean ``asked``, on a device, and end as they end there.

    Raises:
        SystemExit: with the exit code of the command there.
        UsageError: something asked for cannot work there.
        BundleError: there is no such bundle.
        BackendMissingError, DeviceError, WriteError, InconclusiveError: as ``session.run``.
    """
    where = address.parse(on)
    if asked.fresh:
        raise UsageError("--fresh evaluates with torch, which is not brought to a device; use it without --on")
    if asked.data is not None:
        raise UsageError("--data is not brought to a device; write it into the bundle with the main job's --data")
    if len(asked.paths) > 1 and asked.held.expect is not None:
        raise UsageError("--expect: expected one bundle, as a digest is of one; verify them one by one")
    chosen = tuple(dict.fromkeys((*asked.require, *asked.backends))) or (backends.DEFAULT,)
    wanted = wheels.requirements(chosen)
    wholes = [bundle.read(path) for path in asked.paths]
    sources = [asked.held.check(whole) for whole in wholes]
    with _parcels(wholes) as parcels:
        options = [word for word in words[: words.index("--")] if word.partition("=")[0] not in _SEEN_TO]

        def there(root: str) -> list[str]:
            return [*options, "--", *(f"{root}/{one.place}" for one in parcels)]

        answer = _ran(where, patience, Asked(there, parcels, wanted, f"verify of {asked.paths[0].name}"))
    places = {f"{answer.device.root}/{one.place}": str(whole.path) for one, whole in zip(parcels, wholes, strict=True)}
    content = session.replaced(answer.content(), places)
    each = content.get("bundles", [content])
    lines, held = [], _held(asked)
    for whole, source, proven in zip(wholes, sources, each, strict=False):
        if "environment" in proven:
            proven.update({**source, "on": answer.machine(where)})
            said, digest = _kept(whole, _proofs(proven), held=held)
            proven["digest_with_run"] = digest
            lines.append(said)
    _print(answer, content, places, as_json=as_json)
    for line in lines:
        console.say(line, err=as_json)
    raise SystemExit(answer.outcome.code)


def _held(asked: VerifyOptions) -> str:
    """Say why what ran is nothing that a bundle may say of itself; empty where it may."""
    if asked.held.expect is not None:
        return "--expect holds it to its digest"
    limits = {"tolerance": asked.held.tolerance, "snr": asked.held.snr, "atol": asked.atol, "rtol": asked.rtol}
    if given := [f"--{name}" for name, value in limits.items() if value is not None]:
        return f"it was held to {' and '.join(given)} of this command"
    return ""


def _proofs(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Give what ``verify`` said of one bundle as runs of a report: those of the bundle's own cases."""
    environment = {**content["environment"], run_device.DEVICE: content["on"]}
    keys = ("backend", "version", "device", "artifact", "parity")
    return [
        {**{key: run[key] for key in keys if key in run}, "environment": environment}
        for run in content.get("runs", [])
        if run.get("parity") and not run.get("level")
    ]


@contextlib.contextmanager
def _parcels(wholes: Sequence[Bundle]) -> Iterator[tuple[parcel.Parcel, ...]]:
    with tempfile.TemporaryDirectory() as scratch:
        yield tuple(parcel.of_bundle(whole, Path(scratch, str(index))) for index, whole in enumerate(wholes))


def _ran(where: address.Address, patience: float, asked: Asked, verbosity: int = 0) -> Answer:
    """Run it there, and say what happens to the line and what is brought."""
    progress = TerminalProgress(verbosity)

    def say(line: str) -> None:
        console.say(line, err=True)

    with connection.connected(where, patience=patience, say=say) as line:
        return session.run(line, asked, progress, say)


def _print(answer: Answer, content: dict[str, Any], places: Mapping[str, str], *, as_json: bool) -> None:
    """Print what was printed there: on stderr what was, on stdout the same, or its JSON object."""
    for line in session.replaced(answer.outcome.err, places).splitlines():
        console.say(line, err=True)
    if not as_json:
        for line in session.replaced(answer.outcome.out, places).splitlines():
            console.say(line)
    elif content:
        console.emit(content)
    else:  # it ended before there was a result, and has said why as JSON
        for line in session.replaced(answer.outcome.out, places).splitlines():
            console.say(line)
        console.emitted_elsewhere()


def _kept(whole: Bundle, runs: Sequence[Mapping[str, Any]], *, held: str) -> tuple[str, str]:
    """Add runs to the bundle's report; a sentence about it, and its digest now, which is empty where it is as it was.

    What cannot be added, such as to a full disk, is said and no failure of what ran there.
    """
    if not runs:
        return f"{whole.path}: nothing ran that could be kept", ""
    host = run_device.host(runs[0])
    figures.check({versions.KEY: SCHEMA_VERSION, "runs": list(runs)}, f"what {host} gave", DeviceError)
    if held:
        return f"not kept in {whole.path}: {held}", ""
    try:
        digest = keep_runs.keep_runs(whole, runs)
    except (WriteError, BundleError) as error:
        return f"not kept in {whole.path}: {error}", ""
    if digest:
        return f"kept in {whole.path} as run on {host}; its digest is now {digest}", digest
    return f"not kept in {whole.path}: it is signed", ""
