"""An ONNX file as a subject: the same pipeline from the graph on. Its reference is the graph itself in float64."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from attn_export.errors import SubjectError, UsageError
from attn_export.export.input_shapes import inputs_of
from attn_export.export.source import Source, SourceOptions, refuse_catalogue_options
from attn_export.mechanisms.spec import Dtype, Input
from attn_export.types import Dim
from attn_export.untrusted import files

if TYPE_CHECKING:
    import onnx

    from attn_export.export.subject import Subject

#: The element types that inputs can be drawn in, by ONNX's names.
_DTYPES: dict[str, Dtype] = {"FLOAT": "float32", "INT64": "int64", "BOOL": "bool"}


class _OnnxFile:
    def claims(self, text: str) -> bool:
        return text.endswith(".onnx")

    def load(self, options: SourceOptions) -> Subject:
        from attn_export.export.subject import with_dynamic

        refuse_catalogue_options(options)
        if options.arguments or options.weights:
            raise UsageError(f"{options.text} is built and has its weights: --kwargs and --weights are for code")
        return with_dynamic(read(Path(options.text), options.inputs), options.dynamic or "all")


SOURCE: Source = _OnnxFile()


@dataclass(frozen=True)
class _Port:
    """An input of the file, and the sizes that it is traced at where the file leaves them open, by name."""

    item: Input
    free: dict[str, int]


def read(path: Path, shapes: Sequence[str] = ()) -> Subject:
    """Read an ONNX file; ``shapes`` gives the sizes of inputs whose dimensions the file leaves open.

    A dimension with a name stays free; where no size is given, the first of an input is taken at 2.

    Raises:
        SubjectError: it cannot be read, or holds what has no float64 evaluation or no input of a known type.
        UsageError: sizes are missing, or contradict the file.
    """
    from attn_export.export.graph.index import graph_inputs
    from attn_export.export.graph_module import GraphModule
    from attn_export.export.onnx.read import read_model
    from attn_export.export.subject import Subject

    model = read_model(path)
    values = graph_inputs(model)
    given = _given(shapes, [value.name for value in values])
    ports = [_port(path, value, given.get(value.name)) for value in values]
    sizes = {name: size for port in ports for name, size in port.free.items()}
    return Subject(
        path.stem,
        GraphModule(model).eval(),
        tuple(port.item for port in ports),
        sizes,
        tuple(Dim(name) for name in sizes),
        f"of {path.name} sha256 {files.sha256(path)}",
        graph=model,
    )


def _given(shapes: Sequence[str], names: Sequence[str]) -> dict[str, list[int]]:
    """Read the sizes that ``--input`` gives, by input."""
    items, sizes = inputs_of(shapes, names)
    for item in items:
        if item.name not in names:
            raise UsageError(f"--input names {item.name!r}; the file has {', '.join(names)}")
    return {item.name: [sizes[dim] if isinstance(dim, str) else dim for dim in item.shape] for item in items}


def _port(path: Path, value: onnx.ValueInfoProto, given: Sequence[int] | None) -> _Port:
    from onnx import TensorProto

    from attn_export.export.onnx import contract

    kind = TensorProto.DataType.Name(value.type.tensor_type.elem_type)
    if kind not in _DTYPES:
        raise SubjectError(f"{path}: input {value.name!r} is {kind}; known: {', '.join(_DTYPES.values())}")
    dims = contract.port(value).shape
    if given is not None and len(given) != len(dims):
        raise UsageError(f"input {value.name!r} has {len(dims)} dimensions; --input gives {len(given)}")
    shape, free = list[int | str](), dict[str, int]()
    for axis, dim in enumerate(dims):
        size = given[axis] if given else None
        if isinstance(dim, int):
            if size not in (None, dim):
                raise UsageError(f"input {value.name!r}: dimension {axis} is {dim} in {path}; --input says {size}")
            shape.append(dim)
            continue
        if size is None and axis:
            raise UsageError(f"{path} leaves {dim!r} of {value.name!r} open; say {_hint(value.name, dims)}")
        name = "b" if axis == 0 else _identifier(dim, value.name, axis)
        free[name] = size or 2
        shape.append(name)
    return _Port(Input(value.name, tuple(shape), _DTYPES[kind], 2), free)


def _identifier(dim: str, name: str, axis: int) -> str:
    return dim if re.fullmatch(r"[A-Za-z_]\w*", dim) else f"{re.sub(r'[^0-9A-Za-z_]', '_', name)}_{axis}"


def _hint(name: str, dims: Sequence[int | str]) -> str:
    sizes = [dim if isinstance(dim, int) else (224 if axis else 1) for axis, dim in enumerate(dims)]
    return f"--input {name}:{'x'.join(map(str, sizes))}"
