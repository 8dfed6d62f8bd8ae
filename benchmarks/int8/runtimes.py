"""The int8 model of a trained network on every runtime that takes it: run where it runs, else compiled or simulated.

python -m benchmarks.int8.runtimes [NET ...]      in the environment of ``constraints-edge.txt``, which has them all

All start from one model, with the codes of one quantisation, and answer the same pictures.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx

from attn_export import api
from attn_export.deploy_tests import backends
from attn_export.deploy_tests.backend import CompileOptions, Options
from attn_export.errors import AttnExportError
from attn_export.export.converters import CONVERTERS, INT8, Source
from attn_export.export.quantise.judge import ratios
from attn_export.export.quantise.quantised import Wish
from attn_export.pipeline import stages
from attn_export.pipeline.options import BuildOptions
from attn_export.types import Array, Dim, Feeds, JsonDict, ShapeRange
from attn_export.untrusted.text import first_line
from benchmarks import row_files
from benchmarks.int8.__main__ import answers
from benchmarks.int8.methods import ours
from benchmarks.int8.runtime_row import FILE, RuntimeRow, read
from tests.data.trained.nets import NETS
from tests.data.trained.pictures import feeds
from tests.data.trained.trained import module

#: Pictures of the test that dB are taken of; a simulator takes the first of them.
FIRST, SIMULATED = 200, 50
CHIPS = {"qnn": "sm8650", "ethos_u": "ethos-u85-256"}


@dataclass(frozen=True)
class _Work:
    """One network, and what is compared with."""

    net: str
    source: Source
    layers: int
    pictures: Sequence[Feeds]
    truth: Sequence[Array]
    kernels: Sequence[Array]
    folder: Path

    def row(self, runtime: str, came: Sequence[Array]) -> RuntimeRow:
        truth, kernels = self.truth[: len(came)], self.kernels[: len(came)]
        told = ratios(truth, came)
        beside = float(np.median(ratios(kernels, came)))
        return RuntimeRow(self.net, runtime, float(np.median(told)), min(told), beside, self.layers)


def run(name: str) -> None:
    """Measure one network on every runtime."""
    import torch

    subject = api.load(module(name), (torch.zeros(2, 3, 32, 32),), dynamic={"x": {0: Dim("b", 1)}}, name=name)
    state = stages.build(subject, BuildOptions(fuse=True, to=("litert",)))
    pictures = feeds("textures", "test")[:FIRST]
    model, _ = ours(state.model.model, feeds("textures", "calibration"), Wish())
    known = {one.name: one for one in state.converted}
    source = Source(state.model, state.feeds[0], asked=INT8, int8=model, made=known)
    layers = sum(node.op_type == "DequantizeLinear" and node.input[0] in _constants(model) for node in model.graph.node)
    truth, kernels = answers(state.model.model, pictures), answers(model, pictures)
    with tempfile.TemporaryDirectory() as folder:
        work = _Work(name, source, layers, pictures, truth, kernels, Path(folder))
        onnx.save(model, work.folder / "int8.onnx")
        for runtime, measure in RUNTIMES.items():
            add(_measured(work, runtime, measure))


def _measured(work: _Work, runtime: str, measure: Callable[[_Work], RuntimeRow]) -> RuntimeRow:
    try:
        return measure(work)
    except AttnExportError as error:
        return RuntimeRow(work.net, runtime, failure=first_line(error))


def _constants(model: onnx.ModelProto) -> set[str]:
    return {tensor.name for tensor in model.graph.initializer}


def _onnxruntime(work: _Work) -> RuntimeRow:
    return work.row(backends.BACKENDS[backends.DEFAULT].version(), work.kernels)


def _openvino(work: _Work) -> RuntimeRow:
    return _converted(work, "openvino")


def _litert(work: _Work) -> RuntimeRow:
    return _converted(work, "litert")


def _converted(work: _Work, to: str) -> RuntimeRow:
    one = CONVERTERS[to].convert(work.source)
    for name, content in one.files.items():
        (work.folder / name).write_bytes(content)
    contract = work.source.exported.contract
    options = Options(precision=INT8, inputs=contract.inputs, outputs=contract.outputs)
    with backends.opened(to, work.folder / next(iter(one.files)), options) as call:
        came = [call(picture)[contract.outputs[0].name][0].copy() for picture in work.pictures]
    return replace(work.row(backends.BACKENDS[to].version(), came), floats=len(one.floats))


def _qnn(work: _Work) -> RuntimeRow:
    shape = work.pictures[0]["x"].shape
    wanted = CompileOptions(CHIPS["qnn"], {"x": ShapeRange(shape, shape, shape)}, simulate=work.pictures[:SIMULATED])
    shown = backends.compile_only("qnn", work.folder / "int8.onnx", wanted)
    name = work.source.exported.contract.outputs[0].name
    return _placed(work.row("", [one[name][0] for one in shown.simulated]), shown.to_dict(), ", simulated")


def _ethos_u(work: _Work) -> RuntimeRow:
    shown = backends.compile_only("ethos_u", work.folder / "litert-int8.tflite", CompileOptions(CHIPS["ethos_u"]))
    return _placed(RuntimeRow(work.net, "", layers=work.layers), shown.to_dict())


def _placed(row: RuntimeRow, shown: JsonDict, more: str = "") -> RuntimeRow:
    """Add what a compiler says: who it is and for which chip, where operators run, and what its model of that gives."""
    placement, estimate = shown["placement"], shown["estimate"]
    return replace(
        row,
        runtime=f"{shown['product']} {shown['version']}, {shown['chip']}{more}",
        accelerator=placement["accelerator"],
        cpu=len(placement["cpu"]),
        cycles=estimate.get("NPU cycles"),
        sram=estimate.get("KiB of SRAM"),
    )


RUNTIMES: Mapping[str, Callable[[_Work], RuntimeRow]] = {
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
    "litert": _litert,
    "qnn": _qnn,
    "ethos_u": _ethos_u,
}


def add(row: RuntimeRow) -> None:
    """Keep a row, and say it."""
    rows = read() | {row.key: row}
    row_files.write(FILE, rows.values(), lambda one: (list(NETS).index(one.net), list(rows).index(one.key)))
    sys.stderr.write(f"{row}\n")


if __name__ == "__main__":
    for name in sys.argv[1:] or NETS:
        run(name)
