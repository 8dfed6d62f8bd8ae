"""The state a machine was in when something ran on it: clocks, governors, temperatures, throttling, power mode.

Every reading is taken from a root folder, so that a test can lay out any machine it likes. What a machine does not say
is left out.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from attn_export.deploy_tests.machine import sysfs

_CPU = "sys/devices/system/cpu"
#: Where a Raspberry Pi's firmware says that it is or was held back, as a number of bits.
_PI = "sys/devices/platform/soc/soc:firmware/get_throttled"
#: Where a Jetson says which power mode was chosen.
_NVPMODEL = "var/lib/nvpmodel/status"


def read(root: Path = Path("/")) -> dict[str, Any]:
    """Say what the machine says of its state now.

    Returns:
        ``mhz``: clocks by group of cores, or each core's own; ``governors``; ``celsius`` by sensor;
        ``throttled``: how often it slowed down for heat since it started; ``firmware_throttled``: a Raspberry Pi's
        bits; ``power_mode``: a Jetson's. Each is there where the machine says it.
    """
    groups = sorted((root / _CPU / "cpufreq").glob("policy*"), key=_order)
    if not groups:
        groups = sorted((root / _CPU).glob("cpu[0-9]*/cpufreq"), key=_order)
    clocks = [
        kilohertz / 1000 for group in groups if (kilohertz := sysfs.number(group / "scaling_cur_freq")) is not None
    ]
    governors = sorted({name for group in groups if (name := sysfs.text(group / "scaling_governor"))})
    counts = [
        count
        for cpu in (root / _CPU).glob("cpu[0-9]*")
        if (count := sysfs.number(cpu / "thermal_throttle/core_throttle_count")) is not None
    ]
    celsius = {}
    for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*"), key=_order):
        heat = sysfs.number(zone / "temp")
        if heat is not None and -60_000 < heat < 250_000:  # sensors that are off say anything
            celsius[f"{sysfs.text(zone / 'type') or 'unnamed'} ({zone.name})"] = heat / 1000
    found = {
        "mhz": clocks,
        "governors": governors,
        "celsius": celsius,
        "throttled": sum(counts) if counts else None,
        "firmware_throttled": sysfs.text(root / _PI) or None,
        "power_mode": sysfs.text(root / _NVPMODEL) or None,
    }
    return {name: value for name, value in found.items() if value not in (None, [], {})}


def _order(path: Path) -> tuple[int, str]:
    number = re.search(r"\d+", path.name) or re.search(r"\d+", path.parent.name)
    return int(number[0]) if number else 0, path.name
