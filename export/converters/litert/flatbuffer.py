"""A ``.tflite`` file as objects that can be changed: its operators by name, its constants, and new tensors."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from attn_export.errors import ExportError
from attn_export.types import Array

#: What stands at bytes 4 to 7 of a file.
_IDENTIFIER = b"TFL3"


def _schema() -> Any:
    return importlib.import_module("ai_edge_litert.schema_py_generated")


class File:
    """A file with one graph.

    Args:
        content: its bytes.

    Raises:
        ExportError: it has several graphs.
    """

    def __init__(self, content: bytes) -> None:
        self.schema = schema = _schema()
        self.model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(content, 0))
        if len(self.model.subgraphs) != 1:
            raise ExportError(f"expected a .tflite file with one graph, got {len(self.model.subgraphs)}")
        self.graph = self.model.subgraphs[0]
        self._names = {code: name for name, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)}
        self._types = {name: code for name, code in vars(schema.TensorType).items() if isinstance(code, int)}

    @property
    def operators(self) -> list[Any]:
        """The operators in the order in which they run."""
        return list(self.graph.operators)

    def name(self, operator: Any) -> str:
        """Give the operator's name, such as ``CONV_2D``."""
        return str(self._names.get(self.model.operatorCodes[operator.opcodeIndex].builtinCode, "CUSTOM"))

    def shape(self, tensor: int) -> tuple[int, ...]:
        """Give the shape of a tensor."""
        shape = self.graph.tensors[tensor].shape
        return () if shape is None else tuple(map(int, shape))

    def is_float(self, tensor: int) -> bool:
        """Whether a tensor is float32; no tensor is not."""
        return tensor >= 0 and bool(self.graph.tensors[tensor].type == self._types["FLOAT32"])

    def constant(self, tensor: int) -> Array | None:
        """Give the values of a float32 tensor that is constant; None of others."""
        if not self.is_float(tensor):
            return None
        data = self.model.buffers[self.graph.tensors[tensor].buffer].data
        if data is None:
            return None
        return np.frombuffer(np.asarray(data, np.uint8).tobytes(), np.float32).reshape(self.shape(tensor))

    def add_tensor(self, like: int, label: str, kind: str, values: Array | None = None) -> int:
        """Add a tensor of the shape of another, or of ``values``; give its number."""
        tensor = self.schema.TensorT()
        old = self.graph.tensors[like]
        tensor.name = f"{_text(old.name)}_{label}"
        tensor.shape = np.asarray(self.shape(like) if values is None else values.shape, np.int32)
        tensor.hasRank = old.hasRank
        tensor.type = self._types[kind]
        tensor.buffer = self._buffer(values)
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def _buffer(self, values: Array | None) -> int:
        buffer = self.schema.BufferT()
        if values is not None:
            buffer.data = np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)
        self.model.buffers.append(buffer)
        return len(self.model.buffers) - 1

    def retype(self, tensor: int, kind: str) -> None:
        """Give a tensor that is computed another element type."""
        self.graph.tensors[tensor].type = self._types[kind]

    def quantise(self, tensor: int, scales: Sequence[float] | Array, zero_point: int = 0, axis: int = 0) -> None:
        """Say what the codes of a tensor mean: one scale, or one for each place along an axis."""
        quantization = self.schema.QuantizationParametersT()
        quantization.scale = np.atleast_1d(np.asarray(scales, np.float32))
        quantization.zeroPoint = np.full(quantization.scale.shape, zero_point, np.int64)
        quantization.quantizedDimension = axis
        self.graph.tensors[tensor].quantization = quantization

    def operator(
        self, name: str, inputs: Iterable[int], outputs: Iterable[int], version: int = 1, options: str = ""
    ) -> Any:
        """Make an operator, with ``options`` of that name as they are usual; it is not yet in the graph."""
        made = self.schema.OperatorT()
        made.inputs, made.outputs = np.asarray(list(inputs), np.int32), np.asarray(list(outputs), np.int32)
        made.opcodeIndex = self._code(getattr(self.schema.BuiltinOperator, name), version)
        if options:
            made.builtinOptionsType = getattr(self.schema.BuiltinOptions, options)
            made.builtinOptions = getattr(self.schema, f"{options}T")()
        return made

    def raise_version(self, operator: Any, version: int) -> None:
        """Say that an operator needs a version of its kernel at least."""
        code = self.model.operatorCodes[operator.opcodeIndex]
        operator.opcodeIndex = self._code(code.builtinCode, max(version, code.version))

    def _code(self, builtin: int, version: int) -> int:
        for index, code in enumerate(self.model.operatorCodes):
            if (code.builtinCode, code.version) == (builtin, version):
                return index
        made = self.schema.OperatorCodeT()
        made.builtinCode, made.version = builtin, version
        made.deprecatedBuiltinCode = min(builtin, self.schema.BuiltinOperator.PLACEHOLDER_FOR_GREATER_OP_CODES)
        self.model.operatorCodes.append(made)
        return len(self.model.operatorCodes) - 1

    def content(self) -> bytes:
        """Give the file's bytes, without what nothing in it reads."""
        import flatbuffers

        self._drop_unread()
        builder = flatbuffers.Builder(1 << 20)
        builder.Finish(self.model.Pack(builder), file_identifier=_IDENTIFIER)
        return bytes(builder.Output())

    def _drop_unread(self) -> None:
        graph, model = self.graph, self.model
        read = {int(i) for one in graph.operators for i in (*one.inputs, *one.outputs) if i >= 0}
        kept = sorted(read.union(map(int, graph.inputs), map(int, graph.outputs)))
        place = {old: new for new, old in enumerate(kept)} | {-1: -1}
        graph.tensors = [graph.tensors[i] for i in kept]
        for one in graph.operators:
            one.inputs = np.asarray([place[int(i)] for i in one.inputs], np.int32)
            one.outputs = np.asarray([place[int(i)] for i in one.outputs], np.int32)
        graph.inputs = np.asarray([place[int(i)] for i in graph.inputs], np.int32)
        graph.outputs = np.asarray([place[int(i)] for i in graph.outputs], np.int32)
        for signature in model.signatureDefs or ():
            for port in (*signature.inputs, *signature.outputs):
                port.tensorIndex = place[int(port.tensorIndex)]
        # The first buffer is empty, and stands for none.
        used = {0, *(one.buffer for one in graph.tensors), *(one.buffer for one in model.metadata or ())}
        buffers = {old: new for new, old in enumerate(sorted(used))}
        model.buffers = [model.buffers[i] for i in sorted(used)]
        for one in (*graph.tensors, *(model.metadata or ())):
            one.buffer = buffers[one.buffer]
        codes = sorted({one.opcodeIndex for one in graph.operators})
        model.operatorCodes = [model.operatorCodes[i] for i in codes]
        for one in graph.operators:
            one.opcodeIndex = codes.index(one.opcodeIndex)


def _text(name: Any) -> str:
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name or "")
