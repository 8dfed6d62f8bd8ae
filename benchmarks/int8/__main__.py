"""Quantise the trained networks by every method, and measure them on the same pictures and machine.

python -m benchmarks.int8 run [NET ...]      rows as they come; those that are there are done again
python -m benchmarks.int8 page               the table, docs/int8-measured.md
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx

from attn_export import bundle
from attn_export.bundle import Case
from attn_export.deploy_tests.latency.comparison import compare_latency
from attn_export.deploy_tests.parity.accuracy import Answer, paired
from attn_export.export.quantise.judge import ratios
from attn_export.types import Array, Feeds
from benchmarks import row_files
from benchmarks.int8 import page
from benchmarks.int8.methods import METHODS
from benchmarks.int8.row import FILE, Row, read
from tests.data.trained.nets import NETS
from tests.data.trained.pictures import part
from tests.data.trained.trained import exported

#: Pictures of the test that dB are taken of.
FIRST = 200


def main(argv: Sequence[str]) -> None:
    """Do what was asked."""
    match argv:
        case ["page"]:
            page.write()
        case ["run", *names]:
            for name in names or NETS:
                run(name)
        case _:
            sys.exit(__doc__)


def run(name: str) -> None:
    """Measure one network by every method."""
    test = part("textures", "test")
    plain, fused = exported(name, fuse=False), exported(name, fuse=True)
    calibration = [{"x": one[None]} for one in part("textures", "calibration").x]
    pictures = [{"x": one[None]} for one in test.x]
    truth = answers(fused, pictures)
    base = {str(i): Answer(int(value.argmax()), "") for i, value in enumerate(truth)}
    labels = {str(i): int(label) for i, label in enumerate(test.y)}
    right = float(np.mean([one.argmax() == label for one, label in zip(truth, test.y, strict=True)]))
    add(Row(name, "float32, fused", accuracy=right, ratio=1.0))
    if len(plain.graph.node) != len(fused.graph.node):
        add(timed(Row(name, "float32, not fused", accuracy=right), plain, fused))
    for method, make in METHODS.items():
        made, floats = make(fused, calibration)
        came = answers(made, pictures)
        told = ratios(truth[:FIRST], came[:FIRST])
        found = paired(labels, base, {str(i): Answer(int(value.argmax()), "") for i, value in enumerate(came)})
        row = Row(
            name,
            method,
            float(np.median(told)),
            min(told),
            found.deployed / found.images,
            found.change,
            found.low,
            found.high,
            floats=floats,
        )
        add(timed(row, made, fused))
    if len(plain.graph.node) != len(fused.graph.node):
        make = METHODS["quantize_static, uint8 per channel"]
        came = answers(make(plain, calibration)[0], pictures)
        told = ratios(truth[:FIRST], came[:FIRST])
        row = Row(name, "not fused: quantize_static, uint8 per channel", float(np.median(told)), min(told))
        add(timed(row, make(plain, calibration)[0], fused))


def answers(model: onnx.ModelProto, feeds: Sequence[Feeds]) -> list[Array]:
    """Run a model by the runtime's fastest kernels."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads, settings.log_severity_level = 1, 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    return [session.run(None, dict(feed))[0][0] for feed in feeds]


def timed(row: Row, model: onnx.ModelProto, baseline: onnx.ModelProto) -> Row:
    """Add how long a model takes, in turns with another."""
    with tempfile.TemporaryDirectory() as folder:
        one, other, cases = (Path(folder, name) for name in ("one.onnx", "other.onnx", "cases.npz"))
        onnx.save(model, one)
        onnx.save(baseline, other)
        bundle.write_cases(cases, [Case("picture", {"x": part("textures", "test").x[:1]}, {}, {})])
        found = compare_latency(one, other, cases)
    load = round(os.getloadavg()[0] / (os.cpu_count() or 1), 1)
    if found.void:
        return replace(row, load=load, failure=f"the control was not 1: {found.control}")
    return replace(row, ratio=found.ratio.estimate, ratio_low=found.ratio.low, ratio_high=found.ratio.high, load=load)


def add(row: Row) -> None:
    """Keep a row, and say it."""
    rows = read() | {row.key: row}
    row_files.write(FILE, rows.values(), lambda one: (list(NETS).index(one.net), list(rows).index(one.key)))
    sys.stderr.write(f"{row}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
