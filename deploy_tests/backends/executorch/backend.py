"""ExecuTorch on the CPU, with XNNPACK's kernels where a file was lowered to them.

Its bindings for Python take and give PyTorch's tensors, so this backend alone needs PyTorch. Where there is none,
ExecuTorch's own runner checks ``model.bpte``, which holds an input with its outputs.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attn_export.deploy_tests.backend import Options, Run
from attn_export.errors import BackendError, BackendMissingError
from attn_export.process.silence import silenced
from attn_export.types import Feeds, TensorSpec

METHOD = "forward"


class Executorch:
    """The runtime as its wheel has it; float32 stays float32. It plans memory for the largest sizes."""

    title = "ExecuTorch"
    accepts = ("pte",)
    libraries = ("executorch", "torch")

    def missing(self) -> str | None:
        """Say how to install ExecuTorch and PyTorch, or None."""
        for name in ("executorch", "torch"):
            if importlib.util.find_spec(name) is None:
                return (
                    f"{name} is not installed: pip install 'attn-export[executorch]' (ExecuTorch's bindings for Python"
                    " need PyTorch; without it, its own runner checks model.bpte)"
                )
        return None

    def version(self) -> str:
        """Name and version."""
        return f"ExecuTorch {importlib.metadata.version('executorch')}, CPU"

    @contextmanager
    def open(self, model: Path, options: Options) -> Iterator[Run]:
        """Load ``model``, whose inputs and outputs stand in the order of the contract."""
        if why := self.missing():
            raise BackendMissingError(why)
        version = self.version()
        with silenced():  # its compiled code says what it finds out about the processor
            try:
                import torch
                from executorch.extension.pybindings import portable_lib
                from executorch.runtime import Runtime

                portable_lib._unsafe_reset_threadpool(options.threads)
                program = Runtime.get().load_program(model)
                method = program.load_method(METHOD)
                inputs, outputs = _shapes(method.metadata)
            except Exception as error:  # the runtime's exceptions share no base class of their own
                raise BackendError(f"{version} does not load {model}: {error}") from error
        taken = _named(options.inputs, len(inputs), f"{model}: inputs")
        given = _named(options.outputs, len(outputs), f"{model}: outputs")

        def run(feeds: Feeds) -> dict[str, NDArray[Any]]:
            for name, most in zip(taken, inputs, strict=True):
                shape = feeds[name].shape
                if len(shape) != len(most) or any(size > limit for size, limit in zip(shape, most, strict=True)):
                    raise BackendError(f"{model}: expected {name} of shape {most} at most, got {shape}")
            try:
                found = method.execute([torch.from_numpy(_owned(feeds[name])) for name in taken])
                return {name: value.numpy() for name, value in zip(given, found, strict=True)}
            except Exception as error:
                shapes = {name: value.shape for name, value in feeds.items()}
                raise BackendError(f"{version} breaks on {model} with inputs {shapes}: {error}") from error

        yield run


def _shapes(metadata: Any) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    """Read the largest shape of every input and output."""
    inputs = [tuple(metadata.input_tensor_meta(i).sizes()) for i in range(metadata.num_inputs())]
    outputs = [tuple(metadata.output_tensor_meta(i).sizes()) for i in range(metadata.num_outputs())]
    return inputs, outputs


def _named(ports: Sequence[TensorSpec], count: int, what: str) -> list[str]:
    """Name the tensors of a file; by their place where the contract is not known."""
    if ports and len(ports) != count:
        raise BackendError(f"{what}: expected {len(ports)} ({', '.join(port.name for port in ports)}), got {count}")
    return [port.name for port in ports] or [f"tensor_{place}" for place in range(count)]


def _owned(value: NDArray[Any]) -> NDArray[Any]:
    """Give an array that PyTorch takes without a warning: in order, and writable."""
    value = np.ascontiguousarray(value)
    return value if value.flags.writeable else value.copy()
