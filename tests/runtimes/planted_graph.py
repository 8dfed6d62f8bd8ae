"""Faults in what a converter writes, and bundles that were made through one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from attn_export.export.converters import CONVERTERS, Converted, Source
from attn_export.export.sources.catalogue import from_spec
from attn_export.mechanisms import MECHANISMS
from attn_export.pipeline import deploy, stages
from attn_export.pipeline.options import BuildOptions, DeployOptions

Change = Callable[[onnx.ModelProto], None]


def largest(model: onnx.ModelProto) -> onnx.TensorProto:
    return max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))


def zeroed(model: onnx.ModelProto) -> None:
    """The largest weight is lost."""
    weight = largest(model)
    weight.raw_data = bytes(len(weight.raw_data))


def one_channel_more(model: onnx.ModelProto) -> None:
    """One channel of the largest weight is 5 % too large."""
    weight = largest(model)
    values = numpy_helper.to_array(weight).copy()
    values[0] *= np.float32(1.05)
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))


@dataclass
class Planted:
    """A converter that is given another model than the one that was proven."""

    to: str
    change: Change

    def missing(self) -> str | None:
        return None

    def convert(self, source: Source) -> Converted:
        model = onnx.ModelProto()
        model.CopyFrom(source.exported.model)
        self.change(model)
        return CONVERTERS[self.to].convert(replace(source, exported=replace(source.exported, model=model)))


def make(name: str, folder: Path, *to: str, fuse: bool = False) -> deploy.DeployResult:
    """Deploy an entry of the catalogue, preset ``test``, through converters."""
    subject = from_spec(name, MECHANISMS[name], "test")
    build = BuildOptions(fuse=fuse, to=to)
    return deploy.deploy(subject, DeployOptions(output=folder, build=build, bench=False, mutants="none"))


def offer(monkeypatch: pytest.MonkeyPatch, converter: object) -> None:
    """Offer ``converter`` as ``planted``, and nothing else."""
    monkeypatch.setattr(stages, "CONVERTERS", {"planted": converter})
    monkeypatch.setattr(stages, "parse", lambda text: (text, ""))


def on_the_device(*words: object) -> subprocess.CompletedProcess[str]:
    """Run the command line where there is neither torch nor onnx."""
    code = (
        "import runpy, sys\n"
        "for name in ('torch', 'onnx', 'onnx_ir', 'onnxscript', 'onnxsim'):\n    sys.modules[name] = None\n"
        "sys.argv[0] = 'attn-export'\n"
        "runpy.run_module('attn_export', run_name='__main__')\n"
    )
    return subprocess.run([sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True, check=False)
