"""Send single-node graphs through the real converters and compilers, and keep what these say.

    python -m benchmarks.probes run --target NAME [--bundles DIR] [--models DIR] [--seconds 1200]
    python -m benchmarks.probes compare --bundles DIR     with the rows of docs/targets.d
    python -m benchmarks.probes page

``--bundles`` are what ``attn-export sweep`` left, ``--models`` ONNX files of further networks: of each form of a node
in them one probe is cut, and what ``drawn`` holds comes behind. What is known of the same versions is not asked again.
Answers go to ``export/lint/probed/NAME.json``, which ``attn-export lint --target NAME`` reads.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from itertools import islice
from pathlib import Path

import onnx

from attn_export import bundle
from attn_export.deploy_tests.machine import environment
from attn_export.export.lint._probed import FOLDER, Probed
from benchmarks.probes import compare, compiled, converted, drawn
from benchmarks.probes.page import page
from benchmarks.probes.probe import Probe, cut, drawn_feeds

DOCS = Path(__file__).resolve().parents[2] / "docs"
COMPARED, PAGE, ROWS = DOCS / "lint.json", DOCS / "lint.md", DOCS / "targets.d"
TARGETS = ("openvino", "ncnn", "litert", "executorch", "qnn", "rknn", "ethos-u")
#: How many probes are sent at once: what came of them is on the disk before the next are sent.
AT_ONCE = 50


def probes(bundles: Path | None, models: Path | None) -> Iterator[Probe]:
    """Give a probe of every form: of the bundles, of further models, and what is drawn."""
    patterns = list(map(drawn.gelu, drawn.RANKS))
    yield from patterns
    known = {form for probe in patterns for form in probe.forms}
    for file in sorted(bundles.glob("*/model.onnx")) if bundles else []:
        whole = bundle.read(file.parent)
        one = [case for case in whole.cases if all(len(value) == 1 for value in case.inputs.values() if value.ndim)]
        yield from cut(onnx.load(file), (one or whole.cases)[0].inputs, file.parent.name, known)
    for file in sorted(models.glob("*.onnx")) if models else []:
        model = onnx.load(file)
        yield from cut(model, drawn_feeds(model), file.stem, known)
    yield from drawn.probes(known)


def run(target: str, some: Iterator[Probe], seconds: float, folder: Path = FOLDER) -> None:
    """Ask a target about probes until the time is up, and keep what it says."""
    how = compiled if target in compiled.COMPILERS else converted
    file = folder / f"{target.replace('-', '_')}.json"
    now = datetime.now(timezone.utc).strftime("%Y-%m-%d")
    kept = Probed.read(file) if file.exists() else None
    tools = how.versions(target)
    if kept is None or kept.tools != tools:
        kept = Probed(target, tools, environment.processor(), now, {})
    until = time.monotonic() + seconds
    left = (probe for probe in some if not kept.answers.keys() >= set(probe.forms))
    while time.monotonic() < until and (batch := list(islice(left, AT_ONCE))):
        found: dict[str, tuple[str, str]] = {}
        for probe, answer in how.answers(target, batch):
            found |= dict.fromkeys(probe.forms, (answer.kind, answer.reason))
        kept = kept.with_answers(found, now)
        kept.write(file)
        sys.stderr.write(f"{target}: {len(kept.answers)} forms; {summary(kept)}\n")


def known(folder: Path = FOLDER) -> dict[str, Probed]:
    """Read the answers of every target, by its name."""
    return {file.stem: Probed.read(file) for file in sorted(folder.glob("*.json"))}


def rendered() -> str:
    """Render what is kept."""
    found = json.loads(COMPARED.read_text(encoding="utf-8")) if COMPARED.exists() else []
    return page(known(), compare.of_dict(found))


def compare_all(bundles: Path) -> None:
    """Hold the rules of every target against the rows that there are, and keep what came."""
    found = [one for target in known() for one in compare.compared(target, bundles, ROWS)]
    lines = ",\n".join(json.dumps(one, ensure_ascii=False) for one in compare.to_dict(found))
    COMPARED.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


def summary(kept: Probed) -> str:
    """Count the answers."""
    kinds = [kind for kind, _ in kept.answers.values()]
    return ", ".join(f"{kinds.count(kind)} {kind}" for kind in sorted(set(kinds)))


def main(words: list[str]) -> None:
    """Ask or compare, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run", help="send probes to a target")
    running.add_argument("--target", required=True, choices=TARGETS)
    running.add_argument("--bundles", type=Path, metavar="DIR", help="what attn-export sweep left")
    running.add_argument("--models", type=Path, metavar="DIR", help="ONNX files of further networks")
    running.add_argument("--seconds", type=float, default=1e9, help="begin nothing after these")
    comparing = commands.add_parser("compare", help="hold the rules against the rows of whole networks")
    comparing.add_argument("--bundles", type=Path, required=True, metavar="DIR", help="what attn-export sweep left")
    commands.add_parser("page", help="only write the page")
    asked = parser.parse_args(words)
    if asked.command == "run":
        run(asked.target, probes(asked.bundles, asked.models), asked.seconds)
    if asked.command == "compare":
        compare_all(asked.bundles)
    PAGE.write_text(rendered(), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
