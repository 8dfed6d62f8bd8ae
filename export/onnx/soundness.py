"""What must hold of an ONNX model beyond what the checker of the ``onnx`` package looks at.

The checker holds nodes against the standard, name by name. It takes a group of zero, strides that are negative, names
that are no text, operators of a version that is not known, functions that call each other 2⁴⁰ times. Whoever computes
with such a thing breaks, so it is refused here, in one sentence.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

from attn_export.errors import SubjectError
from attn_export.export.graph.light import BITS, size_of
from attn_export.export.onnx.walk import attributes, bodies, graphs, tensors

#: Letters of a name.
LONGEST = 10_000
#: Axes of a tensor: NumPy's limit.
AXES = 64
#: Elements of an input of known sizes, which has to be drawn.
ELEMENTS = 1 << 31
#: Nodes after every call of a function has been written out, and how deep functions may call each other.
NODES, CALLS = 2_000_000, 200

_STANDARD = ("", "ai.onnx")
#: Attributes that name axes, or count them. Beyond these the shape inference of the ``onnx`` package dies by a signal.
_AXES = dict.fromkeys(("axis", "batch_axis", "time_axis"), (-AXES, AXES)) | {"batch_dims": (0, AXES)}


def check(model: ModelProto) -> None:
    """Check what needs no shapes: versions, names, constants, functions, inputs.

    Raises:
        SubjectError: one of them cannot be.
    """
    _versions(model)
    _names(model)
    for tensor in tensors(model):
        _tensor(tensor)
    for node, attribute in attributes(model):
        if attribute.type not in _KINDS:
            raise SubjectError(f"attribute {attribute.name!r} of {_called(node)} has no type that ONNX knows")
        least, most = _AXES.get(attribute.name, (0, 0))
        if least < most and node.domain in _STANDARD and not least <= attribute.i < most:
            raise SubjectError(f"{_called(node)}: {attribute.name} is {attribute.i}; expected {least} to {most - 1}")
    _functions(model)
    for graph in graphs(model):
        for value in (*graph.input, *graph.output, *graph.value_info):
            if value.type.tensor_type.elem_type not in (TensorProto.UNDEFINED, *_STORED):
                kind = value.type.tensor_type.elem_type
                raise SubjectError(f"{value.name[:80]!r} has the element type {kind}, which ONNX does not know")
    for value in model.graph.input:
        _drawable(value)


_KINDS = frozenset(number for name, number in AttributeProto.AttributeType.items() if name != "UNDEFINED")


def _versions(model: ModelProto) -> None:
    if not 1 <= model.ir_version <= onnx.IR_VERSION:
        raise SubjectError(
            f"expected IR version 1 to {onnx.IR_VERSION}, got {model.ir_version}; a newer onnx package may read it"
        )
    newest = onnx.defs.onnx_opset_version()
    versions = {entry.version for entry in model.opset_import if entry.domain in _STANDARD}
    if len(versions) > 1:
        raise SubjectError(f"expected one opset, got {' and '.join(map(str, sorted(versions)))}")
    for version in versions:
        if not 1 <= version <= newest:
            raise SubjectError(f"expected opset 1 to {newest}, got {version}; a newer onnx package may read it")


def _names(model: ModelProto) -> None:
    for name in _all_names(model):
        _text(name)
        if len(name) > LONGEST:
            raise SubjectError(f"expected names of at most {LONGEST} letters, got {len(name)}: {name[:40]!r} …")
    for words in _all_words(model):
        _text(words)


def _text(words: Any) -> None:
    if not isinstance(words, str):  # what is no UTF-8 comes as bytes
        raise SubjectError(f"expected names and texts in UTF-8, got {words[:40]!r}")


def _all_names(model: ModelProto) -> Iterator[Any]:
    """Everything that is called something."""
    for entry in model.opset_import:
        yield entry.domain
    for function in model.functions:
        yield from (function.name, function.domain, *function.input, *function.output, *function.attribute)
    for graph in graphs(model):
        yield graph.name
        for value in (*graph.input, *graph.output, *graph.value_info):
            yield value.name
            yield from (dim.dim_param for dim in value.type.tensor_type.shape.dim)
    for body in bodies(model):
        for node in body.node:
            yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
            for attribute in node.attribute:
                yield from (attribute.name, attribute.ref_attr_name)
    for tensor in tensors(model):
        yield tensor.name
        for entry in tensor.external_data:
            yield from (entry.key, entry.value)


def _all_words(model: ModelProto) -> Iterator[Any]:
    """Texts of any length: who made it, and what was noted."""
    yield from (model.producer_name, model.producer_version, model.domain, model.doc_string)
    bodies_ = list(bodies(model))
    for holder in (model, *bodies_, *(node for body in bodies_ for node in body.node)):
        yield holder.doc_string
        for note in holder.metadata_props:
            yield from (note.key, note.value)
    for graph in graphs(model):
        for value in (*graph.input, *graph.output, *graph.value_info):
            yield value.doc_string
    for tensor in tensors(model):
        yield tensor.doc_string
    for _, attribute in attributes(model):
        yield attribute.doc_string


def _tensor(tensor: TensorProto) -> None:
    """Check a constant: a known type, sizes that can be, and as many values as they say."""
    name = f"the constant {tensor.name[:80]!r}"
    if tensor.data_type not in _STORED:
        raise SubjectError(f"{name} has the element type {tensor.data_type}, which ONNX does not know")
    if len(tensor.dims) > AXES or any(size < 0 for size in tensor.dims):
        raise SubjectError(
            f"{name} has the shape {list(tensor.dims)[:8]}; expected at most {AXES} sizes, none negative"
        )
    size, count = size_of(tensor), math.prod(tensor.dims)
    if size >= 1 << 60:
        raise SubjectError(f"{name} promises {size} bytes, which no machine has")
    if tensor.HasField("segment"):
        raise SubjectError(f"{name} is written in segments, which no library reads; write it whole")
    if tensor.data_location == TensorProto.EXTERNAL:
        return
    if tensor.HasField("raw_data"):
        held, expected = len(tensor.raw_data), size
    else:
        field, each = _STORED[tensor.data_type]
        held, expected = len(getattr(tensor, field)), size if tensor.data_type in BITS else count * each
    if held != expected:
        raise SubjectError(
            f"{name} has the shape {list(tensor.dims)[:8]}, which takes {expected} values; it holds {held}"
        )


def _stored() -> Mapping[int, tuple[str, int]]:
    """Where values lie that are not raw, and how many numbers each takes, by element type."""
    found = {}
    for name, number in TensorProto.DataType.items():
        if name != "UNDEFINED":
            field = helper.tensor_dtype_to_field(number)
            found[number] = (field, 2 if name.startswith("COMPLEX") else 1)
    return found


_STORED = _stored()


def _functions(model: ModelProto) -> None:
    """Functions of the file: how many nodes they come to once each call is written out.

    Cycles among them are the checker's to find; here they end at the limit of depth.
    """
    bodies_ = {(f.domain, f.name): f for f in model.functions}
    if not bodies_:
        return
    total: dict[tuple[str, str], int] = {}
    depth: dict[tuple[str, str], int] = {}
    for _ in range(CALLS):  # from those that call nobody upwards
        for key, function in bodies_.items():
            calls = [(node.domain, node.op_type) for node in _nodes(function.node)]
            if key not in total and all(call in total for call in calls if call in bodies_):
                total[key] = min(sum(total.get(call, 1) for call in calls), NODES + 1)
                depth[key] = 1 + max((depth.get(call, 0) for call in calls), default=0)
        if len(total) == len(bodies_):
            break
    if len(total) < len(bodies_) or max(depth.values()) > CALLS:
        raise SubjectError(f"its functions call each other more than {CALLS} deep, or in a circle")
    count = sum(total.get((node.domain, node.op_type), 1) for node in _nodes(model.graph.node))
    if count > NODES:
        raise SubjectError(f"its functions come to more than {NODES} nodes once each call is written out")


def _nodes(nodes: Iterable[NodeProto]) -> Iterator[NodeProto]:
    """Nodes and those of their sub-graphs."""
    left = [iter(nodes)]
    while left:
        for node in left.pop():
            yield node
            for attribute in node.attribute:
                left += [iter(graph.node) for graph in (*attribute.graphs, attribute.g)]


def _drawable(value: ValueInfoProto) -> None:
    """Check that an input whose sizes are known fits a machine: it will be drawn."""
    sizes = [max(1, dim.dim_value) for dim in value.type.tensor_type.shape.dim]
    if len(sizes) > AXES:
        raise SubjectError(f"input {value.name!r} has {len(sizes)} axes; expected at most {AXES}")
    if math.prod(sizes) > ELEMENTS:
        raise SubjectError(f"input {value.name!r} has {math.prod(sizes)} elements; expected at most 2³¹")


def check_shapes(model: ModelProto, light: ModelProto) -> None:
    """Check what needs shapes: that attributes and operands of operators go together, as far as shapes are known.

    ``light`` is the model without its large weights.

    Raises:
        SubjectError: a runtime would refuse it.
    """
    inferred = _inferred(light)
    known = {t.name: tuple(t.dims) for t in model.graph.initializer}
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        if value.type.tensor_type.HasField("shape"):
            dims = value.type.tensor_type.shape.dim
            known.setdefault(value.name, tuple(d.dim_value if d.HasField("dim_value") else None for d in dims))
    for graph in graphs(model):
        inner = known if graph is model.graph else {t.name: tuple(t.dims) for t in graph.initializer}
        for node in graph.node:
            if node.domain in _STANDARD and node.op_type in _RULES:
                at = {item.name: helper.get_attribute_value(item) for item in node.attribute if not item.ref_attr_name}
                if why := _RULES[node.op_type](at, [inner.get(name) for name in node.input]):
                    raise SubjectError(f"{_called(node)}: {why}")


def _inferred(light: ModelProto) -> GraphProto:
    """Shape inference that holds every operator's attributes against its operands, as a runtime does when it loads.

    What the file says of inner sizes is left out: producers leave stale sizes behind, which runtimes only warn of.
    """
    bare = ModelProto()
    bare.CopyFrom(light)
    del bare.graph.value_info[:]
    for value in bare.graph.output:
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.ClearField("shape")
    try:
        return onnx.shape_inference.infer_shapes(bare, strict_mode=True).graph
    except Exception as error:  # the inference's errors share no public base
        found = [line for line in str(error).splitlines() if "op_type:" in line]
        own = [line for line in found if _judged(line)]
        if own or (not found and "TypeInferenceError" in str(error)):
            raise SubjectError(_plain((own or str(error).splitlines())[0])) from error
    try:
        return onnx.shape_inference.infer_shapes(bare).graph
    except Exception:  # shapes inside branches that contradict each other: only what is declared is known
        return bare.graph


#: Branches that give tensors of different shapes are no fault to a runtime.
_LENIENT = ("If", "Loop", "Scan", "SequenceMap")


def _judged(line: str) -> bool:
    """Whether a complaint is about an operator that is inferred by itself, not by its branches or its own expansion."""
    kind = re.search(r"op_type:(\w+)", line)
    if kind is None or kind[1] in _LENIENT or not onnx.defs.has(kind[1]):
        return False
    return bool(onnx.defs.get_schema(kind[1]).has_type_and_shape_inference_function)


def _plain(line: str) -> str:
    """Say what the inference says, without its own names for things."""
    line = re.sub(r"\[\w+Error\] |Inference error\(s\): ", "", line)
    return re.sub(r"\(op_type:(\w+)(?:, node name: (.*?))?\): ", r"\1 \2: ", line).replace(" : ", ": ").strip()[:300]


Shape = tuple[int | None, ...]
#: Why a node cannot be, from its attributes and the shapes of its inputs as far as known; empty where it can.
Rule = Callable[[dict[str, Any], list[Shape | None]], str]


def _window(at: dict[str, Any], kernel: tuple[int | None, ...] | None) -> str:
    """Kernel, strides, dilations and pads of a sliding window."""
    if kernel is not None and any(size is not None and size < 1 for size in kernel):
        return f"its kernel has the shape {list(kernel)}; expected positive sizes"
    for name in ("strides", "dilations", "pads", "output_padding"):
        values = at.get(name)
        if values is None:
            continue
        least = 0 if name in ("pads", "output_padding") else 1
        if any(value < least or value >= 1 << 31 for value in values):
            return f"{name} is {list(values)[:8]}; expected numbers of at least {least}"
        wanted = None if kernel is None else len(kernel) * (2 if name == "pads" else 1)
        if wanted is not None and len(values) != wanted:
            return f"{name} has {len(values)} numbers; expected {wanted}"
    return ""


def _convolution(at: dict[str, Any], shapes: list[Shape | None], *, turned: bool = False) -> str:
    group, weight, x = at.get("group", 1), shapes[1], shapes[0]
    if group < 1:
        return f"group is {group}; expected at least 1"
    given = at.get("kernel_shape")
    if weight is None:
        return _window(at, None if given is None else tuple(given))
    if why := _kernel_axes(given, weight, x):
        return why
    first = weight[0]
    if first is not None and first % group:
        return f"group is {group}, which does not divide its {first} {'inputs' if turned else 'outputs'}"
    all_seconds = None if weight[1] is None else weight[1] * group
    inputs, outputs = (first, all_seconds) if turned else (all_seconds, first)
    bias = shapes[2] if len(shapes) > 2 else None
    return _channels(x, bias, inputs, outputs) or _window(at, weight[2:])


def _kernel_axes(given: Sequence[int] | None, weight: Shape, x: Shape | None) -> str:
    """Compare the axes of a kernel with those of what it slides over, and with its own attribute."""
    if len(weight) < 3:
        return f"its kernel has {len(weight)} axes; expected at least 3"
    if x is not None and len(x) != len(weight):
        return f"its input has {len(x)} axes and its kernel {len(weight)}; expected as many"
    if given is not None and any(b is not None and a != b for a, b in zip(given, weight[2:], strict=False)):
        return f"kernel_shape is {list(given)}, and its kernel has {list(weight[2:])}"
    return ""


def _channels(x: Shape | None, bias: Shape | None, inputs: int | None, outputs: int | None) -> str:
    """Compare the channels that a kernel takes and gives with those of its input and its bias."""
    if x is not None and x[1] is not None and inputs is not None and x[1] != inputs:
        return f"its input has {x[1]} channels, and its kernel takes {inputs}"
    if bias is not None and outputs is not None and (len(bias) != 1 or bias[0] not in (None, outputs)):
        return f"its bias has the shape {list(bias)}; expected [{outputs}]"
    return ""


def _transposed(at: dict[str, Any], shapes: list[Shape | None]) -> str:
    return _convolution(at, shapes, turned=True)


def _batch_norm(_: dict[str, Any], shapes: list[Shape | None]) -> str:
    given = [shape for shape in shapes[1:5] if shape is not None]
    channels = {shape[0] for shape in given if len(shape) == 1} | {x[1] for x in shapes[:1] if x and len(x) > 1}
    if all(len(shape) == 1 for shape in given) and len(channels - {None}) <= 1:
        return ""
    return f"its constants have the shapes {[list(shape) for shape in given]}; expected one number for each channel"


def _pool(at: dict[str, Any], _: list[Shape | None]) -> str:
    return _window(at, tuple(at["kernel_shape"]))


def _block(at: dict[str, Any], _: list[Shape | None]) -> str:
    size = at["blocksize"]
    return "" if 1 <= size < 1 << 16 else f"blocksize is {size}; expected at least 1"


def _permutation(at: dict[str, Any], shapes: list[Shape | None]) -> str:
    perm = at.get("perm")
    rank = None if perm is None else len(perm) if shapes[0] is None else len(shapes[0])
    return "" if perm is None or sorted(perm) == list(range(rank or 0)) else f"perm is {list(perm)[:8]}: no permutation"


_RULES: Mapping[str, Rule] = {
    "AveragePool": _pool,
    "BatchNormalization": _batch_norm,
    "Conv": _convolution,
    "ConvTranspose": _transposed,
    "DepthToSpace": _block,
    "LpPool": _pool,
    "MaxPool": _pool,
    "SpaceToDepth": _block,
    "Transpose": _permutation,
}


def _called(node: NodeProto) -> str:
    return f"{node.op_type} {(node.name or next(iter(node.output), ''))[:80]!r}"
