"""Verdicts computed again from the figures that they were made of: what a report says of itself is not believed.

Each function gives the answer that follows from the figures, and what was recorded otherwise, in words.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
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


def comparison(row: Mapping[str, Any], parity: Mapping[str, Any]) -> Recount:
    """Whether one output lies within its bound, by its error alone."""
    error, bound, k, snr = (row.get(name) for name in ("error", "bound", "k", "snr"))
    tolerance, least = parity["tolerance"], parity.get("snr")
    if row.get("fault") or row.get("user_fault"):
        return Recount(False)
    if error is None or bound is None:
        return Recount(False, "there is no error and no fault")
    if (odd := _k(error, bound, k, tolerance)) or (odd := _snr(error, bound, snr, tolerance)):
        return Recount(False, odd)
    if least is None:
        return Recount(error <= bound * (1 + SAME))
    return Recount(snr is None or snr >= least)


def _k(error: float, bound: float, k: float | None, tolerance: float) -> str:
    """How a recorded k departs from what it is made of."""
    if not bound:
        return "" if (k is None) == (error > 0) else f"k is recorded as {k}, and the bound is zero"
    computed = error / bound * tolerance
    if k is None or not math.isclose(k, computed, rel_tol=SAME, abs_tol=1e-12):
        return f"k is recorded as {'∞' if k is None else f'{k:.3g}'}, and error and bound give {computed:.3g}"
    return ""


def _snr(error: float, bound: float, snr: float | None, tolerance: float) -> str:
    """How a recorded ratio departs from what it can be at all: the bound is never below its floor, nor the truth above.

    >>> _snr(1.0, 1.0, 200.0, 4.0)
    'a signal-to-noise ratio of 200 dB is recorded, and error and bound allow 114 dB at most'
    """
    if snr is None:
        return "" if error <= bound else "no signal-to-noise ratio is recorded, and the error is beyond the bound"
    if not error:
        return ""
    if not bound:
        return f"a signal-to-noise ratio of {snr:.3g} dB is recorded, and the bound is zero"
    most = 20 * (math.log10(bound) - math.log10(tolerance * bundle.FLOOR) - math.log10(error))
    if snr > most + 20 * SAME:
        return f"a signal-to-noise ratio of {snr:.3g} dB is recorded, and error and bound allow {most:.3g} dB at most"
    return ""


def parity(manifest: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """What is wrong with a run's parity as a whole: its limits, its verdict, and what it leaves out."""
    odd = []
    wanted = manifest.get("tolerance") or {}
    if found["tolerance"] > bundle.TOLERANCE:
        odd.append(f"it is held to k <= {found['tolerance']:g}, and no more than {bundle.TOLERANCE:g} counts")
    if wanted and found.get("snr") != wanted.get("snr"):
        came, own = ("k" if value is None else f"{value:g} dB" for value in (found.get("snr"), wanted.get("snr")))
        odd.append(f"it is held to {came}, the bundle to {own}")
    rows = found.get("comparisons", [])
    good = bool(rows) and all(comparison(row, found).good for row in rows)
    if found.get("ok", good) != good:
        said, is_so = ("holds" if ok else "fails" for ok in (found["ok"], good))
        odd.append(f"the record says that parity {said}, and by the figures it {is_so}")
    pairs = [(row["case"], row["output"]) for row in rows]
    if len(set(pairs)) != len(pairs):
        odd.append("an output of a case stands twice in it")
    cases, outputs = manifest.get("cases"), manifest.get("outputs")
    if cases and outputs and pairs:
        every = {(case, port["name"]) for case in cases for port in outputs}
        if missing := sorted(every - set(pairs)):
            case, output = missing[0]
            odd.append(f"{len(missing)} of {len(every)} comparisons are missing, such as {output} of case '{case}'")
    return odd


def contest(found: Mapping[str, Any]) -> tuple[LatencyComparison | None, str]:
    """The comparison of latencies as its process pairs give it; None where there are too few."""
    pairs = [(float(effect), float(control)) for effect, control in found["pairs"]]
    if len(pairs) < 2 or min(map(min, pairs)) <= 0:
        return None, "its process pairs give no interval"
    try:
        again = summarise([(math.log(effect), math.log(control)) for effect, control in pairs], str(found["clock"]))
        verdict = again.verdict
        again.to_dict()
    except (ArithmeticError, ValueError):  # ratios that no two models ever had
        return None, "its process pairs give no interval"
    if verdict != found["verdict"]:
        return again, f"the record says {found['verdict']!r}, and its process pairs give {verdict!r}"
    for name, interval in (("ratio", again.ratio), ("control", again.control)):
        if not _alike(interval, found[name]):
            return again, f"the {name} is recorded as {found[name]['estimate']:.3f}, and its pairs give {interval}"
    return again, ""


def _alike(interval: Interval, recorded: Mapping[str, Any]) -> bool:
    ends = ((getattr(interval, end), recorded[end]) for end in ("estimate", "low", "high"))
    return all(math.isclose(one, other, rel_tol=SAME) for one, other in ends)


def kept(item: Mapping[str, Any]) -> tuple[str, str]:
    """Whether a budget was kept, by its figures: the verdict, and how the record departs from it."""
    came = item["came"]
    low, high = came.get("low"), came.get("high")
    interval = Interval(
        came.get("estimate") or 0.0, -math.inf if low is None else low, math.inf if high is None else high
    )
    verdict = budget.BudgetResult(item["text"], interval, item["limit"], item.get("unit", "")).verdict
    odd = "" if verdict == item["verdict"] else f"the record says {item['verdict']!r}, and the figures {verdict!r}"
    try:
        typed = budget.parse(item["text"]).limit
    except UsageError:  # of a comparison, which has words of its own
        typed = item["limit"]
    if not math.isclose(typed, item["limit"], rel_tol=SAME):
        odd = f"it is held to {item['limit']:g}, which is not what was allowed"
    return verdict, odd


def mutants(found: Mapping[str, Any]) -> tuple[int, int, tuple[str, ...], str]:
    """Caught, survived and vacuous, by the fate of each planted fault, and how the record departs from them."""
    fates = found.get("fates")
    said = int(found.get("caught", 0)), int(found.get("survived", 0)), tuple(found.get("vacuous") or ())
    if fates is None:
        return *said, ""
    count = {word: sum(fate["verdict"] == word for fate in fates) for word in ("caught", "survived")}
    trivial = (fate for fate in fates if fate["kind"] in bundle.TRIVIAL and fate["verdict"] != "caught")
    vacuous = tuple(dict.fromkeys((*said[2], *(fate["name"] for fate in trivial))))
    odd = ""
    if (count["caught"], count["survived"]) != said[:2]:
        odd = f"the record says {said[0]} caught and {said[1]} survived, and the fates are {count}"
    elif set(vacuous) - set(said[2]):
        odd = f"the record does not say that {vacuous[-1]} passes"
    return count["caught"], count["survived"], vacuous, odd
