"""``bench --all``: every artifact of a bundle on every backend here that takes it, as one ranking."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table

from attn_export import bundle
from attn_export.deploy_tests.identity import identify
from attn_export.deploy_tests.latency.comparison import Rules
from attn_export.deploy_tests.ranking import Ranked, Ranking, rank
from attn_export.errors import GateError, InconclusiveError
from attn_export.tools import console
from attn_export.tools.commands import stored
from attn_export.tools.progress import TerminalProgress

_COLUMNS = ("", "artifact", "runtime", "time ratio [95 %]", "A/A control", "smallest seen", "clock", "error", "verdict")


def bench_all(path: Path, rules: Rules, store: Path | None = None, *, as_json: bool, verbosity: int) -> None:
    """Measure everything of a bundle against its main artifact, and print the fastest first.

    Raises:
        GateError: something of it is wrong here.
        InconclusiveError: a model against itself was not 1.
    """
    progress = TerminalProgress(verbosity)
    root = stored.prepared(store)
    whole = bundle.read(path)
    with progress.stage("every artifact on every backend"):
        found = rank(whole, rules, progress.detail)
    _keep(root, whole, found, rules)
    console.result({"bundle": str(path), **found.to_dict()}, as_json=as_json)
    if not as_json:
        _say(path, found, rules)
    if wrong := [row.name for row in (found.baseline, *found.rows) if row.parity is not None and not row.parity.ok]:
        raise GateError(f"{path} failed verification, so it was not timed: {', '.join(wrong)}")
    if void := [row for row in found.rows if row.comparison is not None and row.comparison.void]:
        said = ", ".join(f"{row.name} {row.comparison.control}" for row in void if row.comparison is not None)
        raise InconclusiveError(f"no ratio for some: expected an A/A run of 1.0, got {said}; use a quieter machine")


def _keep(root: Path | None, whole: bundle.Bundle, found: Ranking, rules: Rules) -> None:
    """Put every ratio into the store."""
    case = next(index for index, one in enumerate(whole.cases) if one.name == found.case)
    rows = [row for row in found.rows if row.comparison is not None]
    name, plain = found.baseline.name, found.to_dict()
    runs = [{"environment": found.machine, "comparison": row.to_dict(name)["comparison"]} for row in rows]
    subjects = [
        stored.subject(whole, row.artifact, identify(row.backend).to_dict(), threads=rules.threads, case=case)
        for row in rows
    ]
    stored.keep(root, "bench", subjects, {**plain, "runs": runs})


def _say(path: Path, found: Ranking, rules: Rules) -> None:
    machine = found.machine
    threads = "1 thread" if rules.threads == 1 else f"{rules.threads} threads"
    console.say(
        f"{path} on {machine['processor']}, {machine['cores']} cores, load {machine['load']}; {threads},"
        f" case '{found.case}'; run here (E2)"
    )
    table = Table()
    for name in _COLUMNS:
        table.add_column(name)
    measured = [row for row in found.rows if not row.fault]
    faster = [row for row in measured if row.place < (0, 1.0)]
    main = found.baseline
    for place, row in enumerate([*faster, main, *measured[len(faster) :]], 1):
        table.add_row(*map(console.cell, (str(place), *(_main(row) if row is main else _cells(row)))))
    console.show(table)
    console.say(*(f"not timed: {row.name}: {row.fault}" for row in found.rows if row.fault))
    console.say(*(f"not here: {name}: {why}" for name, why in found.absent.items()))


def _main(row: Ranked) -> tuple[str, ...]:
    return row.artifact.summary(), row.version, "1", "", "", "", row.accuracy(), "baseline"


def _cells(row: Ranked) -> tuple[str, ...]:
    compared = row.comparison
    assert compared is not None
    figure = "" if compared.void else str(compared.ratio)
    return (
        row.artifact.summary(), row.version, figure, str(compared.control), f"{100 * compared.resolution:.2g} %",
        compared.clock, row.accuracy(), compared.verdict,
    )  # fmt: skip
