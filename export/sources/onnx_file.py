"""An ONNX file as a subject: the same pipeline from the graph on. Its truth is the graph itself in float64."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import onnx
import torch
from onnx import TensorProto
from torch import Tensor, nn

from attn_export.bundle import sha256
from attn_export.errors import SubjectError, UsageError
from attn_export.export.onnx import contract
from attn_export.export.onnx.exported import Contract, Exported
from attn_export.export.onnx.read import read_model
from attn_export.export.reference import GraphOutputs
from attn_export.export.sources.user_code import inputs_of
from attn_export.export.subject import Subject
from attn_export.mechanisms.spec import Dtype, Input
from attn_export.reparam.evaluate.onnx import OnnxEvaluator
from attn_export.types import Dim, TensorSpec

_DTYPES: dict[int, Dtype] = {TensorProto.FLOAT: "float32", TensorProto.INT64: "int64", TensorProto.BOOL: "bool"}


class GraphModule(nn.Module):
    """A graph that evaluates itself in the element type of its parameters: float64 after ``double()``."""

    def __init__(self, model: onnx.ModelProto) -> None:
        super().__init__()
        self.model = model
        self.precision = nn.Parameter(torch.zeros(()), requires_grad=False)
        self._exact: dict[torch.dtype, OnnxEvaluator] = {}

    def forward(self, *inputs: Tensor) -> GraphOutputs:
        """Evaluate node by node; outputs by name."""
        kind = self.precision.dtype
        if kind not in self._exact:
            self._exact[kind] = OnnxEvaluator(self.model, torch.zeros((), dtype=kind).numpy().dtype.type)
        feeds = {value.name: x.numpy() for value, x in zip(graph_inputs(self.model), inputs, strict=True)}
        return GraphOutputs({name: torch.from_numpy(value) for name, value in self._exact[kind].run(feeds).items()})


def read(path: Path, shapes: Sequence[str] = ()) -> Subject:
    """Read an ONNX file; ``shapes`` gives the sizes of inputs whose dimensions the file leaves open.

    A dimension with a name stays free; where no size is given, the first of an input is taken at 2.

    Raises:
        SubjectError: it cannot be read, or holds what has no float64 evaluation or no input of a known type.
        UsageError: sizes are missing, or contradict the file.
    """
    model = read_model(path)
    given = {item.name: (item, sizes) for item, sizes in _given(shapes, model)}
    inputs, sizes, free = [], dict[str, int](), dict[str, None]()
    for value in graph_inputs(model):
        kind = value.type.tensor_type.elem_type
        if kind not in _DTYPES:
            raise SubjectError(f"{path}: input {value.name!r} is {TensorProto.DataType.Name(kind)}; known: {_known()}")
        shape: list[int | str] = []
        wanted = _sizes(*given[value.name]) if value.name in given else None
        dims = contract.port(value).shape
        if wanted is not None and len(wanted) != len(dims):
            raise UsageError(f"input {value.name!r} has {len(dims)} dimensions; --input gives {len(wanted)}")
        for axis, dim in enumerate(dims):
            size = wanted[axis] if wanted else None
            if isinstance(dim, int):
                if size not in (None, dim):
                    raise UsageError(f"input {value.name!r}: dimension {axis} is {dim} in {path}; --input says {size}")
                shape.append(dim)
                continue
            if size is None and axis:
                raise UsageError(f"{path} leaves {dim!r} of {value.name!r} open; say {_hint(value.name, dims)}")
            name = "b" if axis == 0 else _identifier(dim, value.name, axis)
            sizes[name] = size or 2
            free[name] = None
            shape.append(name)
        inputs.append(Input(value.name, tuple(shape), _DTYPES[kind], 2))
    module = GraphModule(model).eval()
    return Subject(
        path.stem,
        module,
        tuple(inputs),
        sizes,
        tuple(Dim(name) for name in free),
        f"of {path.name} sha256 {sha256(path)}",
    )


def exported(subject: Subject) -> Exported:
    """The file's own graph as if it had just been exported, its contract read from itself."""
    assert isinstance(subject.module, GraphModule)
    model = subject.module.model
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    inputs = tuple(contract.port(value) for value in graph_inputs(model))
    outputs = tuple(contract.port(value) for value in model.graph.output)
    promised = Contract(opset, inputs, tuple(TensorSpec(p.name, p.dtype, p.shape) for p in outputs))
    return contract.check(model, promised)


def graph_inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """The inputs that are no initializers (old producers list those as well)."""
    constants = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in constants]


def _given(shapes: Sequence[str], model: onnx.ModelProto) -> list[tuple[Input, dict[str, int]]]:
    names = [value.name for value in graph_inputs(model)]
    items, sizes = inputs_of(shapes, names)
    for item in items:
        if item.name not in names:
            raise UsageError(f"--input names {item.name!r}; the file has {', '.join(names)}")
    return [(item, sizes) for item in items]


def _sizes(item: Input, sizes: dict[str, int]) -> list[int]:
    return [sizes[dim] if isinstance(dim, str) else dim for dim in item.shape]


def _identifier(dim: str, name: str, axis: int) -> str:
    return dim if re.fullmatch(r"[A-Za-z_]\w*", dim) else f"{re.sub(r'[^0-9A-Za-z_]', '_', name)}_{axis}"


def _hint(name: str, dims: tuple[int | str, ...]) -> str:
    sizes = [dim if isinstance(dim, int) else (224 if axis else 1) for axis, dim in enumerate(dims)]
    return f"--input {name}:{'x'.join(map(str, sizes))}"


def _known() -> str:
    return ", ".join(_DTYPES.values())
