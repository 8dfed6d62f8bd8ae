"""How often ``history`` raises a false alarm on series that never changed, and finds a step that is there.

    python -m benchmarks.history_alarms

No clock is read: figures are drawn. What is drawn is what is assumed (independent and normal), and what is not: heavy
tails (Student's t with three degrees of freedom), and runs that each resemble the one before.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from attn_export.deploy_tests.history import change
from attn_export.deploy_tests.history.change import Sample
from attn_export.deploy_tests.history.judge import LEVEL

#: What one series has of the level in each of the three tests.
EACH = LEVEL / 3
TRIALS = 2000

#: By name: scatter between runs, a run's own, whether its tails are heavy, correlation with the run before.
WORLDS = {
    "between runs": (0.02, 0.0, False, 0.0),
    "within runs": (0.0, 0.02, False, 0.0),
    "both": (0.02, 0.01, False, 0.0),
    "heavy tails": (0.02, 0.005, True, 0.0),
    "correlation 0.3": (0.02, 0.005, False, 0.3),
    "correlation 0.6": (0.02, 0.005, False, 0.6),
}
COUNTS = (3, 5, 10, 30)
#: Runs before and after a step of 5 %, scatter between runs, a run's own.
STEPS = ((5, 5, 0.005, 0.005), (5, 5, 0.01, 0.005), (10, 10, 0.02, 0.01), (10, 1, 0.005, 0.005), (10, 1, 0.01, 0.005))


def drawn(
    seed: int, count: int, world: tuple[float, float, bool, float], step: float = 0.0, at: int = 0
) -> list[Sample]:
    """Draw a series, which changes by ``step`` at its run ``at``."""
    between, own, heavy, correlation = world
    rng, last, found = random.Random(seed), 0.0, []  # noqa: S311  # no secret
    for index in range(count):
        luck = rng.gauss(0, 1)
        if heavy:
            luck /= math.sqrt(rng.gammavariate(1.5, 1 / 1.5)) * math.sqrt(3)
        last = correlation * last + math.sqrt(1 - correlation**2) * luck if index else luck
        level = math.log1p(step) if index >= at else 0.0
        found.append(Sample(level + between * last + rng.gauss(0, own), own))
    return found


def alarmed(samples: Sequence[Sample]) -> tuple[bool, bool]:
    """Say whether a series is said to have changed, and whether its last run is said to differ."""
    earlier = change.stretches(samples[:-1], change.starts(samples[:-1], EACH))
    spread = change.spread(earlier)
    if spread[1] < 1:
        return len(change.starts(samples, EACH)) > 1, False
    last = change.compare(earlier[-1], samples[-1:], spread, EACH)
    return len(change.starts(samples, EACH)) > 1, not last.low <= 1 <= last.high


def main() -> None:
    """Print both tables."""
    print(f"| series that never change | {' | '.join(f'{count} runs' for count in COUNTS)} |")
    print(f"|---|{'---|' * len(COUNTS)}")
    for name, world in WORLDS.items():
        rates = []
        for count in COUNTS:
            trials = TRIALS if count < 30 else TRIALS // 4
            alarms = sum(any(alarmed(drawn(7919 * i + count, count, world))) for i in range(trials))
            rates.append(f"{100 * alarms / trials:.1f} %")
        print(f"| {name} | {' | '.join(rates)} |")
    print("\n| a step of 5 % | between runs | within | found | by its very run |\n|---|---|---|---|---|")
    for before, after, between, own in STEPS:
        found = exact = 0
        for seed in range(TRIALS // 4):
            samples = drawn(seed, before + after, (between, own, False, 0.0), 0.05, before)
            found += any(alarmed(samples))
            exact += before in change.starts(samples, EACH)
        shares = " | ".join(f"{100 * one / (TRIALS // 4):.0f} %" for one in (found, exact))
        print(f"| {before} before, {after} after | {100 * between:g} % | {100 * own:g} % | {shares} |")


if __name__ == "__main__":
    main()
