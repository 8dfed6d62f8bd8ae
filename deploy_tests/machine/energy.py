"""What a machine can tell of the energy that it takes: a counter of joules, or sensors of power.

``energy_uj`` counters (RAPL: Intel and AMD; readable by the administrator alone on most systems), the INA3221 of
NVIDIA's Jetson boards, and a battery's gauge while it discharges. Each covers another part of the machine, which is
said: a processor's package, what a board draws, a whole laptop. Every reading is taken from a root folder.

Names and units of the files are the kernel's (its documents on powercap, hwmon and power_supply) and, for older boards,
those of NVIDIA's driver (``in_power0_input`` in milliwatts).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from attn_export.deploy_tests.machine import sysfs

#: Rails of a Jetson that carry all that its module draws, by board; the first that is there is taken.
_WHOLE = ("VDD_IN", "VIN_SYS_5V0", "POM_5V_IN", "SYS_VIN_HV", "VIN_SYS_CV5")


@dataclass(frozen=True)
class Source:
    """One that can tell, and how.

    Attributes:
        name: ``rapl``, ``ina3221`` or ``battery``.
        covers: which part of the machine it measures, in words.
        counts: whether it counts energy; else it says power at a moment.
        block: seconds over which its figures mean something: it is renewed several times in them.
        files: counters with the value at which they begin again, or the files whose product is the power.
    """

    name: str
    covers: str
    counts: bool
    block: float
    files: Mapping[Path, int]


def source(root: Path = Path("/")) -> Source | None:
    """Find what can tell here: a board's own sensor before the processor's counter before the battery; or None."""
    return _jetson(root) or _rapl(root) or _battery(root)


def counters(one: Source) -> dict[Path, int]:
    """Read the counters of a source that counts, in microjoules; what cannot be read is left out."""
    return {path: value for path in one.files if (value := sysfs.number(path)) is not None}


def joules(one: Source, before: Mapping[Path, int], after: Mapping[Path, int]) -> float | None:
    """Energy between two readings: each counter may have begun again once. None where one of them was not read.

    >>> one = Source("rapl", "", True, 0.2, {Path("a"): 1000})
    >>> joules(one, {Path("a"): 900}, {Path("a"): 150})
    0.000251
    """
    if set(before) != set(one.files) or set(after) != set(one.files):
        return None
    return sum((after[path] - before[path]) % (most + 1) for path, most in one.files.items()) / 1e6


def watts(one: Source) -> float | None:
    """Read the power at this moment from a source that does not count; None where it is not said, or cannot be."""
    values = [sysfs.number(path) for path in one.files]
    product = 1.0
    for value, unit in zip(values, one.files.values(), strict=True):
        if value is None:
            return None
        product *= abs(value) / unit
    return product if 0 < product < 1e4 else None


def _rapl(root: Path) -> Source | None:
    """Take each package; its parts, and a laptop's ``psys`` around it, would count the same energy twice."""
    found = {}
    for zone in sorted((root / "sys/class/powercap").glob("*rapl*:*")):
        whole = re.fullmatch(r"[a-z-]*rapl[a-z-]*:\d+", zone.name) and sysfs.text(zone / "name").startswith("package")
        most = sysfs.number(zone / "max_energy_range_uj")
        if whole and most and sysfs.number(zone / "energy_uj") is not None and "mmio" not in zone.name:
            found[zone / "energy_uj"] = most
    return Source("rapl", f"{len(found)} processor package(s)", True, 0.2, found) if found else None


def _jetson(root: Path) -> Source | None:
    rails: dict[str, Mapping[Path, int]] = {}
    for monitor in sorted((root / "sys/class/hwmon").glob("hwmon*")):
        if sysfs.text(monitor / "name") != "ina3221":
            continue
        for label in sorted(monitor.glob("in*_label")):
            number = label.name.removeprefix("in").removesuffix("_label")
            volts, amperes = monitor / f"in{number}_input", monitor / f"curr{number}_input"
            if sysfs.number(volts) is not None and sysfs.number(amperes) is not None:
                rails[sysfs.text(label)] = {volts: 1000, amperes: 1000}  # millivolts and milliamperes
    for device in sorted((root / "sys/bus/i2c/drivers/ina3221x").glob("*/iio:device*")):
        for label in sorted(device.glob("rail_name_*")):
            power = device / f"in_power{label.name.removeprefix('rail_name_')}_input"
            if sysfs.number(power) is not None:
                rails[sysfs.text(label)] = {power: 1000}  # milliwatts
    rail = next((name for name in _WHOLE if name in rails), None)
    return Source("ina3221", f"the module's supply ({rail})", False, 1.0, rails[rail]) if rail else None


def _battery(root: Path) -> Source | None:
    for supply in sorted((root / "sys/class/power_supply").glob("*")):
        if sysfs.text(supply / "type") != "Battery" or sysfs.text(supply / "status") != "Discharging":
            continue
        power, current, volts = (supply / name for name in ("power_now", "current_now", "voltage_now"))
        micro = 1_000_000
        if sysfs.number(power):
            return Source("battery", "the whole machine", False, 4.0, {power: micro})
        if sysfs.number(current) and sysfs.number(volts):
            return Source("battery", "the whole machine", False, 4.0, {current: micro, volts: micro})
    return None
