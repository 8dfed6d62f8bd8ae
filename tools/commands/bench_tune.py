"""``bench --tune``: faster settings of the runtime for one model, with the proof that they are."""

from __future__ import annotations

from pathlib import Path

from attn_export import bundle
from attn_export.deploy_tests.latency.comparison import LatencyComparison
from attn_export.deploy_tests.machine import environment
from attn_export.deploy_tests.measurement import thread_counts
from attn_export.deploy_tests.tuning import Setting, Tuned, tune
from attn_export.tools import console
from attn_export.tools.progress import TerminalProgress


def bench_tune(
    typed: str,
    path: Path,
    usual: Setting,
    seconds: float,
    *,
    as_json: bool,
    verbosity: int,
) -> None:
    """Search, confirm, and print what to paste.

    Raises:
        InconclusiveError: a model against itself was not 1.
    """
    progress = TerminalProgress(verbosity)
    with progress.stage(f"tuning {typed}"):
        counts = tuple(sorted({*thread_counts(), usual.threads}))
        found = tune(bundle.read(path), usual, counts, seconds, progress.detail)
    machine = environment.describe(usual.backend)
    console.result({"bundle": str(path), "environment": machine, **found.to_dict()}, as_json=as_json)
    if not as_json:
        console.say(*_lines(found))
    if found.comparison:
        found.comparison.refuse_void()


def would_show(compared: LatencyComparison) -> str:
    """Say what a comparison could have shown, whatever it did."""
    return f"a difference of {100 * compared.resolution:.2g} % would have been seen"


def _lines(found: Tuned) -> list[str]:
    lines = [f"usual: {found.usual.summary()}", f"tried: {found.tried} ways"]
    lines += [f"wrong, so not offered: {name}: {why}" for name, why in found.wrong.items()]
    compared = found.comparison
    if compared is None:
        return [*lines, "nothing faster was found: the usual settings came first in the search"]
    lines.append(
        f"best: {found.best.summary()}: {compared.ratio} times the usual, control {compared.control},"
        f" {len(compared.pairs)} process pairs, {compared.clock}; {would_show(compared)}"
    )
    if not found.confirmed:
        why = "the control is not 1" if compared.void else "the test does not confirm what the search found"
        return [*lines, f"not confirmed: {why}; stay with the usual settings"]
    return [*lines, "confirmed, and proven by the bundle's own parity:", *(f"    {line}" for line in found.lines)]
