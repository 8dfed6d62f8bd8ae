"""What on this machine would spoil a measurement, and what to do about it. Warnings, never a refusal.

Every reading is taken from a root folder, so that a test can lay out any machine it likes.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

#: Runnable tasks beyond ours, per core in use, from which a measurement is disturbed.
BUSY = 0.25


@dataclass(frozen=True)
class Warn:
    """One thing that spoils figures: which, what was found, and what to do."""

    kind: str
    found: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.found}; {self.remedy}"


def check(
    threads: int = 1, *, root: Path = Path("/"), load: float | None = None, cores: frozenset[int] | None = None
) -> tuple[Warn, ...]:
    """Look at governor, load, throttling, SMT, affinity and quota; ``load`` and ``cores`` are read if not given."""
    usable = cores if cores is not None else _affinity()
    busy = load if load is not None else _load()
    found = [
        _governor(root, usable),
        _turbo(root),
        _busy(busy, threads, len(usable)),
        _throttled(root, usable),
        _hot(root),
        _siblings(root, usable, threads),
        _pinned(usable, threads),
        _quota(root, threads),
    ]
    return tuple(warning for warning in found if warning)


def _governor(root: Path, cores: frozenset[int]) -> Warn | None:
    names = {_read(root, f"sys/devices/system/cpu/cpu{core}/cpufreq/scaling_governor") for core in cores} - {""}
    slow = sorted(names - {"performance"})
    if not slow:
        return None
    return Warn(
        "governor",
        f"the clock follows the load (governor {', '.join(slow)})",
        "fix it with `sudo cpupower frequency-set -g performance`",
    )


def _turbo(root: Path) -> Warn | None:
    intel = _read(root, "sys/devices/system/cpu/intel_pstate/no_turbo") == "0"
    other = _read(root, "sys/devices/system/cpu/cpufreq/boost") == "1"
    if not intel and not other:
        return None
    switch = "intel_pstate/no_turbo" if intel else "cpufreq/boost"
    return Warn(
        "turbo",
        "turbo is on: the clock falls as the chip warms",
        f"for figures that hold, `echo {'1' if intel else '0'} | sudo tee /sys/devices/system/cpu/{switch}`,"
        " or measure with --soak",
    )


def _busy(load: float, threads: int, cores: int) -> Warn | None:
    spare = max(0, cores - threads)
    if load <= spare + BUSY * threads:
        return None
    return Warn(
        "load",
        f"load is {load:.2f} on {cores} usable core(s), of which {threads} will measure",
        "stop other programs; absolute times are unreliable now, A/B ratios remain valid",
    )


def _throttled(root: Path, cores: frozenset[int]) -> Warn | None:
    counts = [_number(root, f"sys/devices/system/cpu/cpu{core}/thermal_throttle/core_throttle_count") for core in cores]
    total = sum(count for count in counts if count)
    if not total:
        return None
    return Warn(
        "throttling",
        f"the processor has slowed down for heat {total} times since it started",
        "let it cool or cool it better, and watch the drift with --soak",
    )


def _hot(root: Path) -> Warn | None:
    for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*")):
        now, limit = _number(root, f"{zone.relative_to(root)}/temp"), _trip(root, zone)
        if now and limit and now > limit - 10_000:
            return Warn(
                "heat",
                f"{zone.name} is at {now / 1000:.0f} °C, within 10 of where it slows down ({limit / 1000:.0f} °C)",
                "wait until it has cooled",
            )
    return None


def _trip(root: Path, zone: Path) -> int | None:
    for kind in sorted(zone.glob("trip_point_*_type")):
        if kind.read_text(encoding="ascii").strip() == "passive":
            return _number(root, f"{zone.relative_to(root)}/{kind.name.replace('_type', '_temp')}")
    return None


def _siblings(root: Path, cores: frozenset[int], threads: int) -> Warn | None:
    groups = {_read(root, f"sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list") for core in cores} - {""}
    if not groups or all(group.isdigit() for group in groups) or threads <= len(groups):
        return None
    return Warn(
        "smt",
        f"{threads} threads on {len(groups)} physical core(s): hardware threads share one core's units",
        f"use --threads {len(groups)}",
    )


def _pinned(cores: frozenset[int], threads: int) -> Warn | None:
    if threads <= len(cores):
        return None
    return Warn(
        "affinity",
        f"{threads} threads may run on {len(cores)} core(s) only",
        f"use --threads {len(cores)}, or widen `taskset`",
    )


def _quota(root: Path, threads: int) -> Warn | None:
    quota, _, period = _read(root, "sys/fs/cgroup/cpu.max").partition(" ")
    if not quota.isdigit() or not period.isdigit() or int(quota) >= threads * int(period):
        return None
    return Warn(
        "quota",
        f"this container is given {int(quota) / int(period):.2f} cores, and is stopped when it has used them",
        "start it with a larger --cpus, or pin it to whole cores with --cpuset-cpus",
    )


def _affinity() -> frozenset[int]:
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


def _load() -> float:
    try:
        return os.getloadavg()[0]
    except (OSError, AttributeError):
        return 0.0


def _read(root: Path, path: str) -> str:
    try:
        return (root / path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _number(root: Path, path: str) -> int | None:
    text = _read(root, path)
    return int(text) if text.lstrip("-").isdigit() else None
