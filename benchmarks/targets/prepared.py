"""An entry made ready for every target: its bundle, the network behind it, and networks with a fault.

What takes long is done once and serves all targets: ``run`` tries them one after the other in one process.
"""

from __future__ import annotations

import functools
from pathlib import Path

import onnx

from attn_export import bundle
from attn_export.bundle import Bundle
from attn_export.export.converters import Source
from attn_export.export.onnx.exported import Contract, Exported
from attn_export.export.precision import classes
from attn_export.export.sources.catalogue import from_spec
from attn_export.export.subject import Subject
from attn_export.export.torch_program import TorchProgram, torch_program
from attn_export.mechanisms import MECHANISMS
from attn_export.pipeline import deploy
from attn_export.pipeline.options import BuildOptions, DeployOptions
from attn_export.pipeline.stage import PipelineState
from benchmarks.targets import faults


class Prepared:
    """One entry; what is asked for the first time is made then.

    Args:
        entry: its name in the catalogue.
        preset: of the entry.
        whole: its bundle, fused.
    """

    def __init__(self, entry: str, preset: str, whole: Bundle) -> None:
        self.entry, self.preset, self.whole = entry, preset, whole

    @functools.cached_property
    def subject(self) -> Subject:
        """The network."""
        return from_spec(self.entry, MECHANISMS[self.entry], self.preset)

    @functools.cached_property
    def source(self) -> Source:
        """What a converter is given, from the bundle's main model; the program is of the network."""
        model = onnx.load(self.whole.model)
        opset = next(one.version for one in model.opset_import if one.domain in ("", "ai.onnx"))
        contract = Contract(opset, self.whole.inputs, self.whole.outputs, self.whole.dynamic_dims)
        return Source(Exported(model, contract), self.whole.cases[0].inputs, self._program, classes.of(model).name)

    @functools.cached_property
    def faulty(self) -> tuple[PipelineState, ...]:
        """Networks with a fault, exported."""
        return faults.faulty(self.subject, self.whole)

    def _program(self) -> TorchProgram:
        return self._made

    @functools.cached_property
    def _made(self) -> TorchProgram:
        names = [port.name for port in self.whole.outputs]
        return torch_program(self.subject, names, self.whole.dynamic_dims, fuse=True)


@functools.lru_cache(maxsize=1)
def prepared(folder: Path, entry: str, preset: str) -> Prepared:
    """Read an entry's bundle in ``folder``, as ``attn-export sweep --fuse`` leaves it; it is made where there is none.

    Raises:
        AttnExportError: the main job fails, or what lies there is no bundle.
    """
    place = folder / f"{entry}-{preset}-fused"
    if not (place / bundle.MANIFEST).is_file():
        options = DeployOptions(
            output=place,
            build=BuildOptions(fuse=True),
            bench=False,
            mutants="none",
            original=False,
            command=(entry, "--preset", preset, "--fuse"),
        )
        deploy.deploy(from_spec(entry, MECHANISMS[entry], preset), options)
    return Prepared(entry, preset, bundle.read(place))
