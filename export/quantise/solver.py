"""Which layers go back to float32, so that what was asked for holds at the least cost in time.

noise of a layer    what the error loses when that layer alone is in float: measured, one run of the held-out data each
order               noise for time: the time is the layer's own in float32, as it was measured
after every step    the whole is measured again: noises do not add up, and a sum of them is too hopeful by some dB
at the end          a layer goes back to int8 where the aim holds without it
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from attn_export.export.quantise.judge import Kept
from attn_export.export.quantise.quantised import Point

#: What is kept with these layers in float.
Measure = Callable[[frozenset[str]], Kept]


@dataclass(frozen=True)
class Solution:
    """Layers that stay in float.

    Attributes:
        lifted: their keys, and what each one's own noise was, as a share of all of it.
        kept: with these in float.
        front: what was measured, from all in int8 on.
    """

    lifted: Mapping[str, float]
    kept: Kept
    front: tuple[Point, ...]


def solve(
    keys: Sequence[str],
    measure: Measure,
    least: float | None,
    costs: Mapping[str, float],
    said: Callable[[str], None],
    names: Mapping[str, str],
) -> Solution:
    """Lift layers until ``measure`` reaches ``least``; all of them, where it never does.

    Args:
        keys: of layers that are in int8 at first.
        measure: see ``Measure``; it is asked once for each layer, and once for each step.
        least: in dB; None lifts nothing. The median of cases that nobody has seen is to reach it
            (``Kept.sure``); where that leaves nothing in int8, the median of these cases.
        costs: time of each layer in float; equal where it is not known.
        said: told what is being done.
        names: of layers, for people.
    """
    none = frozenset[str]()
    kept = measure(none)
    front = [Point("all in int8", kept.median, None, 0)]
    if least is None or kept.sure >= least:
        return Solution({}, kept, tuple(front))
    noise = shares_of_noise(keys, measure, kept.low, said)
    dear = max(costs.values(), default=0.0) or 1.0

    def worth(key: str) -> float:
        return noise[key] / max(costs.get(key, dear), 0.01 * dear)

    order = sorted(keys, key=worth, reverse=True)
    lifted, hopeful = none, None
    for key in order:
        lifted |= {key}
        said(f"{len(lifted)} layers in float: {kept.sure:.1f} dB are sure, {least:g} asked")
        kept = measure(lifted)
        front.append(Point(f"{names[key]} in float", kept.median, None, len(lifted)))
        if kept.sure >= least:
            lifted, kept = _without_needless(lifted, order, costs, measure, least, kept, front)
            break
        if kept.median >= least and hopeful is None:
            hopeful = lifted, kept
    if len(lifted) == len(keys) and hopeful is not None:
        lifted, kept = hopeful  # of so few cases no int8 is sure; the median of those that there are holds
    return Solution({key: noise[key] for key in order if key in lifted}, kept, tuple(front))


def shares_of_noise(keys: Sequence[str], measure: Measure, low: float, said: Callable[[str], None]) -> dict[str, float]:
    """Measure how much of the noise goes away when one layer alone is in float; 0 where none does.

    ``low``: of all in int8, as ``Kept`` has it.
    """
    found = {}
    for index, key in enumerate(keys):
        said(f"noise of layers, {index + 1} of {len(keys)}")
        found[key] = max(0.0, 1 - 10 ** ((low - measure(frozenset([key])).low) / 10))
    return found


def _without_needless(
    lifted: frozenset[str],
    order: Sequence[str],
    costs: Mapping[str, float],
    measure: Measure,
    least: float,
    kept: Kept,
    front: list[Point],
) -> tuple[frozenset[str], Kept]:
    """Bring back what the aim holds without: the dearest first, and never the last that was lifted."""
    last = next(key for key in reversed(order) if key in lifted)
    for key in sorted(lifted - {last}, key=lambda key: -costs.get(key, 1.0)):
        fewer = lifted - {key}
        if (now := measure(fewer)).sure >= least:
            lifted, kept = fewer, now
            front.append(Point("fewer in float", kept.median, None, len(lifted)))
    return lifted, kept
