"""What Vela left: its table of operators, its summary, and the reasons that it printed."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attn_export.deploy_tests.compiling.evidence import CpuNode

_REASON = re.compile(
    r"^Warning \(supported operators\) operator: [^,\n]*, ofm: '(?P<name>[^'\n]*)'\n"
    r" *(?:- )?(?:Reason: )?(?P<why>[^\n]+)",
    re.MULTILINE,
)
#: Columns of the summary that are kept, with what they are called: what the compiler's model of the chip says.
_FIGURES = {
    "cycles_npu": "NPU cycles",
    "cycles_total": "cycles in all",
    "sram_memory_used": "KiB of SRAM",
    "dram_memory_used": "KiB of DRAM",
}
_SETTING = {"system_config": "system configuration", "memory_mode": "memory mode"}


def operators(table: Path, said: str) -> tuple[int, tuple[CpuNode, ...]]:
    """Read the table of operators: how many run on the NPU, and each that stays on the CPU with the reason.

    Raises:
        KeyError: it has no such columns.
    """
    reasons = {match["name"]: match["why"].strip() for match in _REASON.finditer(said)}
    accelerator, cpu = 0, list[CpuNode]()
    with table.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["Target"] == "NPU":
                accelerator += 1
                continue
            name = row["Name"].strip()
            cpu.append(CpuNode(name, row["Original Operator"], reasons.get(name, "")))
    return accelerator, tuple(cpu)


def estimate(summary: Path) -> dict[str, Any]:
    """Read the compiler's own estimate, and of which system it is; no time, for none was measured.

    Raises:
        KeyError, ValueError: it is no such table.
    """
    with summary.open(encoding="utf-8", newline="") as file:
        row: Mapping[str, str] = next(csv.DictReader(file), {})
    figures = {title: float(row[column]) for column, title in _FIGURES.items()}
    return {title: row[column] for column, title in _SETTING.items()} | figures
