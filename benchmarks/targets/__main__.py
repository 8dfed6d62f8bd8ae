"""Try the catalogue on a target, and write what came as the page ``docs/targets.md``.

    python -m benchmarks.targets run --to NAMES [--entries se,repvgg] [--preset test] [--limit 180] [--faults] [--time]
    python -m benchmarks.targets run --to NAMES --bundles DIR    from what `attn-export sweep --fuse` left there
    python -m benchmarks.targets ranking FILE…     with what `attn-export bench BUNDLE --all --json` printed
    python -m benchmarks.targets page

``run`` takes each entry through the main job, as ``attn-export ENTRY --fuse --to NAME`` would, for one target after the
other in one process that is replaced when an entry takes too long or takes it along; what all targets need is made
once. Rows are added to ``docs/targets.d/NAME.jsonl`` as they come; what is there is not run again unless it is named.
Whatever compiles for hardware that is not here may write rows of the same fields by itself.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path

from attn_export.export.converters import CONVERTERS, parse
from attn_export.mechanisms import MECHANISMS
from benchmarks.targets import rankings
from benchmarks.targets import row as rows
from benchmarks.targets.attempt import Attempt
from benchmarks.targets.page import page
from benchmarks.targets.row import Row
from benchmarks.targets.worker import Worker

DOCS = Path(__file__).resolve().parents[2] / "docs"
ROWS, PAGE, RANKINGS = DOCS / "targets.d", DOCS / "targets.md", DOCS / "rankings.jsonl"
#: Gives the row of a target, an entry and a preset.
Trying = Callable[[str, str, str], Row]
#: Seconds that one entry may take.
LIMIT = 180.0


def known(folder: Path = ROWS) -> list[Row]:
    """Read the rows of every target."""
    return [row for file in sorted(folder.glob("*.jsonl")) for row in rows.read(file).values()]


def rendered(folder: Path = ROWS, file: Path = RANKINGS) -> str:
    """Render what was kept."""
    return page(known(folder), list(MECHANISMS), rankings.section(rankings.read(file)))


def wanted(entries: Iterable[str], done: Mapping[str, Row]) -> list[str]:
    """Choose what is named, in that order; without names, what has no row.

    Raises:
        UnknownNameError: there is no such entry.
    """
    named = list(entries)
    for name in named:
        MECHANISMS.entry(name)
    return named or [name for name in MECHANISMS if name not in done]


def run(
    targets: Sequence[str], entries: Iterable[str], preset: str, limit: float, attempt: Trying, folder: Path = ROWS
) -> None:
    """Try entries on targets, and keep their rows.

    Raises:
        UnknownNameError, ExportError: as ``parse`` and ``wanted``.
        SystemExit: the converter is not installed.
    """
    for target in targets:
        name, _ = parse(target)
        if why := CONVERTERS[name].missing():
            raise SystemExit(f"--to {target}: {why}")
    folder.mkdir(parents=True, exist_ok=True)
    files = {target: rows.file_of(folder, target) for target in targets}
    before = {target: rows.read(file) for target, file in files.items()}
    asked = {target: wanted(entries, before[target]) for target in targets}
    worker = Worker(attempt, limit)
    try:
        for entry in dict.fromkeys(entry for some in asked.values() for entry in some):
            for target in (target for target in targets if entry in asked[target]):
                row = worker.row(target, entry, preset).onto(before[target].get(entry))
                rows.append(files[target], row)
                _say(row)
    finally:
        worker.end()
        for file in files.values():
            rows.write(file, rows.read(file).values())


def _say(row: Row) -> None:
    said = f"k {row.k:.2f}" if row.k is not None else f"{row.snr_db:.1f} dB" if row.snr_db is not None else ""
    sys.stderr.write(f"{row.target} {row.entry}: {row.reason or said} ({row.seconds} s)\n")


def main(words: list[str]) -> None:
    """Run what is wanted, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("page", help="only write the page")
    running = commands.add_parser("run", help="try entries on a target")
    running.add_argument("--to", required=True, metavar="NAMES", help="converters, perhaps with a precision")
    running.add_argument("--entries", default="", metavar="NAMES", help="some entries; also those that have a row")
    running.add_argument("--preset", default="test", help="of each entry")
    running.add_argument("--limit", type=float, default=LIMIT, metavar="SECONDS", help="for one entry")
    running.add_argument("--faults", action="store_true", help="plant wrong files, too, and see them caught")
    running.add_argument("--time", action="store_true", help="compare times, too")
    running.add_argument("--bundles", type=Path, metavar="DIR", help="where bundles of the entries lie, or are to lie")
    ranked = commands.add_parser("ranking", help="keep what bench --all --json printed")
    ranked.add_argument("files", nargs="+", type=Path, metavar="FILE")
    asked = parser.parse_args(words)
    if asked.command == "run":
        targets, entries = (list(filter(None, text.split(","))) for text in (asked.to, asked.entries))
        with tempfile.TemporaryDirectory() as folder:
            attempt = Attempt(asked.bundles or Path(folder), asked.faults, asked.time)
            run(targets, entries, asked.preset, asked.limit, attempt)
    if asked.command == "ranking":
        for file in asked.files:
            day = datetime.fromtimestamp(file.stat().st_mtime, timezone.utc).strftime("%Y-%m-%d")
            rankings.append(RANKINGS, rankings.kept(file.read_text(encoding="utf-8"), day))
    PAGE.write_text(rendered(), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
