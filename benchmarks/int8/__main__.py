"""Quantise trained networks by every method, and measure them on the same pictures and machine.

python -m benchmarks.int8 run [--files DIR] [--nncf PYTHON] [--method NAME ...] [NET ...]
                                             rows as they come; those that are there are done again
python -m benchmarks.int8 page               the table, docs/int8-measured.md

--files    a folder with the wheels' ONNX files (``benchmarks.int8.subject.FILES``); scikit-image has to be installed
--nncf     the interpreter of an environment with NNCF
--method   only this one; may be given more than once
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx

from attn_export import bundle
from attn_export.bundle import Case
from attn_export.deploy_tests.backends.onnxruntime.tuning import WHOLE_PRODUCTS
from attn_export.deploy_tests.latency.comparison import compare_latency
from attn_export.deploy_tests.parity.accuracy import Answer, paired
from attn_export.export.quantise.judge import ratios
from attn_export.types import Array, Feeds
from benchmarks import row_files
from benchmarks.int8 import methods, page
from benchmarks.int8.row import FILE, Row, read
from benchmarks.int8.subject import Subject, subjects

#: Pictures of the test that dB are taken of.
FIRST = 200


def main(argv: Sequence[str]) -> None:
    """Do what was asked."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = words.add_subparsers(dest="command", required=True)
    commands.add_parser("page")
    asked_run = commands.add_parser("run")
    asked_run.add_argument("names", nargs="*")
    asked_run.add_argument("--files", type=Path)
    asked_run.add_argument("--nncf", type=Path)
    asked_run.add_argument("--method", action="append", default=[])
    asked = words.parse_args(argv)
    if asked.command == "page":
        page.write()
        return
    known = dict(methods.METHODS)
    if asked.nncf:
        known[methods.NNCF] = methods.nncf(asked.nncf.absolute())
    chosen = {name: known[name] for name in asked.method or known}
    for found in subjects(asked.names, asked.files):
        run(found(), chosen)


def run(subject: Subject, chosen: Mapping[str, methods.Method]) -> None:
    """Measure one network by every method."""
    truth = answers(subject.fused, subject.test)
    right = _right(subject, truth)
    add(Row(subject.name, "float32, fused", accuracy=right, varies=share(truth), ratio=1.0))
    if subject.plain is not None:
        add(timed(Row(subject.name, "float32, not fused", accuracy=right), subject, subject.plain))
    for method, make in chosen.items():
        try:
            made, floats = make(subject.fused, subject.calibration)
            came = answers(made, subject.test)
        except Exception as failed:  # of three makers, whose errors share no base
            add(Row(subject.name, method, failure=str(failed).splitlines()[0][:200]))
            continue
        add(timed(judged(Row(subject.name, method, floats=floats), subject, truth, came), subject, made))
    if subject.plain is not None and methods.USUAL in chosen:
        made = chosen[methods.USUAL](subject.plain, subject.calibration)[0]
        row = judged(Row(subject.name, methods.NOT_FUSED), subject, truth, answers(made, subject.test))
        add(timed(row, subject, made))


def judged(row: Row, subject: Subject, truth: Sequence[Array], came: Sequence[Array]) -> Row:
    """Add what a model keeps, and what it answers where it is known what is right."""
    told = ratios(truth[:FIRST], came[:FIRST])
    row = replace(row, median_db=float(np.median(told)), worst_db=min(told))
    if not subject.labels:
        return row
    labels = {str(i): label for i, label in enumerate(subject.labels)}
    base, other = (
        {str(i): Answer(int(value.argmax()), "") for i, value in enumerate(values)} for values in (truth, came)
    )
    found = paired(labels, base, other)
    return replace(row, accuracy=found.deployed / found.images, change=found.change, low=found.low, high=found.high)


def share(truth: Sequence[Array]) -> float:
    """Give the share of the energy of outputs that varies from picture to picture."""
    values = np.stack(truth).astype(np.float64).reshape(len(truth), -1)
    return float(np.square(values - values.mean(0)).sum() / np.square(values).sum())


def _right(subject: Subject, truth: Sequence[Array]) -> float | None:
    pairs = zip(truth, subject.labels, strict=False)
    return float(np.mean([one.argmax() == label for one, label in pairs])) if subject.labels else None


def answers(model: onnx.ModelProto, feeds: Sequence[Feeds]) -> list[Array]:
    """Run a model by the runtime's fastest kernels."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads, settings.log_severity_level = 1, 4
    settings.add_session_config_entry(WHOLE_PRODUCTS, "1")
    session = onnxruntime.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    return [session.run(None, dict(feed))[0][0] for feed in feeds]


def timed(row: Row, subject: Subject, model: onnx.ModelProto) -> Row:
    """Add how long a model takes, in turns with the fused one."""
    with tempfile.TemporaryDirectory() as folder:
        one, other, cases = (Path(folder, name) for name in ("one.onnx", "other.onnx", "cases.npz"))
        onnx.save(model, one)
        onnx.save(subject.fused, other)
        bundle.write_cases(cases, [Case("picture", dict(subject.test[0]), {}, {})])
        found = compare_latency(one, other, cases)
    load = round(os.getloadavg()[0] / (os.cpu_count() or 1), 1)
    if found.void:
        return replace(row, load=load, failure=f"the control was not 1: {found.control}")
    return replace(row, ratio=found.ratio.estimate, ratio_low=found.ratio.low, ratio_high=found.ratio.high, load=load)


def add(row: Row) -> None:
    """Keep a row, and say it."""
    rows = read() | {row.key: row}
    nets = list(dict.fromkeys(one.net for one in rows.values()))
    row_files.write(FILE, rows.values(), lambda one: (nets.index(one.net), methods.ORDER.index(one.method)))
    sys.stderr.write(f"{row}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
