"""What the words of ``diff`` stand for: the stages of a subject, a bundle's model, other files, and their runs.

original                              the eager module (of an ONNX file: the file itself)
exported fused simplified float16     the stages of the main job, made anew
model                                 what was named first: a bundle's model, a file, a subject's last stage
FOLDER  FILE.onnx                     another bundle's model, another file
STAGE@BACKEND                         the run of any of these on a backend; else its meaning in float64
BACKEND                               the run of the other side's graph
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import onnx

from attn_export import bundle
from attn_export.deploy_tests.backends import BACKENDS
from attn_export.deploy_tests.parity.compare import FLOOR, TOLERANCE
from attn_export.errors import ExportError, UnknownNameError, UsageError
from attn_export.export.arrays import arrays
from attn_export.export.cases.kinds import BRIGHT
from attn_export.export.cases.plan import plan
from attn_export.export.chosen import unchosen
from attn_export.export.graph.origin import Origin, origins, recall
from attn_export.export.onnx.outputs_of import taken
from attn_export.export.onnx.read import read_model
from attn_export.export.precision.float16 import QUANTISED
from attn_export.export.subject import Subject
from attn_export.export.traced import Traced
from attn_export.pipeline.divergence.runs import Variant
from attn_export.pipeline.options import BuildOptions
from attn_export.pipeline.stage import PipelineState
from attn_export.pipeline.stages import CONVERT, EQUALIZE, FUSE, PRECISION, QUANTISE, STAGES, build, run
from attn_export.types import Feeds

#: What the models of the stages are called here.
RESULTS = tuple(stage.result for stage in STAGES if stage not in (CONVERT, QUANTISE))


class VariantFactory:
    """A bundle or a subject, with the sides that it can give; each is made once, when it is asked for."""

    def __init__(self, what: bundle.Bundle | Subject, *, fused: bool = False, snr: float | None = None) -> None:
        self.what, self.fused, self.snr = what, fused, snr
        self.quantised = False
        #: Where tensors come from, as far as anything that was made or read has said.
        self.known: dict[str, Origin] = {}
        #: What was left out of a side before it was looked at, in words.
        self.notes: list[str] = []
        self._made: dict[tuple[bool, str], PipelineState] = {}

    @cached_property
    def cases(self) -> Mapping[str, Feeds]:
        """The inputs to look at: a bundle's own, or those that the main job chooses for every model."""
        if isinstance(self.what, bundle.Bundle):
            return {case.name: case.inputs for case in self.what.cases}
        subject, found = self.what, dict[str, Feeds]()
        for row in plan(subject):
            if not row.optional:
                found[row.name] = arrays(row.inputs(subject))
        return found

    @property
    def seen(self) -> Mapping[str, Feeds]:
        """The cases that both sides are meant for: fixed ranges of a quantised one hold for inputs of one scale."""
        scaled = [name for name in self.cases if name.startswith("scale ") or name == BRIGHT] if self.quantised else []
        return {name: feeds for name, feeds in self.cases.items() if name not in scaled}

    def pair(self, one: str, other: str) -> tuple[Variant, Variant]:
        """Both sides; a backend alone runs the graph of the other.

        Raises:
            UnknownNameError, UsageError, LoadError, ConversionError: one of them is nothing, or cannot be made.
        """
        if "fused" in (one.partition("@")[0], other.partition("@")[0]):
            self.fused = True
        if one in BACKENDS and other in BACKENDS:
            one, other = f"model@{one}", f"model@{other}"
        elif one in BACKENDS:
            one = f"{self._carrier(other)}@{one}"
        elif other in BACKENDS:
            other = f"{self._carrier(one)}@{other}"
        return self.variant(one), self.variant(other)

    @staticmethod
    def _carrier(text: str) -> str:
        """Whose graph a backend runs: the other side's, or the model's where that has none."""
        stage = text.partition("@")[0]
        return "model" if stage == "original" else stage

    def variant(self, text: str) -> Variant:
        """One side, by what the user calls it."""
        stage, _, backend = text.partition("@")
        if backend:
            BACKENDS.entry(backend)  # raises, and says which names are near
        if stage == "original":
            return self._original(text, backend)
        graph, snr = self._graph(stage)
        quantised = bool(QUANTISED & {node.op_type for node in graph.graph.node})
        self.quantised |= quantised
        if self.snr is not None:
            snr = self.snr
        elif snr is None and quantised and not self._own(stage):
            raise UsageError(
                f"{text} is quantised, so a required signal-to-noise ratio is needed: add for example --snr 20"
            )
        return Variant(text, graph, backend=backend or None, snr=snr)

    def _original(self, text: str, backend: str) -> Variant:
        if backend:
            raise UsageError(f"{text}: the eager module runs in PyTorch; a backend runs exported@{backend}")
        if isinstance(self.what, bundle.Bundle):
            raise UsageError(
                "a bundle does not hold the module it was made from; name that first, and the bundle as a side:"
                f" attn-export diff SUBJECT --between original,{self.what.path}"
            )
        if self.what.graph is not None:
            return Variant(text, self.what.graph)
        traced = self._traced
        name, feeds = next(iter(self.cases.items()))
        if not (error := traced.agrees(feeds)) <= TOLERANCE * FLOOR:
            raise ExportError(
                f"the trace of {self.what.name} is not the module: on case '{name}' its output is {error:.2e} off in"
                " float64; look in forward for state, randomness, or Python that depends on values"
            )
        self.known |= traced.origins()
        return Variant(text, original=traced)

    @cached_property
    def _traced(self) -> Traced:
        assert isinstance(self.what, Subject)
        return Traced(self.what)

    def _graph(self, stage: str) -> tuple[onnx.ModelProto, float | None]:
        """Return a graph, and what its precision is held to."""
        if stage == "model" and isinstance(self.what, bundle.Bundle):
            return self._of_bundle(self.what)
        if stage == "model":
            stage = "exported" if isinstance(self.what, Subject) and self.what.graph is not None else "simplified"
        if stage in RESULTS:
            state = self._stages(stage)
            return state.model.model, state.precision.snr
        path = Path(stage)
        if path.is_dir():
            return self._of_bundle(bundle.read(path))
        if path.suffix != ".onnx":
            raise UnknownNameError("side", stage, ("original", *RESULTS, "model", *BACKENDS))
        graph = read_model(path)
        self.known = {**origins(graph), **self.known}
        return self._as_chosen(graph, stage), None

    def _as_chosen(self, graph: onnx.ModelProto, text: str) -> onnx.ModelProto:
        """Give a file the outputs that the bundle was made with by ``--outputs``, where it has them."""
        recorded = self.what.manifest["subject"]["outputs"] if isinstance(self.what, bundle.Bundle) else {}
        names = [value.name for value in graph.graph.output]
        if not recorded or not set(names).issuperset(recorded.values()):
            return graph
        if left := unchosen(names, recorded):
            self.notes.append(f"{text}: {left}")
        return taken(graph, recorded)

    def _own(self, stage: str) -> bool:
        """Whether a side is the file that was named first: its own float64 meaning has the same codes."""
        return isinstance(self.what, Subject) and self.what.graph is not None and stage in ("model", *RESULTS)

    def _of_bundle(self, whole: bundle.Bundle) -> tuple[onnx.ModelProto, float | None]:
        self.known |= recall(whole.manifest.get("source_locations") or {})
        artifact = whole.artifact(kinds=("onnx",))
        return read_model(artifact.path), artifact.snr_db_limit

    def _stages(self, stage: str) -> PipelineState:
        if isinstance(self.what, bundle.Bundle):
            raise UsageError(
                f"a bundle holds only its last stage, which is called model; name its subject to get {stage}:"
                f" attn-export diff SUBJECT --between {stage},{self.what.path}"
            )
        last = next(named for named in STAGES if named.result == stage)
        options = BuildOptions(fuse=self.fused or last is FUSE, equalize=last is EQUALIZE, fp16=last is PRECISION)
        state = self._exported
        for step in STAGES[: STAGES.index(last) + 1]:  # one by one, so that two variants share what they can
            key = options.fuse, step.name
            if key not in self._made:
                self._made[key] = run(state, options, through=step.name)
            state = self._made[key]
        if state.made[-1].stage != last.name:
            raise ExportError(state.warnings[-1])
        return state

    @cached_property
    def _exported(self) -> PipelineState:
        assert isinstance(self.what, Subject)
        state = build(self.what, BuildOptions(), tuple(self.cases.values()), through="export")
        self.known |= origins(state.model.model)
        return state
