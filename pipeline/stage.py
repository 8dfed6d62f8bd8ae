"""The contract of a stage, and the state that goes from one to the next.

    state ──► stage.requires ──► stage.run ──► stage.ensures ──► gate ──► next state

A state is frozen: a stage gives what it made, and the next state holds it behind what was made before.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

from attn_export.export.converters import Converted
from attn_export.export.onnx.exported import Exported
from attn_export.export.precision.classes import PrecisionClass
from attn_export.export.subject import Subject
from attn_export.pipeline.int8 import Int8Inputs
from attn_export.pipeline.manifest import StageResult
from attn_export.pipeline.options import BuildOptions
from attn_export.types import Feeds

T = TypeVar("T")


@dataclass(frozen=True)
class Made:
    """What one stage gave.

    Attributes:
        stage: its name.
        exported: the model, with its contract.
        account: what it did, in the type of the stage (``Fusion``, ``Float16Report``), or None.
        precision: the element type that it computes in.
        snr: the signal-to-noise ratio in dB that its precision is held to; None for float32.
        detail: a word for the line of progress.
        warnings: what the user should know although it is no failure.
        converted: the model in further formats.
        result: what the gate measured of it; None where it passed none.
    """

    stage: str
    exported: Exported
    account: object = None
    precision: str = "float32"
    snr: float | None = None
    detail: str = ""
    warnings: tuple[str, ...] = ()
    converted: tuple[Converted, ...] = ()
    result: StageResult | None = None


@dataclass(frozen=True)
class PipelineState:
    """How far one subject has come.

    Attributes:
        subject: what goes down the pipeline.
        feeds: inputs on which stages may look at the model, the first at the sizes that latency is measured at.
        made: what each stage gave, the oldest first.
        warnings: what was said on the way.
        int8: what a model in int8 is made from; None where there is to be none.
    """

    subject: Subject
    feeds: tuple[Feeds, ...]
    made: tuple[Made, ...] = ()
    warnings: tuple[str, ...] = ()
    int8: Int8Inputs | None = None

    @property
    def model(self) -> Exported:
        """The newest model."""
        return self.made[-1].exported

    @property
    def precision(self) -> PrecisionClass:
        """What the newest model computes in."""
        return PrecisionClass(self.made[-1].precision, self.made[-1].snr)

    @property
    def converted(self) -> tuple[Converted, ...]:
        """The model in every further format."""
        return tuple(one for made in self.made for one in made.converted)

    def by(self, stage: str) -> Made | None:
        """Find what the named stage gave, if it ran."""
        return next((made for made in self.made if made.stage == stage), None)

    def account(self, kind: type[T]) -> T | None:
        """Find the account of the stage that gives one of this type, if it ran."""
        return next((made.account for made in self.made if isinstance(made.account, kind)), None)

    def back_to(self, stage: str) -> PipelineState:
        """Return the state as it was when the named stage had just ended, with the warnings of what is left."""
        names = [made.stage for made in self.made]
        left = self.made[: names.index(stage) + 1]
        return replace(self, made=left, warnings=tuple(warning for made in left for warning in made.warnings))

    def with_made(self, made: Made) -> PipelineState:
        """Give the next state: this one with one more thing made."""
        return replace(self, made=(*self.made, made), warnings=(*self.warnings, *made.warnings))

    def with_warning(self, text: str) -> PipelineState:
        """Give the same state with one more warning."""
        return replace(self, warnings=(*self.warnings, text))


@dataclass(frozen=True)
class Stage:
    """One transformation of the model.

    Attributes:
        name: as it stands in the manifest and in messages.
        result: what its model is called, by ``diff --between`` above all.
        wanted: whether the options ask for it.
        requires: why it cannot run on a state, in a sentence; empty where it can.
        run: makes the next model; the state and its models are never changed.
        ensures: asserts what holds of whatever the stage made.
        optional: whether the job goes on without it where it breaks, which is said.

    ``run`` raises ``ConversionError``; ``ensures`` raises ``ContractError`` or ``GateError``.
    """

    name: str
    result: str
    wanted: Callable[[BuildOptions], bool]
    requires: Callable[[PipelineState], str]
    run: Callable[[PipelineState, BuildOptions], Made]
    ensures: Callable[[PipelineState, Made], None]
    optional: bool = False
