"""An ONNX file as a subject: the same pipeline from the graph on. Its reference is the graph itself in float64."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from attn_export.errors import SubjectError, UsageError
from attn_export.export.input_shapes import described
from attn_export.export.source import Source, SourceOptions, refuse_catalogue_options
from attn_export.mechanisms.spec import Input
from attn_export.types import Dim, Feeds
from attn_export.untrusted import files

if TYPE_CHECKING:
    import onnx

    from attn_export.export.onnx.ends import FileInput
    from attn_export.export.subject import Subject

#: Rank of an input of which nothing is known: an image's.
_RANK = 4
#: Numbers of an input that is tried.
_MOST = 1 << 24


class _OnnxFile:
    def claims(self, text: str) -> bool:
        return text.endswith(".onnx")

    def load(self, options: SourceOptions) -> Subject:
        from attn_export.export.subject import with_dynamic

        refuse_catalogue_options(options)
        if options.arguments or options.weights:
            raise UsageError(f"{options.text} is built and has its weights: --kwargs and --weights are for code")
        return with_dynamic(read(Path(options.text), options.inputs, options.outputs), options.dynamic or "all")


SOURCE: Source = _OnnxFile()


@dataclass(frozen=True)
class _Open:
    """The inputs, and the dimensions that are left open.

    Attributes:
        items: the inputs, each size a number or a name.
        sizes: by name, at which it is tried first.
        dims: by name, what it may be as far as was said.
        guessed: the names whose size nobody gave: True for those of an image.
        ranks: of the outputs, by name, where it was tried.
    """

    items: tuple[Input, ...]
    sizes: Mapping[str, int]
    dims: Mapping[str, Dim]
    guessed: Mapping[str, bool]
    ranks: Mapping[str, int] = field(default_factory=dict)


def read(path: Path, shapes: Sequence[str] = (), outputs: Sequence[str] = ()) -> Subject:
    """Read an ONNX file; ``shapes`` describe its inputs beyond what it says itself, ``outputs`` choose among its own.

    A size that the file leaves open is what ``shapes`` say: a number fixes it, a name lets it vary. Where they say
    nothing it may vary, as far as the file runs: sizes are tried, and what breaks is narrowed, which is noted.

    Raises:
        SubjectError: it cannot be read, or holds what has no float64 evaluation or no input of a known type.
        UsageError: the sizes contradict the file, or it runs at none that were tried; or there is no such output.
    """
    from attn_export.export.graph_module import GraphModule
    from attn_export.export.onnx import ends, outputs_of, weights
    from attn_export.export.onnx.normalise import normalise, overridable
    from attn_export.export.onnx.read import read_model
    from attn_export.export.precision import classes
    from attn_export.export.subject import Subject

    made = normalise(read_model(path), path.parent)
    model, chosen, left = outputs_of.chosen(made.model, outputs, path.name)
    ends.check_operators(model)
    ends.check_outputs(model)
    notes = (*made.notes, left, overridable(model), weights.check(model))
    opened = _opened(path, ends.inputs(model), shapes)
    deployed, narrow_note = _deployable(model)
    opened, more = _probed(path, deployed, opened)
    for graph in (model, deployed):
        ends.rank_outputs(graph, opened.ranks)
        _settle(graph, opened)
    return Subject(
        path.stem,
        GraphModule(model).eval(),
        opened.items,
        opened.sizes,
        tuple(opened.dims.values()),
        f"of {path.name} sha256 {files.sha256(path)}",
        graph=deployed,
        fixed_scale=classes.of(model).quantised,
        notes=tuple(filter(None, (*notes, narrow_note, *more))),
        outputs=chosen,
    )


def _deployable(model: onnx.ModelProto) -> tuple[onnx.ModelProto, str]:
    """Give what is deployed: the graph itself, or one in float32 where the runtime has no kernels for it."""
    from attn_export.export.onnx import narrow

    if (kind := narrow.unsupported(model)) is None:
        return model, ""
    note = f"the graph computes in {narrow.KINDS[kind]}, for which the runtime lacks kernels: it is deployed in float32"
    return narrow.narrowed(model, kind), f"{note}, between casts, and proven against its float64 meaning"


def _opened(path: Path, inputs: Sequence[FileInput], shapes: Sequence[str]) -> _Open:
    """Bring together what the file and the user say of the inputs."""
    names = [item.name for item in inputs]
    given = described(shapes, names)
    if unknown := [one.name for one in given.items if one.name not in names]:
        raise UsageError(f"--input names {unknown[0]!r}; the file has {', '.join(names) or 'no inputs'}")
    said = {one.name: one for one in given.items}
    items, sizes, dims, guessed = list[Input](), dict[str, int](), dict[str, Dim](), dict[str, bool]()
    batch = next((item.dims[0] for item in inputs if item.dims and not isinstance(item.dims[0], int)), None)
    for item in inputs:
        own = said.get(item.name)
        _agree(path, item, own)
        known = (None,) * (len(own.shape) if own else _RANK) if item.dims is None else item.dims
        shape = list[int | str]()
        for axis, dim in enumerate(known):
            size = own.shape[axis] if own else None
            if isinstance(size, str):
                sizes[size], dims[size] = given.sizes[size], given.dims[size]
                shape.append(size)
            elif size is not None or (isinstance(dim, int) and dim):
                shape.append(size if size is not None else int(dim or 0))
            else:
                name = "b" if dim == batch and (dim or not axis) else _identifier(dim, item.name, axis)
                sizes.setdefault(name, 2 if name == "b" else 224 if len(known) > 3 else 16)
                dims.setdefault(name, Dim(name))
                guessed.setdefault(name, len(known) > 3)
                shape.append(name)
        within = own.within if own else None
        items.append(Input(item.name, tuple(shape), item.dtype, max(item.high or 2, 1), within))
    return _Open(tuple(items), sizes, dims, guessed)


def _agree(path: Path, item: FileInput, own: Input | None) -> None:
    """Check that what was typed of an input is what the file says of it.

    Raises:
        SubjectError: a size is 0, and nothing was typed instead.
        UsageError: it is not.
    """
    if item.dims is not None and own is None and 0 in item.dims:
        axis, shape = item.dims.index(0), "x".join(str(dim or 1) for dim in item.dims)
        raise SubjectError(
            f"{path}: input {item.name!r} has the size 0 in dimension {axis}, so there is nothing to compare; if the"
            f" file means a size that is open, say --input {item.name}:{shape}"
        )
    if own is None:
        return
    if item.dims is not None and len(own.shape) != len(item.dims):
        raise UsageError(f"input {item.name!r} has {len(item.dims)} dimensions; --input gives {len(own.shape)}")
    if own.dtype not in (item.dtype, "float32"):
        raise UsageError(f"input {item.name!r} is {item.dtype} in {path}; --input says {own.dtype}")
    for axis, dim in enumerate(item.dims or ()):
        size = own.shape[axis]
        if isinstance(dim, int) and dim and size != dim:
            raise UsageError(f"input {item.name!r}: dimension {axis} is {dim} in {path}; --input says {size}")


def _probed(path: Path, model: onnx.ModelProto, opened: _Open) -> tuple[_Open, tuple[str, ...]]:
    """Try the sizes that are left open, and narrow them to what holds."""
    from attn_export.export.arrays import array
    from attn_export.export.onnx import probe
    from attn_export.export.subject import draw

    def drawn(sizes: Mapping[str, int]) -> Feeds:
        known = {**opened.sizes, **sizes}
        counts = (math.prod(known[d] if isinstance(d, str) else d for d in one.shape) for one in opened.items)
        if max(counts, default=0) > _MOST:
            raise ValueError(f"inputs of more than {_MOST:,} numbers are not tried")
        return {item.name: array(draw(item, sizes, 0)) for item in opened.items}

    if not opened.dims:
        return opened, ()
    try:
        tries = probe.Probe(model, drawn)
        found = probe.find(tries, opened.sizes, opened.guessed, opened.dims)
    except probe.NoSizeError as error:
        if not [name for name in opened.guessed if name != "b"]:
            return opened, ()  # what runs the model next says what is wrong with it
        raise UsageError(
            f"{path} leaves sizes open, and ran at none that were tried ({error}); give those that it is meant for:"
            f" {template(opened)}"
        ) from error
    dims = {dim.name: dim for dim in found.dims}
    fixed = {name: size for name, size in found.sizes.items() if name not in dims and name not in found.equal}
    items = tuple(
        replace(item, shape=tuple(fixed.get(d, found.equal.get(d, d)) if isinstance(d, str) else d for d in item.shape))
        for item in opened.items
    )
    tried = [name for name in opened.guessed if found.sizes[name] != opened.sizes[name]]
    more = [f"{name!r} is left open and is taken at {found.sizes[name]}, where it runs" for name in tried]
    sizes = {name: size for name, size in found.sizes.items() if name in dims}
    return _Open(items, sizes, dims, opened.guessed, tries.ranks), (*more, *found.notes)


def template(opened: _Open) -> str:
    """Write the options that describe the inputs, for the user to change.

    >>> template(_Open((Input("x", ("b", 3, "h")),), {"b": 2, "h": 224}, {}, {}))
    '--input x:b=2x3xh=224'
    """
    texts = []
    for item in opened.items:
        parts = [f"{dim}={opened.sizes[dim]}" if isinstance(dim, str) else str(dim) for dim in item.shape]
        kind = "" if item.dtype == "float32" else f":{item.dtype}"
        if item.dtype in ("int32", "int64"):
            kind += f"[0,{int(item.high) - 1}]"
        shape = "x".join(parts) if parts else "[]"
        texts.append(f"--input {item.name}:{shape}{kind}")
    return " ".join(texts)


def _settle(model: onnx.ModelProto, opened: _Open) -> None:
    """Write what was found into the inputs of the graph: numbers that are fixed, and names where there were none."""
    values = {value.name: value for value in model.graph.input}
    numbers, names, shared = dict[str, int](), dict[str, str](), set[str]()
    for item in opened.items:
        tensor = values[item.name].type.tensor_type
        tensor.shape.SetInParent()
        while len(tensor.shape.dim) < len(item.shape):
            tensor.shape.dim.add()
        for dim, size in zip(tensor.shape.dim, item.shape, strict=True):
            if isinstance(size, str):
                if size not in names and dim.dim_param in names.values():
                    shared.add(dim.dim_param)  # such as "?", which some write for whatever they do not know
                    names[size] = size
                dim.dim_param = names.setdefault(size, dim.dim_param or size)
            else:
                numbers |= {dim.dim_param: size} if dim.dim_param else {}
                dim.dim_value = size
    for value in (*model.graph.output, *model.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in shared:
                dim.Clear()
            elif dim.dim_param in numbers:
                dim.dim_value = numbers[dim.dim_param]


def _identifier(dim: int | str | None, name: str, axis: int) -> str:
    if isinstance(dim, str) and re.fullmatch(r"[A-Za-z_]\w*", dim):
        return dim
    return f"{re.sub(r'[^0-9A-Za-z_]', '_', name)}_{axis}"
