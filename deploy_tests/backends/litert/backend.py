"""LiteRT on the CPU, with XNNPACK's kernels where they take an operator."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attn_export.deploy_tests.backend import Options, Run
from attn_export.deploy_tests.backends.litert.signature import Tensor, matched
from attn_export.errors import BackendError, BackendMissingError
from attn_export.process.silence import silenced
from attn_export.types import Feeds

#: What a file says in its metadata that lets XNNPACK compute its float32 in float16 where the processor can.
_REDUCED = b"reduced_precision_support"


class Litert:
    """The interpreter with its default kernels; float32 stays float32.

    The package for Python has no profiler: LiteRT's ``benchmark_model --enable_op_profiling=true`` is one.
    """

    title = "LiteRT"
    accepts = ("tflite",)
    runs_on_own_threads = True
    libraries = ("ai-edge-litert",)

    def missing(self) -> str | None:
        """Say how to install LiteRT, or None."""
        if importlib.util.find_spec("ai_edge_litert") is None:
            return "LiteRT is not installed: pip install ai-edge-litert"
        return None

    def version(self) -> str:
        """Name and version."""
        return f"LiteRT {importlib.metadata.version('ai-edge-litert')}, CPU"

    @contextmanager
    def open(self, model: Path, options: Options) -> Iterator[Run]:
        """Load ``model``, and find its inputs and outputs by the signature that it has."""
        if why := self.missing():
            raise BackendMissingError(why)
        if options.precision == "float32" and _allows_less(model):
            raise BackendError(
                f"{model} asks for float16 where the processor has it ({_REDUCED.decode()} in its metadata), and is to"
                " be computed in float32; convert it without that"
            )
        version = self.version()
        with silenced():  # its compiled code says that it has made kernels, and what an exception says as well
            try:
                from ai_edge_litert.interpreter import Interpreter

                interpreter = Interpreter(str(model), num_threads=options.threads)
                inputs, outputs = _signature(interpreter, model)
                interpreter.allocate_tensors()
            except BackendError:
                raise
            except Exception as error:  # the runtime's exceptions share no base class of their own
                raise BackendError(f"{version} does not load {model}: {error}") from error
        taken = matched(inputs, options.inputs, f"{model}: inputs")
        given = matched(outputs, options.outputs, f"{model}: outputs")

        def run(feeds: Feeds) -> dict[str, NDArray[Any]]:
            for name, tensor in taken.items():
                value = feeds[name]
                if value.shape != tensor.shape:  # others would be resized to, and most kernels are not made for it
                    raise BackendError(f"{model}: expected {name} of shape {tensor.shape}, got {value.shape}")
            try:
                for name, tensor in taken.items():
                    interpreter.set_tensor(tensor.index, np.ascontiguousarray(feeds[name]))
                interpreter.invoke()
                return {name: interpreter.get_tensor(tensor.index) for name, tensor in given.items()}
            except Exception as error:
                shapes = {name: value.shape for name, value in feeds.items()}
                raise BackendError(f"{version} breaks on {model} with inputs {shapes}: {error}") from error

        yield run


def _allows_less(model: Path) -> bool:
    if model.stat().st_size == 0:
        return False
    with model.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(_REDUCED) >= 0


def _signature(interpreter: Any, model: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Read the inputs and outputs of the one signature, by their names in the file."""
    names = list(interpreter.get_signature_list())
    if len(names) != 1:
        raise BackendError(f"{model}: expected one signature, got {len(names)}; convert one model into one file")
    runner = interpreter.get_signature_runner(names[0])
    return _tensors(runner.get_input_details()), _tensors(runner.get_output_details())


def _tensors(details: Any) -> dict[str, Tensor]:
    return {
        name: Tensor(int(one["index"]), np.dtype(one["dtype"]).name, tuple(map(int, one["shape"])))
        for name, one in details.items()
    }
