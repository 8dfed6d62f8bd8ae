"""Prove bundles on x86-64 and on emulated ARM processors, and write ``docs/arm64.md``: what k is on one and the others.

    attn-export sweep --preset test --no-variants --mutants none -o WORK/catalogue
    attn-export net.py:build --input … --fuse --no-bench -o WORK/networks/NAME
    python -m benchmarks.arm64 WORK

Each folder in WORK is a section. What was proven is kept beside it, as WORK/SECTION.PROCESSOR.json, and not run again.
The runtimes' section is a list of what ``attn-export verify BUNDLE --backend NAME --json`` printed here, and with
``--emulate aarch64 --cpu PROCESSOR`` there; its rows are called after the runtimes, too.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from attn_export import bundle
from attn_export.deploy_tests import backends

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE, ROWS = DOCS / "arm64.md", DOCS / "arm64.json"
HERE = "x86_64"
PROCESSORS = ("cortex-a72", "max")
#: Of the largest, how many are listed.
SHOWN = 12
HEAD = """# On ARM, emulated

Written by `python -m benchmarks.arm64`. Every bundle was made on x86-64, and verified again by `attn-export verify
--emulate aarch64` on ARM's build of ONNX Runtime under an emulator of programs: the same cases and the same float64
reference. k is the error in units of what a correct float32 run differs by itself; four of them pass.

`cortex-a72` is the processor of many boards; `max` has all instructions that the emulator knows, such as SVE, bfloat16
and int8 products, for which the runtime has other kernels. This proves arithmetic, and that the base install works
there. It says nothing about time, on any device.

Other runtimes were run from their own wheels for ARM, by `--backend NAME`. ExecuTorch could not be: its wheel asks for
a package that x86-64 alone has, by a condition that pip answers for the machine that it runs on.
"""


@dataclass(frozen=True)
class Row:
    """One bundle: its largest k by processor, and why it was not proven where that was so."""

    section: str
    name: str
    k: Mapping[str, float]
    failures: Mapping[str, str] = field(default_factory=dict)

    def ratio(self, processor: str) -> float | None:
        """K there over k here."""
        here, there = self.k.get(HERE), self.k.get(processor)
        return there / here if here and there is not None else None


def verified(bundles: Sequence[Path], processor: str) -> list[dict[str, Any]]:
    """Verify bundles in one process, and give an object for each; where that dies, in two, so that one is blamed."""
    command = [sys.executable, "-m", "attn_export", "verify", *map(str, bundles), "--json", "--timeout", "0"]
    if processor != HERE:
        command += ["--emulate", "aarch64", "--cpu", processor]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    found = json.loads(done.stdout)
    if "bundles" in found:
        return list(found["bundles"])
    if len(bundles) == 1:
        return [{"bundle": str(bundles[0]), **found}]
    half = len(bundles) // 2
    return verified(bundles[:half], processor) + verified(bundles[half:], processor)


def read(work: Path, section: str, processor: str) -> list[dict[str, Any]]:
    """Give what was verified, from the file that keeps it where that is there."""
    kept = work / f"{section}.{processor}.json"
    if not kept.exists():
        bundles = sorted(file.parent for file in (work / section).glob(f"*/{bundle.MANIFEST}"))
        kept.write_text(json.dumps(verified(bundles, processor)), encoding="utf-8")
    return list(json.loads(kept.read_text(encoding="utf-8")))


def rows(work: Path) -> tuple[list[Row], dict[str, str]]:
    """Give a row for each bundle of each section, and by processor what it was run on."""
    found: dict[tuple[str, str], Row] = {}
    machines: dict[str, str] = {}
    for section in sorted(path.name for path in work.iterdir() if path.is_dir()):
        for processor in (HERE, *PROCESSORS):
            for one in read(work, section, processor):
                name = Path(one["bundle"]).name + _runtime(one)
                before = found.get((section, name), Row(section, name, {}))
                runs = [run["parity"] for run in one.get("runs", []) if "parity" in run]
                errors = [item["normalized_error"] for parity in runs for item in parity["comparisons"]]
                k = {processor: round(max(errors), 4)} if errors and None not in errors else {}
                ok = bool(runs) and all(parity["ok"] for parity in runs)
                why = {} if ok else {processor: str(one.get("error") or "parity fails")}
                found[section, name] = Row(section, name, {**before.k, **k}, {**before.failures, **why})
                if (machine := one.get("environment")) and (not _runtime(one) or machine.get("emulated")):
                    machines[processor + _runtime(one)] = _machine(machine)
    return list(found.values()), machines


def _runtime(one: Mapping[str, Any]) -> str:
    """Name what a bundle ran on where that is not the usual runtime."""
    others = [run for run in one.get("runs", ()) if run.get("backend", backends.DEFAULT) != backends.DEFAULT]
    names = dict.fromkeys(run["backend"] for run in others)
    return f" on {', '.join(names)}" if names else ""


def _machine(environment: Mapping[str, Any]) -> str:
    libraries = environment["libraries"]
    names = ("onnxruntime", "numpy") if "onnxruntime" in libraries else sorted(libraries)
    versions = ", ".join(f"{name} {libraries[name]}" for name in names)
    return f"{environment.get('emulated') or environment['processor']}; Python {environment['python']}, {versions}"


def page(found: Sequence[Row], machines: Mapping[str, str]) -> str:
    """Write the page."""
    parts = [HEAD]
    for section in dict.fromkeys(row.section for row in found):
        inside = [row for row in found if row.section == section]
        parts.append(f"## {section.capitalize()}\n\n" + _table(_SUMMARY, [_summary(inside, p) for p in PROCESSORS]))
        failed = [f"- `{row.name}` on {p}: {why}" for row in inside for p, why in row.failures.items()]
        parts.append("Failed: " + ("\n\n" + "\n".join(failed) if failed else "none.") + "\n")
        largest = sorted(inside, key=lambda row: -max((row.k.get(p, 0.0) for p in PROCESSORS), default=0.0))[:SHOWN]
        shown = [(f"`{row.name}`", *(_number(row.k.get(p)) for p in (HERE, *PROCESSORS))) for row in largest]
        parts.append("The largest k on ARM:\n\n" + _table(("bundle", HERE, *PROCESSORS), shown))
    parts.append("## Run on\n\n" + "\n".join(f"- {name}: {text}" for name, text in machines.items()) + "\n")
    return "\n".join(parts)


_SUMMARY = ("processor", "proven", "largest k", "of", "largest k / k on x86_64", "of", "median of that")


def _summary(inside: Sequence[Row], processor: str) -> tuple[str, ...]:
    tried = [row for row in inside if processor in {**row.k, **row.failures}]
    proven = f"{sum(processor not in row.failures for row in tried)} of {len(tried)}"
    proven += f", {len(inside) - len(tried)} not tried" if len(tried) < len(inside) else ""
    ran = [row for row in tried if processor in row.k]
    ratios = sorted((ratio, row.name) for row in ran if (ratio := row.ratio(processor)) is not None)
    if not ratios:
        return (processor, proven, *[""] * 5)
    worst = max(ran, key=lambda row: row.k[processor])
    median = statistics.median(ratio for ratio, _ in ratios)
    return (
        processor, proven, _number(worst.k[processor]), f"`{worst.name}`",
        _number(ratios[-1][0]), f"`{ratios[-1][1]}`", f"{median:.3f}",
    )  # fmt: skip


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *lines)) + "\n"


def main() -> None:
    """Verify what lies in the folder that is named, and write the page with its rows."""
    found, machines = rows(Path(sys.argv[1]))
    content = {"machines": machines, "rows": [asdict(row) for row in found]}
    ROWS.write_text(json.dumps(content, indent=0) + "\n", encoding="utf-8")
    PAGE.write_text(page(found, machines), encoding="utf-8")
    print(PAGE)


if __name__ == "__main__":
    main()
