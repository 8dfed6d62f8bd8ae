"""OpenVINO on the CPU.

Left alone it computes in bfloat16 where the processor can, and says so nowhere. So the element type is asked for, and
read back from what was compiled: a run in another one than was asked for is refused, and proves nothing. So is a
model in int8 of which no layer multiplies integers.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from attn_export.deploy_tests.backend import Kernel, Options, Run
from attn_export.deploy_tests.backends.openvino import integers
from attn_export.deploy_tests.backends.openvino.profile import kernels
from attn_export.errors import BackendError, BackendMissingError
from attn_export.process.quiet_import import without
from attn_export.types import Feeds
from attn_export.untrusted.text import first_line

#: What OpenVINO calls the element types; what a quantised graph does not round itself is computed in float32.
HINTS = {"float32": "f32", "bfloat16": "bf16", "float16": "f16", "int8": "f32"}
#: Runs that warm up before the profile counts.
WARMING = 3


class OpenVino:
    """CPU plug-in, one stream, in exactly the element type that was asked for, denormals flushed to zero."""

    title = "OpenVINO"
    accepts = ("openvino", "onnx")
    runs_on_own_threads = True
    libraries = ("openvino",)
    # No snippet: a script of two lines would import it as it comes, and then it reports home.

    def missing(self) -> str | None:
        """Say how to install OpenVINO, or None."""
        if importlib.util.find_spec("openvino") is None:
            return "OpenVINO is not installed: pip install 'attn-export[openvino]'"
        return None

    def version(self) -> str:
        """Name and version."""
        return f"{_named(_openvino())}, CPU"

    @contextmanager
    def open(self, model: Path, options: Options) -> Iterator[Run]:
        """Load ``model`` and compile it.

        Raises:
            BackendMissingError: OpenVINO is not installed.
            BackendError: it refuses the model, or compiles it for another element type than was asked for.
        """
        compiled = self._compiled(model, options, {})
        names = output_names([port.get_names() for port in compiled.outputs], [port.name for port in options.outputs])
        taken = {name: port for port in compiled.inputs for name in port.get_names()}
        request = compiled.create_infer_request()
        fitting = set[tuple[tuple[int, ...], ...]]()

        def run(feeds: Feeds) -> dict[str, NDArray[Any]]:
            shapes = tuple(value.shape for value in feeds.values())
            try:
                if shapes not in fitting:
                    _fit(taken, feeds)
                    fitting.add(shapes)
                found = request.infer(dict(feeds))
                return {name: found[index] for index, name in enumerate(names)}
            except Exception as error:  # the runtime's exceptions share no base class of their own
                given = {name: value.shape for name, value in feeds.items()}
                raise BackendError(f"{self.version()} breaks on {model} with inputs {given}: {error}") from error

        yield run

    def profile(self, model: Path, feeds: Feeds, options: Options, runs: int) -> tuple[Kernel, ...]:
        """Read OpenVINO's own counters, run by run, in the words of the graph."""
        compiled = self._compiled(model, options, {"PERF_COUNT": True})
        request = compiled.create_infer_request()
        try:
            rows = []
            for _ in range(runs + WARMING):
                request.infer(dict(feeds))
                rows.append([_counted(row) for row in request.profiling_info if row.status == row.Status.EXECUTED])
            origins = _origins(compiled)
        except Exception as error:
            raise BackendError(f"{self.version()} does not profile {model}: {error}") from error
        return kernels(rows[WARMING:], origins)

    def _compiled(self, model: Path, options: Options, more: dict[str, Any]) -> Any:
        if why := self.missing():
            raise BackendMissingError(why)
        openvino = _openvino()
        if (hint := HINTS.get(options.precision)) is None:
            raise BackendError(
                f"OpenVINO: expected a precision of {', '.join(HINTS)}, got {options.precision}; use another backend"
            )
        settings = {
            "INFERENCE_PRECISION_HINT": hint,
            "EXECUTION_MODE_HINT": "ACCURACY",
            "INFERENCE_NUM_THREADS": options.threads,
            "NUM_STREAMS": 1,
            # A denormal costs a hundred times a normal number; timing them would measure the input, not the model.
            "CPU_DENORMALS_OPTIMIZATION": True,
        }
        try:
            core = openvino.Core()
            compiled = core.compile_model(core.read_model(str(model)), "CPU", {**settings, **more})
            got = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        except Exception as error:  # the runtime's exceptions share no base class of their own
            raise BackendError(f"{_named(openvino)} does not load {model}: {_reason(error)}") from error
        if got != hint:
            raise BackendError(
                f"{_named(openvino)}: expected to compute {model.name} in {hint}, got {got}: this processor has nothing"
                f" better for {options.precision}; run it where there is, or prove a file of another precision"
            )
        if options.precision == "int8":
            integers.read(compiled).refuse_none(f"{_named(openvino)}: {model.name}")
        return compiled


def output_names(ports: list[set[str]], wanted: list[str]) -> list[str]:
    """Name the outputs of a compiled model, in its order; a tensor may bear several names.

    >>> output_names([{"relu", "y"}, {"z"}], ["y", "z"]), output_names([{"b", "a"}], [])
    (['y', 'z'], ['a'])

    Raises:
        BackendError: an output bears none of the names that are wanted.
    """
    found = []
    for names in ports:
        fitting = sorted(names.intersection(wanted) if wanted else names)
        if not fitting:
            raise BackendError(
                f"expected outputs {', '.join(wanted) or 'with names'}, got one that is called"
                f" {', '.join(sorted(names)) or 'nothing'}; convert the model again"
            )
        found.append(fitting[0])
    return found


def _fit(taken: dict[str, Any], feeds: Feeds) -> None:
    # Where a size is fixed the runtime does not look, and reads whatever lies there.
    for name, value in feeds.items():
        shape = taken[name].get_partial_shape() if name in taken else None
        if shape is None:
            raise ValueError(f"expected inputs {', '.join(taken)}, got {name}")
        fits = len(shape) == value.ndim and all(
            size.is_dynamic or size.get_length() == have for size, have in zip(shape, value.shape, strict=True)
        )
        if not fits:
            raise ValueError(f"expected {name} of shape {shape}, got {list(value.shape)}")


def _counted(row: Any) -> tuple[str, str, float]:
    return row.node_name, row.node_type, row.real_time.total_seconds() * 1e6


def _origins(compiled: Any) -> dict[str, tuple[str, ...]]:
    """Read from the compiled model which nodes of the graph each kernel runs."""
    found = {}
    for op in compiled.get_runtime_model().get_ops():
        info = op.get_rt_info()
        if "originalLayersNames" in info:
            text = str(info["originalLayersNames"].astype(str))
            found[op.get_friendly_name()] = tuple(name for name in text.split(",") if name)
    return found


def _reason(error: Exception) -> str:
    """Give the end of what the runtime says: it begins with the places in its own code."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = [line for line in lines if not line.startswith(("Exception from ", "Check '"))]
    return " ".join(said)[:600] or first_line(error)


def _openvino() -> Any:
    return without("openvino", "openvino_telemetry")


def _named(openvino: Any) -> str:
    return f"OpenVINO {openvino.__version__.partition('-')[0]}"
