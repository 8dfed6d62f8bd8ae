"""A ``.pte`` file from the PyTorch program: sizes vary as far as memory is planned for them.

Beside it lies ``.bpte``, the same program with an input and what PyTorch gives for it, which ExecuTorch's own runners
check by themselves.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from typing import Any

import torch

from attn_export.errors import ExportError
from attn_export.export.converters import Converted, Source
from attn_export.export.converters.executorch.sizes import Attempt, attempts
from attn_export.export.torch_program import TorchProgram
from attn_export.process.silence import silenced
from attn_export.untrusted.text import first_line


class Executorch:
    """``.pte`` and ``.bpte``: inputs and outputs have no names in them, and stand in the order of the contract."""

    def missing(self) -> str | None:
        """Say how to install ExecuTorch, or None."""
        if importlib.util.find_spec("executorch") is None:
            return "ExecuTorch is not installed: pip install 'attn-export[executorch]'"
        return None

    def convert(self, source: Source) -> Converted:
        """Trace the program once more with as many sizes free as it can have, lower it to XNNPACK, and write it."""
        if why := self.missing():
            raise ExportError(why)
        source.only("executorch", "float32")
        program = source.as_torch("executorch")
        refusals = list[Exception]()
        for attempt in attempts(source.exported.contract, program, source.fixed_dims()):
            with silenced():
                try:
                    return self._written(program, attempt)
                except Exception as error:  # what is asked to vary may be what is refused
                    refusals.append(error)
        last = refusals[-1]
        raise ExportError(f"ExecuTorch cannot write the model: {first_line(last)}") from last

    def _written(self, program: TorchProgram, attempt: Attempt) -> Converted:
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.devtools.backend_debug import get_delegation_info
        from executorch.exir import to_edge_transform_and_lower

        inputs = program.at(attempt.cut)
        exported = torch.export.export(_Flat(program.module), inputs, dynamic_shapes=(attempt.free(program),))
        edge = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()])
        shares = get_delegation_info(edge.exported_program().graph_module).delegation_by_operator
        written = edge.to_executorch()
        buffer = bytes(written.buffer)
        for most in (False, True):
            _try(buffer, attempt.sized(program, most=most))
        files = {"model.pte": buffer, "model.bpte": _bundled(written, program, inputs)}
        version = f"ExecuTorch {importlib.metadata.version('executorch')}"
        taken, left = _told(shares)
        notes = tuple(filter(None, (attempt.summary(), left)))
        return Converted("executorch", "pte", files, version, narrowed_dims=attempt.dims, notes=notes, taken=taken)


class _Flat(torch.nn.Module):
    """Takes tensors by position and gives a tuple, whatever the fused module's own calling code has become."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Run the module."""
        return tuple(self.module(*tensors))


def _try(buffer: bytes, inputs: tuple[torch.Tensor, ...]) -> None:
    """Run a file once: some kernels keep the size that they were traced with, and say so only then.

    Raises:
        RuntimeError: it does not run at this size.
    """
    from executorch.runtime import Runtime

    program = Runtime.get().load_program(buffer)
    method = program.load_method("forward")
    assert method is not None
    method.execute(inputs)


def _bundled(written: Any, program: TorchProgram, inputs: tuple[torch.Tensor, ...]) -> bytes:
    """Put the program together with these inputs and what PyTorch gives for them."""
    from executorch.devtools import BundledProgram
    from executorch.devtools.bundled_program.config import MethodTestCase, MethodTestSuite
    from executorch.devtools.bundled_program.serialize import serialize_from_bundled_program_to_flatbuffer

    with torch.no_grad():
        expected = tuple(value.detach().contiguous() for value in program.module(*inputs))
    suite = MethodTestSuite("forward", [MethodTestCase(list(inputs), list(expected))])
    return bytes(serialize_from_bundled_program_to_flatbuffer(BundledProgram(written, [suite])))


def _told(shares: Any) -> tuple[float, str]:
    """Give the part that the fast kernels take, and say which operators they leave; nothing where they take all."""
    counted = {name: one for name, one in shares.items() if name != "getitem"}
    left = {name: one.non_delegated for name, one in counted.items() if one.non_delegated}
    if not left:
        return 1.0, ""
    taken = sum(one.delegated for one in counted.values())
    every = taken + sum(left.values())
    names = ", ".join(f"{name} ({count})" for name, count in sorted(left.items()))
    return taken / every, f"XNNPACK takes {taken} of {every} operators; the plain kernels run {names}"
