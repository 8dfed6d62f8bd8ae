"""MNN on the CPU.

It is asked for its high precision, as by default it may compute in float16 where a processor can, and for convolutions
without Winograd's transform, which loses digits where kernels are large. It does not say what it then did: the cases
do. It knows integers of 32 bits only, and its layouts are brought back to ONNX's.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attn_export.bundle.elements import in_32_bits
from attn_export.deploy_tests.backend import Options, Run
from attn_export.errors import BackendError, BackendMissingError
from attn_export.process.silence import silenced
from attn_export.types import Feeds, TensorSpec
from attn_export.untrusted.text import one_line

#: MNN's number for how much memory Winograd's transform may take, and the level at which it is not used: a kernel of
#: 7 by 7 is otherwise 35 float32 noise floors off (``gam``), and RepVGG-A0 takes 3 % less time.
WINOGRAD, UNUSED = 3, 0


class Mnn:
    """Every layer in float32, at whatever sizes the inputs have.

    Its package for Python has no profiler for such modules.
    """

    title = "MNN"
    accepts = ("mnn",)
    runs_on_own_threads = True
    libraries = ("MNN",)

    def missing(self) -> str | None:
        """Say how to install MNN, or None."""
        if importlib.util.find_spec("MNN") is None:
            return "MNN is not installed: pip install 'attn-export[mnn]'"
        return None

    def version(self) -> str:
        """Name and version."""
        return f"MNN {importlib.metadata.version('MNN')}, CPU"

    @contextmanager
    def open(self, model: Path, options: Options) -> Iterator[Run]:
        """Load ``model``.

        Raises:
            BackendMissingError: MNN is not installed.
            BackendError: it refuses the file, or a precision other than float32 is asked for.
        """
        if why := self.missing():
            raise BackendMissingError(why)
        if options.precision != "float32":
            raise BackendError(f"MNN: expected a file of float32, got {options.precision}")
        if not options.inputs or not options.outputs:
            raise BackendError(f"{model}: MNN finds inputs and outputs by name; give a bundle, which holds the names")
        with silenced() as said:  # what is wrong it prints
            try:
                module = _load(model, options)
            except Exception as error:  # its exceptions share no base class of their own
                why = one_line(f"{said()} {error.__cause__ or error}")
                raise BackendError(f"{self.version()} does not load {model}: {why}") from error

        def run(feeds: Feeds) -> dict[str, NDArray[Any]]:
            with silenced() as said:
                try:
                    return _run(module, options, feeds)
                except Exception as error:  # the runtime's exceptions share no base class of their own
                    shapes = {name: value.shape for name, value in feeds.items()}
                    why = f"{error} {one_line(said())}".strip()
                    raise BackendError(f"{self.version()} breaks on {model} with inputs {shapes}: {why}") from error

        yield run


def _load(model: Path, options: Options) -> Any:
    from MNN import nn

    manager = nn.create_runtime_manager(({"backend": "CPU", "precision": "high", "numThread": options.threads},))
    manager.set_hint(WINOGRAD, UNUSED)
    names = [port.name for port in options.inputs], [port.name for port in options.outputs]
    return nn.load_module_from_file(str(model), *names, runtime_manager=manager)


def _run(module: Any, options: Options, feeds: Feeds) -> dict[str, NDArray[Any]]:
    from MNN import expr

    given = []
    for port in options.inputs:
        value = in_32_bits(feeds[port.name], port.name, "MNN")
        kind = expr.float if value.dtype == np.float32 else expr.int
        variable = expr.placeholder(list(value.shape), expr.NCHW, kind)
        variable.write(value)
        given.append(variable)
    came = module.onForward(given)
    if len(came) != len(options.outputs):
        raise ValueError(f"expected {len(options.outputs)} outputs, got {len(came)}")
    answers = {}
    for port, variable in zip(options.outputs, came, strict=True):
        plain = variable if variable.data_format == expr.NCHW else expr.convert(variable, expr.NCHW)
        value = plain.read()
        if value is None:
            raise ValueError(f"{port.name} could not be computed")
        answers[port.name] = np.array(value, copy=True).astype(_dtype(port, np.asarray(value)), copy=False)
    return answers


def _dtype(port: TensorSpec, value: NDArray[Any]) -> np.dtype[Any]:
    """Bring integers, of which MNN has one width, to what the model promises; a float stays what it is."""
    wanted = np.dtype(port.dtype)
    return wanted if wanted.kind in "iub" and value.dtype.kind in "iub" else value.dtype
