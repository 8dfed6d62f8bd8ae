"""The form in which a compiler is given a file: the one that the main job takes it in, with a range for what is open.

A file that leaves sizes open is not refused for that: a compiler asks for their ranges, so those that it runs at are
tried, as in the main job.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import onnx

from attn_export.errors import AttnExportError
from attn_export.export.graph.index import graph_inputs
from attn_export.export.onnx.save import save
from attn_export.export.sources import onnx_file
from attn_export.export.subject import Subject
from attn_export.types import Dim, ShapeRange

#: How many times the usual size the largest has, where nothing limits it.
_LARGER = 2


@dataclass(frozen=True)
class Form:
    """A file as a compiler is given it.

    Attributes:
        path: of the file.
        shapes: by input, the range of its shapes; empty where none is open.
        model: what was changed for it; None where the file is taken as it is.
        notes: what was changed, in sentences.
    """

    path: Path
    shapes: Mapping[str, ShapeRange] = field(default_factory=dict)
    model: onnx.ModelProto | None = None
    notes: tuple[str, ...] = ()


def form(path: Path, model: onnx.ModelProto, scratch: Path) -> Form:
    """Give a file in the form for a compiler; what had to be written anew lies in ``scratch``.

    A file that the main job would refuse is taken as it is: the compiler says what it thinks of that.
    """
    if not _is_open(model):
        return Form(path)
    try:
        subject = onnx_file.read(path)
    except AttnExportError:
        return Form(path)
    assert subject.graph is not None
    settled = scratch / path.name
    save(subject.graph, settled)
    return Form(settled, ranges(subject), subject.graph, subject.notes)


def ranges(subject: Subject) -> dict[str, ShapeRange]:
    """Give each input whose size varies its smallest shape, the one it is traced at, and the largest."""
    dims = {dim.name: dim for dim in subject.dynamic}
    found = {}
    for item in subject.inputs:
        if not dims.keys() & set(item.shape):
            continue
        rows = [_sizes(dim, dims, subject.sizes) for dim in item.shape]
        least, usual, most = zip(*rows, strict=True)
        found[item.name] = ShapeRange(least, usual, most)
    return found


def _sizes(dim: int | str, dims: Mapping[str, Dim], sizes: Mapping[str, int]) -> tuple[int, int, int]:
    size = dim if isinstance(dim, int) else sizes[dim]
    if isinstance(dim, int) or dim not in dims:
        return size, size, size
    free = dims[dim]
    least = max(free.step, -(-free.min // free.step) * free.step)
    return least, size, _LARGER * size if free.max is None else free.max // free.step * free.step


def _is_open(model: onnx.ModelProto) -> bool:
    """Whether a compiler would ask something that the file does not say: a size, a rank, a type, a function."""
    for value in graph_inputs(model):
        tensor = value.type.tensor_type
        if not tensor.HasField("shape") or not all(dim.HasField("dim_value") for dim in tensor.shape.dim):
            return True
    untyped = any(not value.type.tensor_type.elem_type for value in model.graph.output)
    return untyped or bool(model.functions)
