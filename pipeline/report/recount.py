"""Verdicts computed again from the figures that they were made of: what a report says of itself is not believed.

Each function gives the answer that follows from the figures, and what was recorded otherwise, in words.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from attn_export import bundle
from attn_export.deploy_tests.latency import budget
from attn_export.deploy_tests.latency.comparison import LatencyComparison, summarise
from attn_export.deploy_tests.latency.statistics import Interval
from attn_export.errors import UsageError

#: What rounding to decimals and back, or adding in another order, may move a figure, relative.
SAME = 1e-6


@dataclass(frozen=True)
class Recount:
    """An answer with how the record departs from it; empty where it does not."""

    good: bool
    odd: str = ""


def output(row: Mapping[str, Any], parity: Mapping[str, Any]) -> Recount:
    """Tell whether one output lies within its limit, by its error alone."""
    error, limit, normalized, snr = (row.get(name) for name in ("error", "error_limit", "normalized_error", "snr_db"))
    most, least = parity["normalized_limit"], parity.get("snr_db_limit")
    if row.get("failure") or row.get("user_tolerance_failure"):
        return Recount(False)
    if error is None or limit is None:
        return Recount(False, "there is neither an error nor a failure")
    if (odd := _normalized(error, limit, normalized, most)) or (odd := _snr(error, limit, snr, most)):
        return Recount(False, odd)
    if (odd := _slices(row, most, least)) or not _slices_within(row):
        return Recount(False, odd)
    if least is None:
        return Recount(error <= limit * (1 + SAME))
    return Recount(snr is None or snr >= least)


def _normalized(error: float, limit: float, recorded: float | None, most: float) -> str:
    """Say how a recorded normalized error departs from what it is made of."""
    if not limit:
        fits = (recorded is None) == (error > 0)
        return "" if fits else f"the normalized error is recorded as {recorded}, but the error limit is zero"
    computed = error / limit * most
    if recorded is None or not math.isclose(recorded, computed, rel_tol=SAME, abs_tol=1e-12):
        said = "∞" if recorded is None else f"{recorded:.3g}"
        return f"the normalized error is recorded as {said}, but error and limit give {computed:.3g}"
    return ""


def _snr(error: float, limit: float, snr: float | None, normalized_limit: float) -> str:
    """Say how a recorded ratio departs from what it can be at all: the error limit is never below its floor.

    >>> _snr(1.0, 1.0, 200.0, 4.0)
    'a signal-to-noise ratio of 200 dB is recorded, but error and limit allow 114 dB at most'
    """
    if snr is None:
        return "" if error <= limit else "no signal-to-noise ratio is recorded, but the error is beyond its limit"
    if not error:
        return ""
    if not limit:
        return f"a signal-to-noise ratio of {snr:.3g} dB is recorded, but the error limit is zero"
    most = 20 * (math.log10(limit) - math.log10(normalized_limit * bundle.FLOOR) - math.log10(error))
    if snr > most + 20 * SAME:
        return f"a signal-to-noise ratio of {snr:.3g} dB is recorded, but error and limit allow {most:.3g} dB at most"
    return ""


def _slices_within(row: Mapping[str, Any]) -> bool:
    error, limit = row.get("slice_normalized_error"), row.get("slice_limit")
    return error is not None and limit is not None and error <= limit * (1 + SAME)


def _slices(row: Mapping[str, Any], most: float, least: float | None) -> str:
    """Say how the limit of the slices departs from what it can be: that of the whole output, at its own precision."""
    limit = row.get("slice_limit")
    highest = bundle.UNEVEN * (most if least is None else max(most, 10 ** (-least / 20) / bundle.FLOOR))
    if limit is None or limit > highest * (1 + SAME):
        return f"its slices are held to {limit}x their float32 noise floor, and no more than {highest:.3g}x counts"
    return ""


def parity(manifest: Mapping[str, Any], found: Mapping[str, Any], artifact: str = "") -> list[str]:
    """List what is wrong with a run's parity as a whole: its limits, its verdict, and what it leaves out."""
    odd = []
    wanted = tolerance(manifest, artifact)
    if found["normalized_limit"] > bundle.TOLERANCE:
        given = f"{found['normalized_limit']:g}x the float32 noise floor"
        odd.append(f"its limit is {given}, and no more than {bundle.TOLERANCE:g}x counts")
    limits = found.get("snr_db_limit"), wanted.get("snr_db_limit")
    if wanted and limits[0] != limits[1]:
        here, own = ("the float32 noise floor" if limit is None else f"{limit:g} dB" for limit in limits)
        odd.append(f"it is held to {here}, the bundle to {own}")
    rows = found.get("comparisons", [])
    kept = list(found.get("centred") or [])
    varying = found.get("varying") or {}
    kept += [varying] if varying.get("outputs") else []
    good = (
        bool(rows or kept) and all(output(row, found).good for row in rows) and all(centred(one).good for one in kept)
    )
    odd += [one for item in kept if (one := centred(item).odd)]
    odd += _int8_limits(manifest, found, artifact)
    if (limit := varying.get("limit_db")) is not None and limit < bundle.VARYING_DB and rows:
        odd.append(f"of what varies it is held to {limit:g} dB, and no less than {bundle.VARYING_DB:g} dB counts")
    if found.get("ok", good) != good:
        said, is_so = ("holds" if ok else "fails" for ok in (found["ok"], good))
        odd.append(f"the record says that parity {said}, but by its figures it {is_so}")
    pairs = [(row["case"], row["output"]) for row in rows]
    if len(set(pairs)) != len(pairs):
        odd.append("an output of a case is in it twice")
    cases, outputs = manifest.get("cases"), manifest.get("outputs")
    if cases and _quantisation(manifest, artifact) is not None:  # it is judged on the user's data alone
        files = (manifest.get("data") or {}).get("files") or {}
        cases = [case for case in cases if case in files]
    if cases and outputs and pairs:
        every = {(case, port["name"]) for case in cases for port in outputs}
        if missing := sorted(every - set(pairs)):
            case, name = missing[0]
            odd.append(f"{len(missing)} of {len(every)} comparisons are missing, such as {name} of case '{case}'")
    return odd


def centred(found: Mapping[str, Any]) -> Recount:
    """Tell by its images alone whether a model below float32 keeps what it must of what varies."""
    odd = ""
    judged = 0
    good = True
    for one in found["outputs"]:
        images = one["images"]
        half = float(median(image["snr_db"] for image in images))
        if not odd and not math.isclose(half, one["median_db"], rel_tol=SAME, abs_tol=1e-9):
            said = f"the median of {one['output']} is recorded as {one['median_db']:.1f} dB"
            odd = f"{said}, but its images give {half:.1f}"
        good &= not any(image.get("failure") for image in images)
        limit = found.get("limit_db")
        enough = limit is None or half >= limit
        # Of the little that varies enough may be kept: then that counts as well.
        if one["share"] >= bundle.VARIES or (limit is not None and enough):
            judged += 1
            good &= enough
    good &= judged > 0
    if not odd and found["ok"] != good:
        odd = f"the record says that it {'holds' if found['ok'] else 'fails'}, but by its images it does not"
    return Recount(good and not odd, odd)


def _int8_limits(manifest: Mapping[str, Any], found: Mapping[str, Any], artifact: str) -> list[str]:
    """Say where an int8 model was not held to what its bundle says: to the original, and to its own meaning."""
    own = _quantisation(manifest, artifact)
    if own is None:
        return []
    limits = [one.get("limit_db") for one in found.get("centred") or []]
    wanted = [own.get("limit_db"), tolerance(manifest, artifact).get("snr_db_limit")]
    # It is held to more where it had more when it was made, and where its meaning itself keeps more.
    if len(limits) == 2 and all(
        least is None or (limit or 0) >= least for limit, least in zip(limits, wanted, strict=True)
    ):
        return []
    return [f"it is held to {_decibels(limits)}, the bundle to {_decibels(wanted)}"]


def _decibels(limits: Sequence[float | None]) -> str:
    return " and ".join("nothing" if limit is None else f"{limit:g} dB" for limit in limits) or "nothing"


def _quantisation(manifest: Mapping[str, Any], artifact: str) -> Mapping[str, Any] | None:
    known: list[Mapping[str, Any]] = manifest.get("artifacts") or []
    return next((one.get("quantisation") for one in known if one.get("name") == artifact), None)


def tolerance(manifest: Mapping[str, Any], artifact: str = "") -> Mapping[str, Any]:
    """Find what an artifact is held to; the first unless one is named, and nothing where none is known."""
    known: list[Mapping[str, Any]] = manifest.get("artifacts") or []
    named = [one for one in known if one.get("name") == artifact] or known
    found: Mapping[str, Any] = (named[0].get("tolerance") if named else None) or {}
    return found


def comparison(found: Mapping[str, Any]) -> tuple[LatencyComparison | None, str]:
    """Compute a comparison of latencies again from its process pairs; None where there are too few."""
    pairs = [(float(effect), float(control)) for effect, control in found["pairs"]]
    if len(pairs) < 2 or min(map(min, pairs)) <= 0:
        return None, "its process pairs give no interval"
    try:
        again = summarise([(math.log(effect), math.log(control)) for effect, control in pairs], str(found["clock"]))
        verdict = again.verdict
        again.to_dict("", "")
    except (ArithmeticError, ValueError):  # ratios that no two models ever had
        return None, "its process pairs give no interval"
    if verdict != found["verdict"]:
        return again, f"the record says {found['verdict']!r}, but its process pairs give {verdict!r}"
    for name, interval in (("ratio", again.ratio), ("control", again.control)):
        if not _alike(interval, found[name]):
            return again, f"the {name} is recorded as {found[name]['estimate']:.3f}, but its pairs give {interval}"
    return again, ""


def _alike(interval: Interval, recorded: Mapping[str, Any]) -> bool:
    ends = ((getattr(interval, end), recorded[end]) for end in ("estimate", "low", "high"))
    return all(math.isclose(one, other, rel_tol=SAME) for one, other in ends)


def budget_verdict(item: Mapping[str, Any]) -> tuple[str, str]:
    """Judge a budget by its figures: the verdict, and how the record departs from it."""
    measured = item["measured"]
    low, high = measured.get("low"), measured.get("high")
    interval = Interval(
        measured.get("estimate") or 0.0, -math.inf if low is None else low, math.inf if high is None else high
    )
    verdict = budget.BudgetResult(item["text"], interval, item["limit"], item.get("unit", "")).verdict
    odd = "" if verdict == item["verdict"] else f"the record says {item['verdict']!r}, but its figures give {verdict!r}"
    try:
        typed = budget.parse(item["text"]).limit
    except UsageError:  # of a comparison, which has words of its own
        typed = item["limit"]
    if not math.isclose(typed, item["limit"], rel_tol=SAME):
        odd = f"it is held to {item['limit']:g}, which is not what it says"
    return verdict, odd


def mutation(found: Mapping[str, Any]) -> tuple[int, int, tuple[str, ...], str]:
    """Count killed, survived and vacuous by the verdict on each mutant, and say how the record departs from them."""
    mutants = found.get("mutants")
    said = int(found.get("killed", 0)), int(found.get("survived", 0)), tuple(found.get("vacuous") or ())
    if mutants is None:
        return *said, ""
    killed, survived = (sum(mutant["verdict"] == word for mutant in mutants) for word in ("killed", "survived"))
    trivial = (mutant for mutant in mutants if mutant["kind"] in bundle.TRIVIAL and mutant["verdict"] != "killed")
    vacuous = tuple(dict.fromkeys((*said[2], *(mutant["name"] for mutant in trivial))))
    odd = ""
    if (killed, survived) != said[:2]:
        odd = f"the record says {said[0]} killed and {said[1]} survived, but its mutants give {killed} and {survived}"
    elif set(vacuous) - set(said[2]):
        odd = f"the record does not say that {vacuous[-1]} passes"
    return killed, survived, vacuous, odd


def missed(found: Mapping[str, Any]) -> tuple[str, ...]:
    """Name the kinds of injected faults of which something survives that no graph audit sees."""
    rows = (
        row for row in found.get("mutants") or () if row["verdict"] == "survived" and not row.get("caught_by_audit")
    )
    return tuple(dict.fromkeys(str(row["kind"]) for row in rows))
