"""Set the catalogue against the modules of External-Attention-pytorch: their graphs, and deployed speed.

    git clone https://github.com/xmu-xiaoma666/External-Attention-pytorch ORIGINALS && pip install einops
    python -m benchmarks.originals --checkout ORIGINALS --work DIR --prepare
    python -m benchmarks.originals --work DIR --measure [--only NAME …] [--json OUT]

The first phase may run on a busy machine: it keeps graphs and findings in DIR. The second only times, on a quiet
machine; it goes on where it was stopped, and writes ``docs/originals.md``. Each row is a process with a time limit.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from attn_export import bundle
from attn_export.deploy_tests.backends import BACKENDS
from attn_export.deploy_tests.latency.comparison import Rules, compare_latency
from attn_export.deploy_tests.machine import environment
from attn_export.errors import AttnExportError
from benchmarks.original_rows import ROWS
from benchmarks.originals_page import page, verdict

EXAM, SPEED, ABOUT = "exam.json", "speed.json", "about.json"
OURS, FREE, ORIGINAL = "ours.onnx", "free.onnx", "original.onnx"
PAGE = Path(__file__).resolve().parents[1] / "docs" / "originals.md"
#: Seconds that examining one row may take.
LIMIT = 400
#: About ten seconds a row: short blocks, the processes that a comparison needs.
RULES = Rules(processes=5, rounds=6, block=0.03)


def prepare(names: Iterable[str], checkout: Path, work: Path, again: bool) -> None:
    """Examine each row in a process of its own; a row that breaks or takes too long stops no other."""
    work.mkdir(parents=True, exist_ok=True)
    git = ["git", "-C", str(checkout), "rev-parse", "HEAD"]
    done = subprocess.run(git, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        _write(work / ABOUT, {"commit": done.stdout.strip()})
    for name in names:
        folder = work / name
        if (folder / EXAM).exists() and not again:
            continue
        folder.mkdir(exist_ok=True)
        command = [sys.executable, "-m", "benchmarks.original_exam", name, str(checkout), str(folder)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LIMIT)
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            said = "examined" if done.returncode == 0 else f"exit code {done.returncode}: {last}"
        except subprocess.TimeoutExpired:
            said = f"stopped after {LIMIT} s"
        print(f"{name}: {said}", flush=True)


def measure(names: Iterable[str], work: Path, rules: Rules, again: bool) -> None:
    """Time every row whose original exports; what was measured on the same graphs is kept."""
    for name in names:
        folder = work / name
        models, free = (folder / OURS, folder / ORIGINAL), folder / FREE
        if not all(model.exists() for model in models):
            continue
        key = [bundle.sha256(model) for model in (*models, free) if model.exists()]
        if not again and (folder / SPEED).exists() and _read(folder / SPEED)["key"] == key:
            continue
        try:
            contest = compare_latency(*models, folder / bundle.CASES, rules=rules)
            beside = compare_latency(free, models[1], folder / bundle.CASES, rules=rules) if free.exists() else None
        except AttnExportError as error:
            print(f"{name}: {error}", flush=True)
            continue
        speed = {
            "key": key,
            **contest.to_dict("ours", "original"),
            "free": beside.to_dict("ours, any batch", "original") if beside else None,
        }
        _write(folder / SPEED, speed)
        print(f"{name}: {contest.ratio}, control {contest.control}: {verdict(name, speed)}", flush=True)
        if beside:
            print(f"{name}, any batch: {beside.ratio}, control {beside.control}: {beside.verdict}", flush=True)


def collect(work: Path) -> tuple[list[dict[str, Any]], dict[str, dict[str, Any]], dict[str, str]]:
    """Read what both phases left, in the order of the rows."""
    folders = {row.name: work / row.name for row in ROWS}
    exams = [_read(folder / EXAM) for folder in folders.values() if (folder / EXAM).exists()]
    speeds = {name: _read(folder / SPEED) for name, folder in folders.items() if (folder / SPEED).exists()}
    about = _read(work / ABOUT) if (work / ABOUT).exists() else {}
    return exams, speeds, about


def _read(file: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return content


def _write(file: Path, content: dict[str, Any]) -> None:
    partial = file.with_name(f".{file.name}.partial")
    partial.write_text(json.dumps(content, indent=1), encoding="utf-8")
    partial.replace(file)


def _machine() -> str:
    here = environment.describe()
    return f"{here['processor']}, {BACKENDS['onnxruntime'].version()}"


def main() -> None:
    """Run the phases asked for, then write the page from everything there is."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--checkout", type=Path, help="of External-Attention-pytorch; only --prepare reads it")
    words.add_argument("--work", type=Path, required=True, help="where graphs and findings are kept")
    words.add_argument("--prepare", action="store_true")
    words.add_argument("--measure", action="store_true")
    words.add_argument("--only", nargs="+", default=[row.name for row in ROWS], metavar="NAME")
    words.add_argument("--processes", type=int, default=RULES.processes)
    words.add_argument("--again", action="store_true", help="do not keep what is there")
    words.add_argument("--json", type=Path, help="write all figures here as well")
    words.add_argument("--page", type=Path, default=PAGE)
    asked = words.parse_args()
    if unknown := set(asked.only) - {row.name for row in ROWS}:
        words.error(f"no such row: {', '.join(sorted(unknown))}")
    if asked.prepare:
        if asked.checkout is None:
            words.error("--prepare needs --checkout")
        prepare(asked.only, asked.checkout, asked.work, asked.again)
    if asked.measure:
        measure(asked.only, asked.work, Rules(asked.processes, RULES.rounds, RULES.block), asked.again)
        about = _read(asked.work / ABOUT) if (asked.work / ABOUT).exists() else {}
        _write(asked.work / ABOUT, {**about, "machine": _machine()})
    exams, speeds, about = collect(asked.work)
    asked.page.write_text(page(exams, speeds, about), encoding="utf-8")
    if asked.json:
        _write(asked.json, {"rows": exams, "speeds": speeds, "about": about})
    print(asked.page)


if __name__ == "__main__":
    main()
