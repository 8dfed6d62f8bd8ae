"""The runtimes a bundle can be proven on: one file or package each, torch-free, imported only when used.

Whoever needs a runtime asks here, by its name: what it lacks, what it is like (``traits``), and for the abilities that
it may have. What a plug-in raises meanwhile is said to be the plug-in's.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from attn_export.bundle.elements import BFLOAT16
from attn_export.bundle.format import SUFFIXES
from attn_export.deploy_tests.backend import (
    Backend,
    CompileOptions,
    Compiler,
    EngineFigures,
    EngineMeasurer,
    Evidence,
    Installer,
    Kernel,
    KernelRow,
    Options,
    Profiler,
    Run,
    Traits,
    Tunable,
)
from attn_export.errors import AttnExportError, BackendError, BackendMissingError, UnknownNameError, UsageError
from attn_export.process import activity
from attn_export.registry import Registry
from attn_export.types import Feeds

BACKENDS: Registry[Backend] = Registry("attn_export.deploy_tests.backends", "BACKEND", "backend", families=False)
#: The one of the base install: where the pipeline proves and measures, and what commands take unless told otherwise.
DEFAULT = "onnxruntime"


def found(name: str) -> Backend:
    """Import the backend of that name; a plug-in may do anything while it is.

    Raises:
        UnknownNameError: there is no such backend.
        BackendError: it is a plug-in that cannot be imported.
    """
    with activity.doing("importing the backend", who=name), _blamed(name):
        return BACKENDS[name]


def missing(name: str) -> str | None:
    """Say what to install or plug in before ``opened`` can work, or None.

    Raises:
        UnknownNameError, BackendError: as ``found``; or it is a plug-in that breaks on the question.
    """
    backend = found(name)
    with activity.doing("asking the backend what it needs", who=name), _blamed(name):
        return backend.missing()


def traits(name: str) -> Traits:
    """Read what a backend says of itself; what it does not say has its default.

    Raises:
        UnknownNameError, BackendError: as ``found``; or an attribute is of another type.
    """
    backend, said = found(name), dict[str, Any]()
    for field in fields(Traits):
        value = getattr(backend, field.name, field.default)
        if type(field.default) is tuple and isinstance(value, list):
            value = tuple(value)
        if type(value) is not type(field.default):
            expected, got = type(field.default).__name__, type(value).__name__
            raise BackendError(f"{name}: expected {field.name} to be a {expected}, got {got}; mend the backend")
        said[field.name] = value
    return Traits(**said)


def title(name: str) -> str:
    """Say what people call a backend. The name may come from anywhere, so nothing but our own is imported for it."""
    ours = name in BACKENDS and BACKENDS.entry(name).path is not None
    return traits(name).title or name if ours else name


@contextmanager
def _blamed(name: str) -> Iterator[None]:
    """Turn what a plug-in raises into its own failure, whatever it is; our own code is to be mended where it raises."""
    try:
        yield
    except (AttnExportError, KeyboardInterrupt):
        raise
    except (Exception, SystemExit) as error:
        if BACKENDS.entry(name).path:
            raise
        raise BackendError(f"{name} broke while {activity.now().doing}: {type(error).__name__}: {error}") from error


def backend_for(kind: str) -> str:
    """Name a backend that takes artifacts of this kind: the default where it does, else the first that is here.

    Raises:
        BackendMissingError: there is none.
    """
    takers: list[str] = [name for name in (DEFAULT, *BACKENDS) if kind in traits(name).accepts]
    for name in takers:
        if missing(name) is None:
            return name
    why = "".join(f"; {name}: {missing(name)}" for name in takers)
    raise BackendMissingError(f"no backend here runs an artifact of kind {kind}, so nothing proves it{why}")


def _taken(name: str, model: Path) -> None:
    """Refuse a file of a kind that a backend does not take.

    Raises:
        BackendError: it is one.
    """
    accepted = traits(name).accepts
    if model.suffix not in (SUFFIXES.get(kind, f".{kind}") for kind in accepted):
        raise BackendError(f"{name}: expected a file of kind {' or '.join(accepted)}, got {model.name}")


def _fed(name: str, options: Options) -> None:
    """Refuse inputs and outputs of a type that a backend is not given.

    Raises:
        BackendError: there is one.
    """
    ports = [port.name for port in (*options.inputs, *options.outputs) if port.dtype == BFLOAT16]
    if ports and not traits(name).takes_bfloat16:
        raise BackendError(
            f"{name}: expected inputs and outputs of types that NumPy has, got {ports[0]!r} in bfloat16; export the"
            " model with float32 there, and let it cast inside"
        )


@contextmanager
def opened(name: str, model: Path, options: Options) -> Iterator[Run]:
    """Open ``model`` on a backend, and note whose code runs from here on: a crash in it is then named.

    Raises:
        UnknownNameError: there is no such backend.
        BackendError: it does not take this kind of artifact.
        BackendMissingError, BackendError: as the backend's ``open``.
    """
    with activity.doing("opening the model", who=name, model=model):
        backend = found(name)
        _taken(name, model)
        _fed(name, options)
        with ExitStack() as stack:
            with _blamed(name):
                run, version = stack.enter_context(backend.open(model, options)), backend.version()
            with activity.doing("running the model", who=version):
                yield run if BACKENDS.entry(name).path else _PluginRun(run, name)


@dataclass(frozen=True)
class _PluginRun:
    """A plug-in's run, whose every failure names it."""

    run: Run
    name: str

    def __call__(self, feeds: Feeds) -> dict[str, NDArray[Any]]:
        with _blamed(self.name):
            return self.run(feeds)


def has_profiler(name: str) -> bool:
    """Whether ``profile`` can work on this backend."""
    return isinstance(found(name), Profiler)


def profile(name: str, model: Path, feeds: Feeds, options: Options, runs: int) -> tuple[Kernel, ...]:
    """Profile ``model`` with the runtime's own profiler.

    Raises:
        UsageError: this backend has none.
        BackendMissingError, BackendError: as the backend's ``profile``.
    """
    backend = found(name)
    if not isinstance(backend, Profiler):
        raise UsageError(f"{name} has no profiler; leave --profile out, or use another backend")
    with activity.doing("profiling the model", who=name, model=model), _blamed(name):
        return tuple(map(_kernel, backend.profile(model, feeds, options, runs)))


def _kernel(row: KernelRow) -> Kernel:
    if isinstance(row, Kernel):
        return row
    return Kernel(row.name, row.op, float(row.microseconds), tuple(getattr(row, "nodes", ())))


def tunings(name: str, threads: int) -> tuple[Mapping[str, str], ...]:
    """List the settings of a backend that are worth trying with so many threads, the usual ones, which are none, first.

    Raises:
        UnknownNameError, BackendError: as ``found``.
    """
    backend = found(name)
    if not isinstance(backend, Tunable):
        return ({},)
    with activity.doing("asking the backend what can be tuned", who=name), _blamed(name):
        return tuple({str(key): str(value) for key, value in one.items()} for one in backend.tunings(threads))


def session_lines(name: str, model: Path, options: Options) -> tuple[str, ...]:
    """Write lines of Python that open ``model`` with these options; none where the backend has no settings.

    Raises:
        UnknownNameError, BackendError: as ``found``.
    """
    backend = found(name)
    if not isinstance(backend, Tunable):
        return ()
    with activity.doing("asking the backend for its settings", who=name), _blamed(name):
        return tuple(map(str, backend.session_lines(model, options)))


def measures_engines(name: str) -> bool:
    """Whether ``measure_engine`` can work on this backend."""
    return isinstance(found(name), EngineMeasurer)


def with_engines() -> str:
    """Name the first backend that measures engines, which is what a kit is written for; the default where none does."""
    return next((name for name in BACKENDS if measures_engines(name)), DEFAULT)


def measure_engine(name: str, run: Run, feeds: Feeds, *, duration: float, samples: int) -> EngineFigures | None:
    """Measure an engine that ``opened`` gave; None where the backend has no engines to measure.

    Raises:
        BackendError: as the backend's ``measure_engine``.
    """
    backend = found(name)
    if not isinstance(backend, EngineMeasurer):
        return None
    with activity.doing("measuring the engine", who=name), _blamed(name):
        own = run.run if isinstance(run, _PluginRun) else run
        return backend.measure_engine(own, feeds, duration=duration, samples=samples)


def compilers() -> dict[str, tuple[str, ...]]:
    """Name the backends that compile for a device that is not there, each with the lint targets it speaks for.

    A plug-in that cannot be imported compiles nothing.
    """
    able = dict[str, tuple[str, ...]]()
    for name in BACKENDS:
        with suppress(BackendError):
            if isinstance(backend := found(name), Compiler):
                able[name] = tuple(backend.compiles_for)
    return able


def compiler_for(target: str) -> str | None:
    """Name the backend whose compiler speaks for a lint target, or None."""
    return next((name for name, targets in compilers().items() if target in targets), None)


def missing_compiler(name: str) -> str | None:
    """Say what to install before ``compile_only`` can work, or None.

    Raises:
        UnknownNameError: there is no such backend, or it compiles nothing.
        BackendError: as ``found``.
    """
    backend = _compiler(name)
    with activity.doing("asking the compiler what it needs", who=name), _blamed(name):
        return backend.missing_compiler()


def compile_only(name: str, model: Path, options: CompileOptions) -> Evidence:
    """Compile ``model`` for a device that is not there.

    Raises:
        UnknownNameError: there is no such backend, or it compiles nothing.
        BackendError: as ``found``; or it does not take this kind of artifact.
        BackendMissingError, RefusedError, BackendError: as the backend's ``compile_only``.
    """
    backend = _compiler(name)
    with activity.doing("compiling the model", who=name, model=model), _blamed(name):
        _taken(name, model)
        if why := backend.missing_compiler():
            raise BackendMissingError(why)
        return backend.compile_only(model, options)


def compile_target(text: str) -> tuple[str, str]:
    """Read a target such as ``qnn:sm8650``: who compiles for it, and its chip; empty for that compiler's usual one.

    The compiler may be named by a lint target that it speaks for, and left out where one alone has the chip.

    Raises:
        UnknownNameError: there is no such compiler, or it has no such chip.
    """
    able, (word, _, chip) = compilers(), text.lower().partition(":")
    name = word.replace("-", "_")
    if name not in able and not chip:
        with_chip = [one for one in able if word in traits(one).chips]
        if len(with_chip) == 1:
            return with_chip[0], word
    if name not in able and (speaker := compiler_for(name)):
        name = speaker
    if name not in able:
        chips = {chip: f"{one}:{chip}" for one in able for chip in traits(one).chips}
        near = [chips[chip] for chip in difflib.get_close_matches(word, chips)]
        raise UnknownNameError("target to compile for", text, near or able)
    if chip and (known := traits(name).chips) and chip not in known:
        raise UnknownNameError(f"chip that {name} compiles for", chip, known)
    return name, chip


def installation(name: str) -> str | None:
    """Say what ``install`` would install for a compiler, and where; None where pip installs all that it needs.

    Raises:
        UnknownNameError, BackendError: as ``found``.
    """
    backend = found(name)
    with activity.doing("asking the compiler what it would install", who=name), _blamed(name):
        return backend.installation() if isinstance(backend, Installer) else None


def install(name: str) -> None:
    """Make the environment that a compiler needs; nothing is done where pip installs all.

    Raises:
        UnknownNameError, BackendError: as ``found``; or it could not be made.
    """
    backend = found(name)
    with activity.doing("installing the compiler", who=name), _blamed(name):
        if isinstance(backend, Installer):
            backend.install()


def _compiler(name: str) -> Compiler:
    backend = found(name)
    if not isinstance(backend, Compiler):
        raise UnknownNameError("backend that compiles without a device", name, compilers())
    return backend


def libraries(*plug_ins: str) -> tuple[str, ...]:
    """List the distributions that our own backends stand on, and those of the plug-ins that are named, each once."""
    ours = [name for name in BACKENDS if BACKENDS.entry(name).path]
    asked = [name for name in plug_ins if name in BACKENDS and name not in ours]
    return tuple(dict.fromkeys(library for name in (*ours, *asked) for library in traits(name).libraries))
