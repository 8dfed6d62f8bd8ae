"""One entry to one target, in this process."""

from __future__ import annotations

import math
import os
import tempfile
import time
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

from attn_export.bundle import CASES, Artifact, Bundle
from attn_export.deploy_tests import backends, open_bundle
from attn_export.deploy_tests.backends import backend_for
from attn_export.deploy_tests.latency.comparison import Rules, compare_latency
from attn_export.deploy_tests.latency.timed_model import common_case, timed_model
from attn_export.deploy_tests.machine import environment
from attn_export.deploy_tests.parity.compare import Parity
from attn_export.deploy_tests.parity.verify import verify
from attn_export.errors import (
    AttnExportError,
    BackendError,
    BackendMissingError,
    ExportError,
    InconclusiveError,
)
from attn_export.export.converters import CONVERTERS, Converted, parse
from attn_export.export.precision.classes import PrecisionClass
from attn_export.untrusted.text import first_line
from benchmarks.targets.faults import planted
from benchmarks.targets.prepared import Prepared, prepared
from benchmarks.targets.row import Row

#: Letters of a reason that a row keeps.
LONGEST = 600
#: Of a comparison: a third of what `bench` takes, for a catalogue of small networks.
RULES = Rules(processes=3, rounds=6, block=0.03)


@dataclass(frozen=True)
class Attempt:
    """Tries an entry; picklable, so that another process can.

    Attributes:
        bundles: where the entries' bundles lie, and are written where there is none.
        faults: whether wrong files are planted as well.
        time: whether what is right is timed as well.
    """

    bundles: Path
    faults: bool = False
    time: bool = False

    def __call__(self, target: str, entry: str, preset: str) -> Row:
        """Convert and prove one entry; whatever comes of it is a row.

        Raises:
            BackendMissingError: nothing here runs what the converter writes.
        """
        began = time.perf_counter()
        row = empty(target, entry, preset)
        try:
            row = self._row(row, prepared(self.bundles, entry, preset))
        except BackendMissingError:
            raise
        except AttnExportError as error:
            row = refused(row, error)
        except Exception as error:  # converters and runtimes may raise anything; that is their failure, and a row
            row = unforeseen(row, error)
        return replace(row, seconds=round(time.perf_counter() - began, 1))

    def _row(self, row: Row, one: Prepared) -> Row:
        row = replace(row, fused=bool((one.whole.manifest.get("fusion") or {}).get("sites")))
        with tempfile.TemporaryDirectory() as folder:
            whole, share = converted(one, row.target, Path(folder))
            try:
                row = proven(replace(row, converted=True, share_on_accelerator=share), whole)
            except BackendMissingError:
                raise
            except AttnExportError as error:
                return refused(row, error)
            if self.faults and row.right:
                row = replace(row, faults_caught=planted(one.faulty, whole, row.target))
            return timed(row, whole) if self.time and row.right else row


def converted(one: Prepared, to: str, folder: Path) -> tuple[Bundle, float | None]:
    """Convert an entry: its bundle with the file, which lies in ``folder``, and the share that fast kernels take.

    Raises:
        ExportError: the converter refuses it.
    """
    name, precision = parse(to)
    found = CONVERTERS[name].convert(replace(one.source, asked=precision))
    return beside(one.whole, found, PrecisionClass(one.source.model_precision), folder), found.taken


def beside(whole: Bundle, one: Converted, model: PrecisionClass, folder: Path) -> Bundle:
    """Give a bundle with what a converter wrote as its last artifact, whose files are written to ``folder``."""
    for name, content in one.files.items():
        (folder / name).write_bytes(content)
    held = one.held(model)
    artifact = Artifact(
        one.name,
        one.kind,
        tuple(folder / name for name in one.files),
        held.name,
        snr_db_limit=held.snr,
        target=one.target,
        produced_by=one.produced_by,
        narrowed_dims=one.narrowed_dims,
    )
    return replace(whole, artifacts=(*whole.artifacts, artifact))


def timed(row: Row, whole: Bundle) -> Row:
    """Time the artifact of a bundle that is not the main one against that; a ratio only where the control holds."""
    one, other = (
        timed_model(whole, made, backend_for(made.kind)) for made in (whole.artifacts[-1], whole.artifacts[0])
    )
    case = common_case(whole.cases, [open_bundle.narrowed(whole, made) for made in whole.artifacts])
    found = compare_latency(one, other, whole.path / CASES, case=case, rules=RULES)
    load = round(os.getloadavg()[0], 1)
    row = replace(row, control_low=found.control.low, control_high=found.control.high, load=load)
    if found.void:
        return row
    return replace(row, latency_ratio=found.ratio.estimate, ratio_low=found.ratio.low, ratio_high=found.ratio.high)


def empty(target: str, entry: str, preset: str) -> Row:
    """Begin a row: here and now."""
    now = datetime.now(timezone.utc).strftime("%Y-%m-%d")
    return Row(target, entry, preset, machine=environment.processor(), date=now)


def unforeseen(row: Row, error: Exception) -> Row:
    """Keep what was raised that is no error of ours."""
    return replace(row, reason=_short(f"{type(error).__name__}: {first_line(error)}"))


def proven(row: Row, whole: Bundle) -> Row:
    """Prove the artifact of a bundle that is not the main one, and say what came."""
    artifact = whole.artifacts[-1]
    backend = backend_for(artifact.kind)
    parity = verify(whole, backend, artifact=artifact.name)
    versions = {"converter": artifact.produced_by, "runtime": backends.BACKENDS[backend].version()}
    found = replace(row, ran=True, evidence="E2", versions=versions, left_out=len(parity.left_out))
    return judged(found, parity)


def judged(row: Row, parity: Parity) -> Row:
    """Say what the comparison gave, in the figure that the file is held to."""
    worst = parity.worst
    by_ratio = parity.snr_db_limit is not None
    k = worst.normalized_error if not by_ratio and math.isfinite(worst.normalized_error) else None
    snr = worst.snr_db if by_ratio and math.isfinite(worst.snr_db) else None
    return replace(row, k=k, snr_db=snr, reason="" if parity.ok else _short(parity.summary()))


def refused(row: Row, error: AttnExportError) -> Row:
    """Say how far it came: the class of the error tells."""
    reason = _short(first_line(error))
    if isinstance(error, ExportError):
        return replace(row, converted=False, reason=reason)
    if isinstance(error, BackendError):
        return replace(row, converted=True, ran=False, reason=reason)
    if isinstance(error, InconclusiveError):
        return replace(row, converted=True, reason=reason)
    return replace(row, reason=reason)


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST].rstrip()} …"
