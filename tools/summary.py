"""What a person reads at the end: tables and sentences made from results."""

from __future__ import annotations

from collections.abc import Sequence

from attn_export.deploy_tests.backends import DEFAULT
from attn_export.deploy_tests.latency.comparison import LatencyComparison
from attn_export.deploy_tests.latency.measure import Latency
from attn_export.deploy_tests.parity.accuracy import Accuracy, Flip
from attn_export.deploy_tests.parity.compare import Parity
from attn_export.pipeline.manifest import StageResult
from attn_export.pipeline.mutation_score import MutantResult
from attn_export.pipeline.outcome import DeployResult
from attn_export.pipeline.report.units import size
from attn_export.reparam.result import Refusal
from attn_export.types import JsonDict
from attn_export.untrusted.text import few


def stages(outcome: DeployResult) -> tuple[str, tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """One row a stage: nodes, size, parity with its bound, latency with its interval; with the title and headings."""
    rows = tuple(
        (
            step.name,
            "" if step.nodes is None else str(step.nodes),
            "" if step.bytes is None else size(step.bytes),
            *_error(step.parity),
            _latency(step.latency),
        )
        for step in outcome.stages
    )
    headings = ("stage", "nodes", "size", "worst error vs. float64", "limit", "latency p50 [95 %]")
    return f"{outcome.subject.name}, weights {outcome.subject.weights}", headings, rows


def _error(parity: Parity) -> tuple[str, str]:
    """Return the worst error and its limit, in the measure that the precision is held to."""
    if parity.centred:
        least = parity.centred[0].least
        limit = parity.centred[0].limit_db
        asked = "" if limit is None else f"centred {limit:g} dB"
        return f"centred SNR {least.median_db:.1f} dB (worst {least.worst.snr_db:.1f} dB)", asked
    worst = parity.worst
    if parity.snr_db_limit is not None:
        figure, asked = f"SNR {worst.snr_db:.1f} dB", f"SNR {parity.snr_db_limit:g} dB"
        if parity.varying is not None and parity.varying.outputs:
            figure += f", centred {parity.varying.least.median_db:.1f} dB"
            asked += f", centred {parity.varying.limit_db:g} dB"
        return f"{worst.error:.3g}  ({figure})", asked
    return (
        f"{worst.error:.3g}  ({worst.normalized_error:.2f}x noise)",
        f"{worst.error_limit:.3g}  ({parity.normalized_limit:g}x)",
    )


def sentences(outcome: DeployResult) -> list[str]:
    """Return what was done and how well, in lines that need no table."""
    lines = []
    if outcome.fusion:
        before, after = _nodes(outcome.stages)
        certificate = outcome.fusion.certificate
        lines.append(
            f"fused: {len(outcome.fusion.sites)} regions, {before} → {after} nodes,"
            f" worst error {certificate.worst:.1e} in float64 (limit {certificate.bound:g})"
        )
        lines += _left(outcome.fusion.refusals)
    if outcome.stages[-1].parity.centred and len(outcome.stages) > 1:
        lines.append(outcome.stages[-2].parity.summary())
    lines.append(outcome.stages[-1].parity.summary())
    if outcome.quantised is not None:
        lines += _int8(outcome.quantised)
    if outcome.int8_mutation:
        lines.append(f"int8, {outcome.int8_mutation.summary()}")
        lines += [
            f"  survived: {one.name}, {one.reason}" for one in outcome.int8_mutation.mutants if _worth_saying(one)
        ]
    if outcome.mutation:
        lines.append(outcome.mutation.summary())
        lines += [f"  survived: {fate.name}, {fate.reason}" for fate in outcome.mutation.mutants if _worth_saying(fate)]
    if outcome.comparison:
        lines.append(comparison(outcome.comparison))
    return lines


def _int8(made: JsonDict, most: int = 6) -> list[str]:
    """Say what of a model is in int8, what it does to accuracy, and what stays in float and why."""
    floats = made["float_sites"]
    lines = [f"int8: {made['int8_sites']} of {made['int8_sites'] + len(floats)} layers, ranges by {made['method']}"]
    if ratio := made["ratio"]:
        lines[0] += f"; {ratio['value']:.3f} [{ratio['low']:.3f}, {ratio['high']:.3f}] of the float32 model's time"
    if accuracy := made["accuracy"]:
        flips = tuple(Flip(**flip) for flip in accuracy["flips"])
        lines.append(Accuracy(**{**accuracy, "flips": flips}).summary())
        if flips:
            lines.append(f"  answered differently: {few((flip.image for flip in flips), most)}")
    lines += [f"  in float: {one['op']} {one['node']}: {one['reason']}" for one in floats[:most]]
    return [*lines, *([f"  in float: {len(floats) - most} more; report.html lists them"] if len(floats) > most else [])]


def _left(refusals: Sequence[Refusal], most: int = 6) -> list[str]:
    """Say what was not fused and why: the first of each condition with their number; the bundle has all of them."""
    alike: dict[tuple[str, str], list[Refusal]] = {}
    for refusal in refusals:
        alike.setdefault((refusal.kind, refusal.reason.split(" (")[0]), []).append(refusal)
    ranked = sorted(alike.values(), key=len, reverse=True)
    lines = [
        f"not fused: {len(same)} × like {same[0]}" if len(same) > 1 else f"not fused: {same[0]}" for same in ranked
    ]
    rest = sum(map(len, ranked[most:]))
    return [*lines[:most], *([f"not fused: {rest} more; report.html lists them"] if rest else [])]


def _worth_saying(fate: MutantResult) -> bool:
    return fate.verdict == "survived" and not fate.caught_by_audit


def comparison(contest: LatencyComparison, candidate: str = "fused", baseline: str = "original") -> str:
    """Say which model is faster, with the interval and the control."""
    control = f"A/A control {contest.control}, {len(contest.pairs)} process pairs, {contest.clock}"
    if contest.void:
        return f"latency {candidate} vs. {baseline}: no ratio, as the A/A run is not 1.0: {control}"
    ratio = contest.ratio
    turned = f"{baseline}/{candidate} {1 / ratio.estimate:.3f} [{1 / ratio.high:.3f}, {1 / ratio.low:.3f}]"
    return f"latency {turned} on {DEFAULT}: {_VERDICTS[contest.verdict].format(candidate)} ({control})"


_VERDICTS = {"faster": "{} is faster", "slower": "{} is slower", "no difference shown": "no difference shown"}


def _latency(latency: Latency | None) -> str:
    if latency is None:
        return ""
    middle = latency.median()
    return f"{middle.estimate:.3g} ms [{middle.low:.3g}, {middle.high:.3g}]"


def _nodes(steps: tuple[StageResult, ...]) -> tuple[int | None, int | None]:
    counted = [step.nodes for step in steps if step.nodes is not None and not step.parity.centred]
    return counted[0], counted[-1]
