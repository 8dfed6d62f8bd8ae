"""The catalogue through the compilers for chips that are not here: rows beside those of the converters.

    python -m benchmarks.targets.compiled --target qnn:sm8650:int8 --bundles FOLDER [--entries se,repvgg] [--to litert]

Each entry's bundle lies in ``FOLDER``, as ``attn-export sweep --fuse`` leaves it, and is made where it is missing; with
``--to`` a compiler gets what that converter makes of it. What the maker's simulator gives for its cases stands in the
row as *simulated*; that is of no one chip. With ``--faults`` networks with a fault are compiled as well, for entries
that the simulator finds right: those count as caught that it finds wrong. ``python -m benchmarks.targets page`` renders
the rows.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

from attn_export import bundle
from attn_export.bundle import Bundle, Case
from attn_export.deploy_tests import backends, open_bundle
from attn_export.deploy_tests import shapes as ranges
from attn_export.deploy_tests.backend import CompileOptions, Evidence
from attn_export.deploy_tests.compiling.evidence import ChipEvidence
from attn_export.deploy_tests.machine import environment
from attn_export.deploy_tests.parity import simulated
from attn_export.errors import AttnExportError, BackendMissingError
from attn_export.export.onnx.save import save
from attn_export.untrusted.text import first_line
from benchmarks.targets import faults as planted
from benchmarks.targets import row as rows
from benchmarks.targets.__main__ import ROWS, wanted
from benchmarks.targets.attempt import converted, unforeseen
from benchmarks.targets.prepared import Prepared, prepared
from benchmarks.targets.row import Row
from benchmarks.targets.worker import Worker

PRESET = "test"
#: The least signal-to-noise ratio that is not called wrong, in dB: of float16 the product's, of int8 one that nobody
#: would ship below. What is right for int8 depends on the model, which is random here.
LEAST: Mapping[str, float] = {"float16": bundle.SNR["float16"], "int8": 10.0}
#: Seconds that one build may take here; the product allows more.
LIMIT = 180.0
#: Letters of a reason.
LONGEST = 600


def compiled(target: str, entry: str, preset: str, *, folder: Path, to: str = "", faults: bool = False) -> Row:
    """Compile one entry, from what the converter ``to`` makes of it where one is named; what comes of it is a row.

    With ``faults``, networks with a fault go the same way, from ONNX, where the simulator finds the entry right.

    Raises:
        BackendMissingError: the compiler is not here.
    """
    began = time.perf_counter()
    now = datetime.now(timezone.utc).strftime("%Y-%m-%d")
    row = Row(target, entry, preset, machine=environment.processor(), date=now)
    try:
        one = prepared(folder, entry, preset)
        row = replace(row, fused=bool((one.whole.manifest.get("fusion") or {}).get("sites")))
        with tempfile.TemporaryDirectory() as place:
            whole = converted(one, to, Path(place))[0] if to else one.whole
            row = _built(row, whole, *split(target))
        if faults and not to and row.right:
            row = replace(row, faults_caught=_planted(one, *split(target)))
    except BackendMissingError:
        raise
    except AttnExportError as error:
        row = replace(row, converted=False, reason=_without(folder, first_line(error, LONGEST)))
    except Exception as error:  # compilers may raise anything; that is their failure, and a row
        row = unforeseen(row, error)
    return replace(row, seconds=round(time.perf_counter() - began, 1))


def _without(folder: Path, text: str) -> str:
    """Leave out where the bundles lie, and where files did for a while."""
    text = text.replace(str(folder), "…").replace(str(folder.resolve()), "…")
    return re.sub(rf"{re.escape(tempfile.gettempdir())}/{tempfile.gettempprefix()}\w+", "…", text)


def split(target: str) -> tuple[str, str]:
    """Split the name of rows into what is typed as target and as precision.

    >>> split("qnn:sm8650:int8"), split("ethos-u:ethos-u85-256")
    (('qnn:sm8650', 'int8'), ('ethos-u:ethos-u85-256', ''))
    """
    place, _, last = target.rpartition(":")
    return (place, last) if last in LEAST else (target, "")


def _built(row: Row, whole: Bundle, target: str, precision: str) -> Row:
    evidence, verdict = _compiled(whole, open_bundle.chosen(whole, _backend(target)).path, target, precision)
    return judged(_placed(row, evidence), verdict, evidence.to_dict())


def _backend(target: str) -> str:
    return backends.compile_target(target)[0]


def _compiled(
    whole: Bundle, model: Path, target: str, precision: str
) -> tuple[ChipEvidence, simulated.Simulated | None]:
    """Compile a model for a bundle's cases, with less patience than the product has, and judge what is simulated."""
    name, chip = backends.compile_target(target)
    cases = _fitting(whole)
    feeds = tuple({port.name: case.inputs[port.name] for port in whole.inputs} for case in cases)
    simulates = backends.traits(name).simulates
    asked = CompileOptions(chip, ranges.of(whole), precision, feeds, feeds if simulates else ())
    compiler: Any = backends.BACKENDS[name]
    evidence = replace(compiler, limit=LIMIT).compile_only(model, asked)
    return evidence, simulated.judge(cases, evidence.simulated) if evidence.simulated else None


def _fitting(whole: Bundle) -> tuple[Case, ...]:
    usual = {port: array.shape for port, array in whole.cases[0].inputs.items()}
    return simulated.fitting(whole.cases, usual | {port: one.opt for port, one in ranges.of(whole).items()})


def _planted(one: Prepared, target: str, precision: str) -> tuple[int, int] | None:
    """Compile networks with a fault: how many the simulator shows, of how many; None where nothing came of any."""
    least, results = LEAST.get(precision, 0.0), []
    usual = replace(one.whole, cases=_fitting(one.whole))
    for state in planted.faulty(one.subject, usual, least):
        with tempfile.TemporaryDirectory() as place, suppress(AttnExportError):
            model = Path(place, "model.onnx")
            save(state.model.model, model)
            _, verdict = _compiled(one.whole, model, target, precision)
            results += [] if verdict is None else [_wrong(verdict, least)]
    return (sum(results), len(results)) if results else None


def _wrong(verdict: simulated.Simulated, least: float) -> bool:
    return bool(verdict.failure) or (verdict.snr_db is not None and verdict.snr_db < least)


def _placed(row: Row, evidence: Evidence) -> Row:
    plain = evidence.to_dict()
    place = plain["placement"]
    share = place["accelerator"] / place["nodes"]
    versions = {"compiler": f"{plain['product']} {plain['version']}"}
    return replace(
        row, converted=True, share_on_accelerator=round(share, 4), evidence=evidence.level, versions=versions
    )


def judged(row: Row, verdict: simulated.Simulated | None, plain: Mapping[str, Any]) -> Row:
    """Say what the simulator gave, and whether that is still the model."""
    if verdict is None:
        broken = "; ".join(plain.get("warnings", []))
        return replace(row, ran=False, reason=broken[:LONGEST]) if "simulator" in broken else row
    found = replace(row, ran=True, snr_db=verdict.snr_db, evidence=f"{row.evidence}, simulated")
    least = LEAST.get(str(plain["precision"]), 0.0)
    if _wrong(verdict, least):
        return replace(found, reason=f"{verdict.summary()}; {least:g} dB are asked of {plain['precision']} here")
    return found


def main(words: list[str]) -> None:
    """Compile what is wanted and keep the rows; what has one is not compiled again unless it is named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", required=True, help="as for attn-export compile, perhaps with :float16 or :int8")
    parser.add_argument("--bundles", required=True, type=Path, metavar="FOLDER", help="where the bundles lie")
    parser.add_argument("--to", default="", metavar="NAME", help="a converter, for a compiler that takes its files")
    parser.add_argument("--entries", default="", metavar="NAMES", help="some entries; also those that have a row")
    parser.add_argument("--rows", type=Path, default=ROWS, metavar="FOLDER", help="where the rows lie")
    parser.add_argument("--faults", action="store_true", help="compile networks with a fault, too, and see them caught")
    asked = parser.parse_args(words)
    name, _ = backends.compile_target(split(asked.target)[0])
    if why := backends.missing_compiler(name):
        raise SystemExit(f"{asked.target}: {why}")
    asked.rows.mkdir(parents=True, exist_ok=True)
    file = rows.file_of(asked.rows, asked.target)
    before = rows.read(file)
    worker = Worker(partial(compiled, folder=asked.bundles, to=asked.to, faults=asked.faults), 2 * LIMIT)
    try:
        for entry in wanted(filter(None, asked.entries.split(",")), before):
            row = worker.row(asked.target, entry, PRESET).onto(before.get(entry))
            rows.append(file, row)
            share = "" if row.share_on_accelerator is None else f"{row.share_on_accelerator:.0%}"
            sys.stderr.write(f"{asked.target} {entry}: {share} {row.snr_db or ''} {row.reason} ({row.seconds} s)\n")
    finally:
        worker.end()
        rows.write(file, rows.read(file).values())


if __name__ == "__main__":
    main(sys.argv[1:])
