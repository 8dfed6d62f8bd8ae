"""The form of a node: what of it decides whether a converter takes it, without sizes and values.

    Conv v=22 x=4 w=constant kernel=1x1 group=depthwise

Forms are told at a batch of one, which is what files of fixed sizes have, and at some size wherever else one is open.
What is computed from sizes alone counts as constant, since a converter that fixes sizes folds it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import onnx
from onnx import TensorProto

from attn_export.export.graph.index import STANDARD, Shape, attribute
from attn_export.export.lint._fixed import fixed


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


#: Operators that tell sizes, and are folded where those are fixed.
_SIZES = ("Shape", "Size")
#: Letters of element types; float32 has none.
_LETTERS: dict[int, str] = {
    TensorProto.FLOAT: "",
    TensorProto.FLOAT16: "half",
    TensorProto.BFLOAT16: "bfloat16",
    TensorProto.DOUBLE: "double",
    TensorProto.INT64: "int64",
    TensorProto.INT32: "int32",
    TensorProto.INT8: "int8",
    TensorProto.UINT8: "uint8",
    TensorProto.BOOL: "bool",
}
#: Operators of which every operand is spread over the others: what stands against what decides.
_BROADCAST = _words(
    "Add And BitwiseAnd BitwiseOr Div Equal Greater GreaterOrEqual Less LessOrEqual MatMul Max Mean Min Mod Mul Or "
    "PRelu Pow Sub Sum Where Xor"
)
#: Operands that are but another way to write an attribute, by operator.
SETTINGS = {
    "Clip": (1, 2),
    "CumSum": (1,),
    "Dropout": (1, 2),
    "Expand": (1,),
    "OneHot": (1, 2),
    "Pad": (1, 2, 3),
    "Reshape": (1,),
    "Resize": (1, 2, 3),
    "Slice": (1, 2, 3, 4),
    "Split": (1,),
    "Squeeze": (1,),
    "Tile": (1,),
    "TopK": (1,),
    "Trilu": (1,),
    "Unsqueeze": (1,),
}
#: Attributes that are numbers to compute with, or that are told otherwise.
_DROPPED = _words(
    "activation_alpha activation_beta allowzero alpha axes axis beta blocksize bias dilations epsilon gamma group "
    "hidden_size kernel_shape lambd momentum noop_with_empty_axes num_groups num_outputs output_padding output_shape "
    "pads perm scale split strides training_mode value value_float value_int scales"
)
#: Marks a node that is told, and tried, as part of a GELU that is written out.
WHOLE_GELU = ("of", "gelu")


@dataclass(frozen=True)
class Form:
    """An operator with what decides about it, as names and values without spaces."""

    op: str
    features: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        return " ".join((self.op, *(f"{name}={value}" for name, value in self.features)))

    @classmethod
    def of(cls, text: str) -> Form:
        """Read what ``str`` wrote.

        >>> str(Form.of("Relu v=14 x=4"))
        'Relu v=14 x=4'
        """
        op, *words = text.split()
        return cls(op, tuple((word.partition("=")[0], word.partition("=")[2]) for word in words))

    def differences(self, other: Form) -> list[tuple[str, str, str]]:
        """List the features by which two forms of one operator differ: name, value here, value there."""
        ours, theirs = dict(self.features), dict(other.features)
        return [
            (name, ours.get(name, ""), theirs.get(name, ""))
            for name in dict.fromkeys((*ours, *theirs))
            if ours.get(name) != theirs.get(name)
        ]


class Forms:
    """The forms of the nodes of a graph, at a batch of one.

    Args:
        model: the graph; it is not changed.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.graph, self.nodes = fixed(model), model.graph.node
        self.constants = {tensor.name for tensor in model.graph.initializer}
        self.opsets = {item.domain or "": item.version for item in model.opset_import}

    @cached_property
    def folded(self) -> set[str]:
        """Tensors that are constant, or known once sizes are."""
        known = {"", *self.constants}
        for node in self.nodes:  # sorted, so one pass reaches everything
            if node.op_type in _SIZES or (known.issuperset(node.input) and not _random(node)):
                known.update(node.output)
        return known

    def __iter__(self) -> Iterator[tuple[onnx.NodeProto, Form]]:
        """Give each node that is left where constants and sizes are folded, with its form."""
        for node in self.nodes:
            if not self.folded.issuperset(filter(None, node.output)):
                yield node, self.form(node)

    def form(self, node: onnx.NodeProto) -> Form:
        """Tell the form of a node."""
        domain = "" if node.domain in STANDARD else node.domain
        op = f"{domain}::{node.op_type}" if domain else node.op_type
        found = [("v", str(self._since(node, domain))), *self._operands(node), *self._attributes(node)]
        if node.op_type == "Erf" and self._in_gelu(node):
            found.append(WHOLE_GELU)
        return Form(op, tuple((name, value) for name, value in found if value))

    def _in_gelu(self, node: onnx.NodeProto) -> bool:
        """Whether 1 is added to an error function and the sum multiplied: compilers take a GELU as one operator."""
        for add in self.graph.readers.get(node.output[0], []):
            others = [name for name in add.input if name != node.output[0]]
            if add.op_type == "Add" and others and self.values(others[0]) == [1.0]:
                return any(one.op_type == "Mul" for one in self.graph.readers.get(add.output[0], []))
        return False

    def _since(self, node: onnx.NodeProto, domain: str) -> int:
        try:
            return int(onnx.defs.get_schema(node.op_type, self.opsets.get(domain, 1), domain).since_version)
        except onnx.defs.SchemaError:
            return int(self.opsets.get(domain, 1))

    def _operands(self, node: onnx.NodeProto) -> Iterator[tuple[str, str]]:
        settings = SETTINGS.get(node.op_type, ())
        if node.op_type.startswith("Reduce"):
            settings = (1,)
        spread = node.op_type in _BROADCAST
        told = [
            self._operand(name, spread=spread, first=index == 0)
            for index, name in enumerate(node.input)
            if index not in settings
        ]
        if len(told) > 4 and len(set(told[1:])) == 1:
            told = [told[0], f"{told[1]}.."]
        yield "x", ",".join(told)
        computed = [str(i) for i in settings if i < len(node.input) and node.input[i] not in self.folded]
        yield "computed", ",".join(computed)
        kinds = [_LETTERS.get(self.graph.element_type(name), "other") for name in node.output if name]
        yield "y", ",".join(kinds) if any(kinds) else ""
        if len(kinds) > 1 and node.op_type != "Split":
            yield "outputs", str(len(kinds))

    def _operand(self, name: str, *, spread: bool, first: bool) -> str:
        if not name:
            return "none"
        shape, letter = self.graph.shape(name), _LETTERS.get(self.graph.element_type(name), "other")
        constant = name in self.folded
        if shape is None:
            return f"{letter}?{'c' if constant else ''}"
        if spread:
            return f"{letter}[{''.join('1' if size == 1 else 'n' for size in shape)}]{'c' if constant else ''}"
        if constant and not first:
            return f"{letter}c"
        leading = "n" if len(shape) > 1 and shape[0] != 1 else ""
        return f"{letter}{len(shape)}{leading}{'c' if constant else ''}"

    def _attributes(self, node: onnx.NodeProto) -> Iterator[tuple[str, str]]:
        if (special := _SPECIAL.get(node.op_type)) is not None:
            yield from special(self, node)
        elif node.op_type.startswith("Reduce"):
            yield "axes", self._axes(node, 1)
        elif (axis := attribute(node, "axis")) is not None:
            yield "axis", str(self._positive(node, axis))
        for item in sorted(node.attribute, key=lambda one: one.name):
            value = onnx.helper.get_attribute_value(item)
            if item.name in _DROPPED or item.type in (onnx.AttributeProto.TENSOR, onnx.AttributeProto.GRAPHS):
                continue
            if item.type == onnx.AttributeProto.GRAPH:
                yield item.name, "graph"
            elif not _is_default(node, item):
                yield item.name, _word(value)

    def _positive(self, node: onnx.NodeProto, axis: int) -> int:
        rank = self.graph.rank(node.input[0])
        return axis + rank if axis < 0 <= rank else axis

    def _axes(self, node: onnx.NodeProto, position: int) -> str:
        """Name the axes that stand in an attribute or in a constant operand."""
        given = attribute(node, "axes")
        if given is None and position < len(node.input) and node.input[position]:
            given = self.values(node.input[position])
            if given is None:
                return "?"
        if given is None:
            return "all"
        return ",".join(str(axis) for axis in sorted(self._positive(node, int(axis)) for axis in given))

    def values(self, name: str) -> list[float] | None:
        """Give the values of a small constant; None where they are not known."""
        if name not in self.graph.tensors or not name:
            return None
        tensor = self.graph.tensors[name]
        if tensor.data_location == TensorProto.EXTERNAL:
            return None
        return [float(value) for value in self.graph.array(name).ravel()]


def _random(node: onnx.NodeProto) -> bool:
    return node.op_type.startswith("Random") or node.op_type in ("Bernoulli", "Multinomial")


def _window(forms: Forms, node: onnx.NodeProto) -> Iterator[tuple[str, str]]:
    """Tell the form of what slides a window over its input."""
    kernel = list(attribute(node, "kernel_shape", []))
    weights = forms.graph.shape(node.input[1]) if len(node.input) > 1 and "Conv" in node.op_type else None
    if not kernel and weights:
        kernel = [size for size in weights[2:] if isinstance(size, int)]
    yield "kernel", "1" if kernel and all(size == 1 for size in kernel) else "k"
    for name, word in (("strides", "strided"), ("dilations", "dilated")):
        if any(value != 1 for value in attribute(node, name, [1])):
            yield word, "yes"
    pads = list(attribute(node, "pads", []))
    half = len(pads) // 2
    yield "pads", ("" if not any(pads) else "even" if pads[:half] == pads[half:] else "uneven")
    yield "group", _group(forms.graph.shape(node.input[0]), attribute(node, "group", 1))
    if any(attribute(node, "output_padding", [])):
        yield "output_padding", "yes"


def _group(shape: Shape, group: int) -> str:
    if group == 1:
        return ""
    return "depthwise" if shape is not None and len(shape) > 1 and shape[1] == group else "grouped"


def _perm(forms: Forms, node: onnx.NodeProto) -> Iterator[tuple[str, str]]:
    rank = forms.graph.rank(node.input[0])
    yield "perm", ",".join(map(str, attribute(node, "perm", range(rank - 1, -1, -1))))


def _reshape(forms: Forms, node: onnx.NodeProto) -> Iterator[tuple[str, str]]:
    before, after = forms.graph.shape(node.input[0]), forms.graph.shape(node.output[0])
    yield "to", "?" if after is None else f"{len(after)}{'n' if len(after) > 1 and after[0] != 1 else ''}"
    if before is None or after is None:
        return
    merged = "".join("1" if size == 1 else "n" for size in before), "".join("1" if s == 1 else "n" for s in after)
    if merged[0].replace("1", "") == merged[1].replace("1", "") and _same(before, after):
        yield "only", "ones"  # it adds or drops axes of one, and moves nothing


def _same(before: Sequence[int | str], after: Sequence[int | str]) -> bool:
    return [size for size in before if size != 1] == [size for size in after if size != 1]


def _slice(forms: Forms, node: onnx.NodeProto) -> Iterator[tuple[str, str]]:
    axes = forms.values(node.input[3]) if len(node.input) > 3 and node.input[3] else None
    steps = forms.values(node.input[4]) if len(node.input) > 4 and node.input[4] else [1.0]
    rank = forms.graph.rank(node.input[0])
    yield "axes", "?" if axes is None else ",".join(str(int(axis % rank) if rank > 0 else int(axis)) for axis in axes)
    if steps is None:
        yield "steps", "?"
    elif any(step != 1 for step in steps):
        yield "steps", "back" if min(steps) < 0 else "wide"


def _pad(forms: Forms, node: onnx.NodeProto) -> Iterator[tuple[str, str]]:
    pads = forms.values(node.input[1]) if len(node.input) > 1 else list(attribute(node, "pads", []))
    if pads is None:
        yield "pads", "?"
        return
    half = len(pads) // 2
    yield "axes", ",".join(str(axis) for axis in range(half) if pads[axis] or pads[axis + half])
    if min(pads, default=0) < 0:
        yield "pads", "cut"


def _resize(forms: Forms, node: onnx.NodeProto) -> Iterator[tuple[str, str]]:
    before, after = forms.graph.shape(node.input[0]), forms.graph.shape(node.output[0])
    given = forms.values(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    if given is None and before and after and all(isinstance(s, int) and s for s in (*before, *after)):
        given = [float(a) / float(b) for a, b in zip(after, before, strict=True)]
    if given is not None:
        whole = all(scale == int(scale) for scale in given)
        yield "scales", "whole" if whole else "down" if max(given) <= 1 else "broken"
    yield "by", "scales" if len(node.input) > 2 and node.input[2] else "sizes"


def _gather(forms: Forms, node: onnx.NodeProto) -> Iterator[tuple[str, str]]:
    yield "axis", str(forms._positive(node, attribute(node, "axis", 0)))
    yield "indices", str(forms.graph.rank(node.input[1]))


def _squeeze(forms: Forms, node: onnx.NodeProto) -> Iterator[tuple[str, str]]:
    yield "axes", forms._axes(node, 1)


def _axis(default: int) -> Callable[[Forms, onnx.NodeProto], Iterator[tuple[str, str]]]:
    def told(forms: Forms, node: onnx.NodeProto) -> Iterator[tuple[str, str]]:
        yield "axis", str(forms._positive(node, attribute(node, "axis", default)))

    return told


def _split(forms: Forms, node: onnx.NodeProto) -> Iterator[tuple[str, str]]:
    yield from _axis(0)(forms, node)
    sizes = forms.values(node.input[1]) if len(node.input) > 1 and node.input[1] else None
    if sizes and len(set(sizes)) > 1:
        yield "sizes", "uneven"


def _gemm(forms: Forms, node: onnx.NodeProto) -> Iterator[tuple[str, str]]:  # noqa: ARG001  # as the others
    if attribute(node, "alpha", 1.0) != 1 or attribute(node, "beta", 1.0) != 1:
        yield "scaled", "yes"


_SPECIAL: dict[str, Callable[[Forms, onnx.NodeProto], Iterator[tuple[str, str]]]] = {
    "AveragePool": _window,
    "Conv": _window,
    "ConvTranspose": _window,
    "MaxPool": _window,
    "Transpose": _perm,
    "Reshape": _reshape,
    "Slice": _slice,
    "Pad": _pad,
    "Resize": _resize,
    "Gather": _gather,
    "GatherElements": _axis(0),
    "Squeeze": _squeeze,
    "Unsqueeze": _squeeze,
    "Split": _split,
    "Gemm": _gemm,
    "Softmax": _axis(-1),
    "LogSoftmax": _axis(-1),
    "LayerNormalization": _axis(-1),
    "Flatten": _axis(1),
    "TopK": _axis(-1),
    "ArgMax": _axis(0),
}


def _is_default(node: onnx.NodeProto, item: onnx.AttributeProto) -> bool:
    try:
        known = onnx.defs.get_schema(node.op_type, node.domain).attributes.get(item.name)
    except onnx.defs.SchemaError:
        return False
    if known is None or not known.default_value.name:
        return False
    return bool(onnx.helper.get_attribute_value(known.default_value) == onnx.helper.get_attribute_value(item))


def _word(value: object) -> str:
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    if isinstance(value, (list, tuple)):
        value = ",".join(map(str, value))
    return str(value).replace(" ", "")
