"""Where a command's runs are kept, if anywhere: ``--store``, or a variable of the environment; and how they get there.

A file of a project cannot say it, as it cannot say where any result goes.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attn_export.deploy_tests.store import folder
from attn_export.deploy_tests.store import record as records
from attn_export.deploy_tests.store.record import Kind, Machine, Subject
from attn_export.errors import UsageError, WriteError
from attn_export.untrusted import plain_json

if TYPE_CHECKING:
    from attn_export.bundle import Artifact, Bundle

VARIABLE = "ATTN_EXPORT_STORE"


def asked(typed: Path | None) -> Path | None:
    """Say which store was asked for, if any.

    Raises:
        UsageError: the variable for it names none.
    """
    if typed is not None:
        return typed
    said = os.environ.get(VARIABLE, "")
    if said and not Path(said).is_absolute():
        raise UsageError(f"{VARIABLE}: expected an absolute path, got {said[:200]!r}")
    return Path(said) if said else None


def prepared(typed: Path | None) -> Path | None:
    """Say which store was asked for, and make sure that it can be written before anything is measured.

    Raises:
        UsageError: as ``asked``.
        WriteError: it cannot be written.
    """
    root = asked(typed)
    return None if root is None else folder.ready(root)


def keep(
    root: Path | None,
    kind: Kind,
    subjects: Sequence[Subject],
    report: Mapping[str, Any],
    *,
    when: float | None = None,
    machine: Machine | None = None,
) -> str | None:
    """Put a run into the store, where there is to be one, and return its name in it.

    Args:
        root: what ``prepared`` gave.
        kind: which command ran.
        subjects: what each of the report's runs was of.
        report: what was reported, with ``runs``.
        when: the run ended, in seconds since 1970; now unless given.
        machine: that measured; this one unless given.

    Raises:
        WriteError: it cannot be written.
    """
    if root is None:
        return None
    from attn_export.deploy_tests.machine.which import this_machine

    try:
        run = records.made(kind, machine or this_machine(), tuple(subjects), report, when)
    except ValueError as error:
        raise WriteError(
            f"--store {root}: the run is not one that can be read again, so it was not kept: {error}"
        ) from error
    return folder.put(root, run)


def keep_bundle(
    root: Path | None,
    kind: Kind,
    path: Path,
    *,
    when: float | None = None,
    more: Mapping[str, Any] | None = None,
    where: str = "",
) -> str | None:
    """Put what a bundle's own report says into the store: what the main job proved and measured.

    ``where`` is the machine that ran it, if that is not this one.

    Raises:
        BundleError: it cannot be read any more.
        WriteError: as ``keep``.
    """
    if root is None:
        return None
    from attn_export import bundle

    whole = bundle.read(path)
    report = bundle.report(whole)
    runs = [run for run in report["runs"] if run.get("artifact") and run.get("missing") is None]
    subjects = [
        subject(whole, whole.artifact(run["artifact"]), run, threads=(run.get("latency") or {}).get("threads", 1))
        for run in runs
    ]
    machine = elsewhere(where, runs)
    return keep(root, kind, subjects, {**report, **(more or {}), "runs": runs}, when=when, machine=machine)


def keep_report(root: Path, kind: Kind, path: Path, file: Path, threads: int, *, where: str = "") -> str | None:
    """Put what ``verify`` or ``bench`` printed of the bundle at ``path`` into the store.

    Raises:
        LoadError: the file or the bundle cannot be read.
        WriteError: as ``keep``.
    """
    from attn_export import bundle

    whole, report = bundle.read(path), plain_json.read(file)
    runs = [run for run in report.get("runs", ()) if run.get("artifact") and run.get("missing") is None]
    subjects = [subject(whole, whole.artifact(run["artifact"]), run, threads=threads) for run in runs]
    machine = elsewhere(where, [*runs, report])
    return keep(root, kind, subjects, {**report, "runs": runs}, machine=machine) if runs else None


def elsewhere(name: str, reports: Sequence[Mapping[str, Any]]) -> Machine | None:
    """Describe another machine by its name and what its reports say of it; None where it is this one."""
    if not name:
        return None
    around: Mapping[str, Any] = next((one["environment"] for one in reports if one.get("environment")), {})
    digest = hashlib.sha256(f"named {name}".encode("utf-8", "surrogateescape")).hexdigest()
    cores = len(around.get("affinity") or ()) or int(around.get("cores") or 0)
    return Machine(digest[:16], name, str(around.get("processor", "")), cores, str(around.get("emulated", "")))


def subject(
    whole: Bundle, artifact: Artifact, identity: Mapping[str, Any], *, threads: int, case: int = 0, clock: str = ""
) -> Subject:
    """Say what a run on this machine was of; ``identity`` has its backend, version and device."""
    from attn_export.deploy_tests.latency.comparison import clock_of

    facts, backend = whole.manifest["subject"], str(identity["backend"])
    inputs = whole.cases[case].inputs
    return Subject(
        name=str(facts["name"]),
        digest=whole.digest,
        fused=bool(facts["fused"]),
        artifact=artifact.name,
        precision=artifact.precision,
        backend=backend,
        version=str(identity.get("version", "")),
        device=str(identity.get("device", "")),
        threads=threads,
        clock=clock or clock_of((backend,), threads),
        inputs="; ".join(f"{name} {'x'.join(map(str, array.shape))}" for name, array in inputs.items())[:1000],
    )
