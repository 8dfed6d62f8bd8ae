"""The contract between the proofs and whatever runs a model: three functions, and abilities for those that have them.

    Backend           missing, version, open             every backend
    Traits            plain attributes, with defaults    what it takes and what may be believed of it
    Profiler          profile                            it can say where the time goes, kernel by kernel
    EngineMeasurer    measure_engine                     it can time the device apart from the host
    Compiler          missing_compiler, compile_only     it can build for a device that is not there
    Installer         installation, install              it can make the environment that its compiler needs
    Tunable           tunings, session_lines             it has settings that change how long a run takes

All are protocols: a plug-in imports nothing of ours, and leaves out what it cannot do. ``backends`` asks for them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from numpy.typing import NDArray

from attn_export.types import Feeds, JsonDict, ShapeRange, TensorSpec

Run = Callable[[Feeds], dict[str, NDArray[Any]]]


@dataclass(frozen=True)
class Options:
    """How to run, in words that hold for every backend.

    Attributes:
        threads: intra-operator threads on a CPU.
        shapes: per input the range of shapes; empty where every shape is fixed.
        device: index of the accelerator.
        reduced_precision: allow formats that trade accuracy for speed behind a float32 graph, such as TF32.
        optimize: let the runtime rewrite the graph; only a backend with ``Traits.can_skip_optimization`` obeys.
        precision: the element type that the file is to be computed in, where the runtime could choose another.
        inputs: what the model takes, in its order, for formats whose files do not keep the names; empty where that
            is not known.
        outputs: what it gives, likewise.
        settings: of a ``Tunable``, what differs from its usual settings: one of its ``tunings``.
    """

    threads: int = 1
    shapes: Mapping[str, ShapeRange] = field(default_factory=dict)
    device: int = 0
    reduced_precision: bool = False
    optimize: bool = True
    precision: str = "float32"
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)


class Backend(Protocol):
    """A way to run a model. A protocol, so that a plug-in need not import us."""

    def missing(self) -> str | None:
        """Say what to install or plug in before ``open`` can work, or None."""

    def version(self) -> str:
        """Name the runtime and its version, as it stands in a report. Works only where nothing is missing."""

    def open(self, model: Path, options: Options) -> AbstractContextManager[Run]:
        """Load ``model``; free what it holds on the device afterwards.

        ``Run`` takes every input by name, returns every output by name, and returns once the outputs are in host
        memory, so it can be timed.

        Raises:
            BackendMissingError: ``missing()`` is not None.
            BackendError: the runtime refuses the model.
        """


@dataclass(frozen=True)
class Traits:
    """What a backend says of itself, each in an attribute of the same name; one that it leaves out has the default.

    Attributes:
        accepts: the kinds of artifact that ``open`` takes, as the suffixes of their files.
        runs_on_own_threads: whether threads of this process do the work, so that CPU time is the work; elsewhere it
            is waiting, and comparisons count wall time.
        wants_shape_ranges: whether it prepares for ``Options.shapes``; others take any shape as it comes.
        can_skip_optimization: whether ``Options.optimize=False`` gives a run of the graph as it is written.
        libraries: the distributions whose versions belong in a report.
        snippet: two lines of Python for a script that needs nothing of ours: what it imports, and how the file
            ``part.onnx`` becomes the list ``outputs`` from the dict ``inputs``. Empty: scripts run it through us.
        title: what its maker calls it, for people; empty where that is its own name.
        device: what it runs on, such as ``cpu`` or ``gpu``.
        chips: of a compiler, the devices that it has a name for, the usual one first; empty where it asks itself.
        precisions: of a compiler, those that it can bring a float32 model to, the usual one first; empty for none.
        simulates: of a compiler, whether it obeys ``CompileOptions.simulate``.
        takes_int8: of a compiler, whether it takes an artifact that is int8 already, instead of quantising by itself.
        takes_bfloat16: whether inputs and outputs may be bfloat16, which it takes and gives as float32 numbers.
    """

    accepts: tuple[str, ...] = ("onnx",)
    runs_on_own_threads: bool = False
    wants_shape_ranges: bool = False
    can_skip_optimization: bool = False
    libraries: tuple[str, ...] = ()
    snippet: tuple[str, ...] = ()
    title: str = ""
    device: str = "cpu"
    chips: tuple[str, ...] = ()
    precisions: tuple[str, ...] = ()
    simulates: bool = False
    takes_int8: bool = False
    takes_bfloat16: bool = False


class KernelRow(Protocol):
    """One kernel as a profiler names it; ``Kernel`` is one, and so is anything with these attributes."""

    @property
    def name(self) -> str:
        """What the runtime calls it."""

    @property
    def op(self) -> str:
        """Its operator, in the runtime's words."""

    @property
    def microseconds(self) -> float:
        """Its undisturbed time in one run."""


@dataclass(frozen=True)
class Kernel:
    """One kernel of a runtime and its undisturbed time in one run.

    Attributes:
        name: what the runtime calls it.
        op: its operator, in the runtime's words.
        microseconds: a low percentile over runs: a high one tells what else ran on the machine.
        nodes: the nodes of the graph that it runs, where the runtime says so.
        origin: the node or the tensor of the graph that ``name`` was made from, where that is another word.
        first_op: the operator of the graph that ``op`` begins with, where that is another word.
    """

    name: str
    op: str
    microseconds: float
    nodes: tuple[str, ...] = ()
    origin: str = ""
    first_op: str = ""


@runtime_checkable
class Profiler(Protocol):
    """A backend that can say where the time goes."""

    def profile(self, model: Path, feeds: Feeds, options: Options, runs: int) -> Iterable[KernelRow]:
        """Run ``model`` under the runtime's profiler ``runs`` times after warming up; its kernels in order.

        Raises:
            BackendMissingError, BackendError: as ``Backend.open``.
        """


@dataclass(frozen=True)
class EngineFigures:
    """What was measured of an open engine.

    Attributes:
        samples_ms: raw samples in milliseconds by kind, such as ``gpu``, ``host`` and ``graph``.
        device: facts about the device and the state it is in.
        details: what else the runtime says of the engine, as plain data.
            Where there are no samples of a kind, ``<kind>_missing`` in it says why.
        level: the level of evidence; E2 is measured on a named device.
    """

    samples_ms: Mapping[str, Sequence[float]]
    device: Mapping[str, str]
    details: JsonDict
    level: str = "E2"


@runtime_checkable
class EngineMeasurer(Protocol):
    """A backend whose engines can be timed on the device itself, apart from what the host waits for."""

    def measure_engine(self, run: Run, feeds: Feeds, *, duration: float, samples: int) -> EngineFigures:
        """Measure what ``open`` gave: at least ``duration`` seconds and ``samples`` samples of each kind.

        Raises:
            BackendError: the engine breaks.
        """


@dataclass(frozen=True)
class CompileOptions:
    """What is to be compiled, in words that hold for every compiler.

    Attributes:
        device: by its name; empty for the usual one.
        shapes: per input the range of shapes; one that needs fixed sizes takes the usual shape.
        precision: one of ``Traits.precisions`` that a float32 model is brought to; empty for what is usual.
        calibration: inputs from which the ranges of integers are taken, each in the model's order.
        simulate: inputs to run on the maker's simulator, where there is one.
    """

    device: str = ""
    shapes: Mapping[str, ShapeRange] = field(default_factory=dict)
    precision: str = ""
    calibration: Sequence[Feeds] = ()
    simulate: Sequence[Feeds] = ()


class Evidence(Protocol):
    """That a compiler accepted a graph for a device which is not there: level E1, and never more."""

    @property
    def level(self) -> str:
        """The level of evidence."""

    @property
    def simulated(self) -> Sequence[Mapping[str, NDArray[Any]]]:
        """What the simulator gave for ``CompileOptions.simulate``, in its order; empty where nothing was simulated."""

    def summary(self) -> str:
        """Say the claim, in the only words it may be made in."""

    def details(self) -> str:
        """Say in one line what the compiler made of the graph."""

    def to_dict(self) -> JsonDict:
        """Give the evidence as plain data: ``product``, ``version`` and the chip say what was compiled for what."""


@runtime_checkable
class Compiler(Protocol):
    """A backend that can compile without the device.

    Attributes:
        compiles_for: the lint targets for which its compiler speaks.
    """

    compiles_for: tuple[str, ...]

    def missing_compiler(self) -> str | None:
        """Say what to install before ``compile_only`` can work, or None; the device need not be there."""

    def compile_only(self, model: Path, options: CompileOptions) -> Evidence:
        """Compile ``model`` for a device.

        Raises:
            BackendMissingError: ``missing_compiler()`` is not None.
            RefusedError: the compiler refuses the graph; ``complaints`` name the nodes.
            BackendError: the compiler broke or did not end.
        """


@runtime_checkable
class Installer(Protocol):
    """A compiler whose packages bear no others beside them, so that they live in an environment of their own."""

    def installation(self) -> str:
        """Say what ``install`` would install, and where."""

    def install(self) -> None:
        """Make the environment.

        Raises:
            BackendError: it could not be made; what was there before is intact.
        """


@runtime_checkable
class Tunable(Protocol):
    """A backend with settings that change how long a run takes, and nothing of what it computes but its rounding."""

    def tunings(self, threads: int) -> Sequence[Mapping[str, str]]:
        """List what is worth trying with so many threads as ``Options.settings``: the usual, which is empty, first."""

    def session_lines(self, model: Path, options: Options) -> Sequence[str]:
        """Write the lines of Python by which somebody's own program opens ``model`` as ``open`` does."""
