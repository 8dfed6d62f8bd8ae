"""Every artifact of a bundle on every backend here that takes it, each against the main one: which is fastest here.

What is wrong is not timed: an artifact is proven before it is measured. All are measured on one case, the first that
most of them take in one run, so that their ratios can be put in one order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from attn_export import bundle
from attn_export.bundle import Artifact, Bundle
from attn_export.deploy_tests import backends, open_bundle
from attn_export.deploy_tests.backends import BACKENDS
from attn_export.deploy_tests.latency.comparison import LatencyComparison, Rules, compare_latency
from attn_export.deploy_tests.latency.timed_model import runtime_for, timed_model
from attn_export.deploy_tests.machine import environment
from attn_export.deploy_tests.machine.emulated import refuse_to_measure
from attn_export.deploy_tests.parity.compare import Parity
from attn_export.deploy_tests.parity.verify import verify
from attn_export.errors import AttnExportError


@dataclass(frozen=True)
class Ranked:
    """One artifact on one backend.

    Attributes:
        artifact: what was run.
        backend: where.
        version: of the runtime, as it names itself.
        parity: whether it is right here; None where it did not run.
        comparison: its time over that of the main artifact; None where it was not measured.
        fault: why it was not; empty where it was.
    """

    artifact: Artifact
    backend: str
    version: str = ""
    parity: Parity | None = None
    comparison: LatencyComparison | None = None
    fault: str = ""

    @property
    def place(self) -> tuple[int, float]:
        """What it is sorted by: the ratio; what has none comes last."""
        if self.comparison is None or self.comparison.void:
            return 1, 0.0
        return 0, self.comparison.ratio.estimate

    @property
    def name(self) -> str:
        """What it is called, as it is typed."""
        return f"{self.artifact.name}@{self.backend}"

    def accuracy(self) -> str:
        """Say how right it is."""
        if self.parity is None:
            return ""
        worst = self.parity.worst
        if not self.parity.ok:
            return "wrong"
        if self.parity.centred:
            return f"{self.parity.centred[0].least.median_db:.1f} dB of what varies"
        if self.parity.snr_db_limit is not None:
            return f"{worst.snr_db:.1f} dB"
        return f"k {worst.normalized_error:.2f}"

    def to_dict(self, baseline: str) -> dict[str, Any]:
        """Give plain data, without the single comparisons of the parity."""
        facts = {"artifact": self.artifact.name, "kind": self.artifact.kind, "precision": self.artifact.precision}
        parity = self.parity and {
            "ok": self.parity.ok,
            "sentence": self.parity.summary(),
            "normalized_error": self.parity.worst.normalized_error if self.parity.snr_db_limit is None else None,
            "snr_db": self.parity.worst.snr_db if self.parity.snr_db_limit is not None else None,
            "centred_snr_db": self.parity.centred[0].least.median_db if self.parity.centred else None,
            "left_out": list(self.parity.left_out),
        }
        compared = self.comparison.to_dict(self.name, baseline) if self.comparison else None
        return {
            **facts,
            "backend": self.backend,
            "version": self.version,
            "parity": parity,
            "comparison": compared,
            "fault": self.fault,
        }


@dataclass(frozen=True)
class Ranking:
    """All of a bundle that can be run here, the fastest first.

    Attributes:
        baseline: the main artifact, where it is run.
        rows: the others.
        case: the name of the case that was measured.
        absent: by backend that takes something of the bundle and is not here, what it needs.
        machine: where this was; what is said of it is of level E2.
    """

    baseline: Ranked
    rows: tuple[Ranked, ...]
    case: str
    absent: dict[str, str]
    machine: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Give plain data."""
        name = self.baseline.name
        rows = [row.to_dict(name) for row in self.rows]
        return {
            "level": "E2",
            "environment": self.machine,
            "case": self.case,
            "baseline": self.baseline.to_dict(name),
            "ranking": rows,
            "absent": self.absent,
        }


def rank(whole: Bundle, rules: Rules | None = None, progress: Callable[[str], None] = lambda _: None) -> Ranking:
    """Prove and measure everything of a bundle that a backend here takes.

    Raises:
        InconclusiveError: the processor is emulated; before anything is run.
        BackendMissingError: nothing here takes the main artifact.
        AttnExportError: it does not run here.
    """
    refuse_to_measure()
    rule = rules or Rules()
    main = whole.artifacts[0]
    home = runtime_for(whole, main.name)
    baseline = _proven(whole, Ranked(main, home), rule.threads)
    if baseline.parity is None:
        raise AttnExportError(f"{baseline.name} is what others are measured against, and {baseline.fault}")
    others = [Ranked(artifact, name) for artifact, name in _pairs(whole) if (artifact, name) != (main, home)]
    index = _case(whole, [main, *(row.artifact for row in others)])
    rows = []
    for row in others:
        progress(row.name)
        rows.append(_measured(whole, _proven(whole, row, rule.threads), baseline, index, rule))
    bundle.unchanged(whole)
    absent = {name: why for name in BACKENDS if open_bundle.accepted(whole, name) and (why := backends.missing(name))}
    machine = environment.describe(*dict.fromkeys(row.backend for row in (baseline, *rows)))
    ordered = tuple(sorted(rows, key=lambda row: row.place))
    return Ranking(baseline, ordered, whole.cases[index].name, absent, machine)


def _pairs(whole: Bundle) -> Iterator[tuple[Artifact, str]]:
    here = [name for name in BACKENDS if backends.missing(name) is None]
    for artifact in whole.artifacts:
        for name in here:
            if artifact.kind in backends.traits(name).accepts:
                yield artifact, name


def _case(whole: Bundle, artifacts: Sequence[Artifact]) -> int:
    """Choose the case that most artifacts take in one run, the main one among them; of several the first."""
    takes = [open_bundle.narrowed(whole, artifact).takes for artifact in artifacts]
    counts = [sum(take(case.inputs) for take in takes) * takes[0](case.inputs) for case in whole.cases]
    return counts.index(max(counts))


def _proven(whole: Bundle, row: Ranked, threads: int) -> Ranked:
    try:
        row = replace(row, version=BACKENDS[row.backend].version())
        parity = verify(whole, row.backend, threads=threads, artifact=row.artifact.name)
    except AttnExportError as error:
        return replace(row, fault=str(error))
    return replace(row, parity=parity, fault="" if parity.ok else parity.summary())


def _measured(whole: Bundle, row: Ranked, baseline: Ranked, index: int, rules: Rules) -> Ranked:
    case = whole.cases[index]
    if row.fault:
        return row
    if not open_bundle.narrowed(whole, row.artifact).takes(case.inputs):
        return replace(row, fault=f"it does not take case '{case.name}' in one run")
    one, other = (timed_model(whole, side.artifact, side.backend) for side in (row, baseline))
    try:
        compared = compare_latency(one, other, whole.path / bundle.CASES, case=index, rules=rules)
    except AttnExportError as error:
        return replace(row, fault=str(error))
    return replace(row, comparison=compared)
