"""Rewrite a float32 graph to float16, in the graph itself: a strongly typed runtime does what the types say.

    input (float32) → Cast → float16 nodes … → Cast → float32 nodes that must stay → Cast → … → Cast → output (float32)

Inputs and outputs keep their types, so a bundle's contract and cases hold. What stays in float32 is decided by a
float32 run that looks at every tensor, and by the operators' schemas; each node that stays is reported with its reason.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from attn_export.errors import ExportError
from attn_export.export.save import save

LARGEST = float(np.finfo(np.float16).max)
#: Inputs that were not tried may be larger than those that were: half the range is kept in reserve.
MARGIN = 0.5
#: Beyond this a constant is a mask, standing for minus infinity, and is clamped; a weight is never that large.
MASK = 1e30
#: Above this float16 does not hold every integer.
EXACT = 2048
#: These add up many values; in float16 the sum may overflow where the mean does not.
SUMS = {"ReduceMean", "ReduceSum", "ReduceL1", "ReduceL2", "ReduceSumSquare", "GlobalAveragePool", "AveragePool"}
#: These have graphs inside, or an element type of their own making, and are not rewritten.
ALWAYS_FULL = {"If", "Loop", "Scan", "RandomNormal", "RandomUniform", "EyeLike", "Multinomial", "Bernoulli"}
#: What an epsilon guards against dividing by zero passes through these on its way to the division.
_ON_THE_WAY = {"Sqrt", "Pow", "Max", "Clip", "Expand", "Reshape", "Transpose", "Unsqueeze", "Squeeze"}
_DIVISIONS = {"Div", "Reciprocal", "Log"}
#: A graph with one of these is quantised.
QUANTISED = {"QuantizeLinear", "DequantizeLinear", "QLinearConv", "QLinearMatMul", "DynamicQuantizeLinear"}


@dataclass(frozen=True)
class Kept:
    """A node that stays in float32, and why."""

    node: str
    op: str
    reason: str


@dataclass(frozen=True)
class Report:
    """What the rewrite did.

    Attributes:
        halved: nodes that compute in float16.
        kept: nodes that stay in float32.
        casts: casts that were put in between.
        clamped: constants whose mask values became the least float16.
        largest: the largest magnitude seen in any tensor that became float16.
    """

    halved: int
    kept: tuple[Kept, ...]
    casts: int
    clamped: tuple[str, ...]
    largest: float

    def sentence(self) -> str:
        """Say it in one line."""
        text = f"{self.halved} nodes in float16, {len(self.kept)} kept in float32, {self.casts} casts"
        return text + (f", {len(self.clamped)} masks clamped" if self.clamped else "")

    def as_json(self) -> dict[str, Any]:
        """The report as plain data."""
        return asdict(self)


@dataclass
class _Seen:
    """What a float32 run showed of one tensor."""

    dtype: np.dtype[Any]
    largest: float = 0.0
    total: float = 0.0  # the largest sum of magnitudes over one item of the batch


def to_float16(
    model: onnx.ModelProto, feeds: Iterable[Mapping[str, NDArray[Any]]], *, margin: float = MARGIN
) -> tuple[onnx.ModelProto, Report]:
    """Return the model in float16 and what was kept; the one given is not changed.

    Raises:
        ExportError: the model is quantised, does not run, or the result is no valid ONNX.
    """
    if found := {node.op_type for node in model.graph.node} & QUANTISED:
        raise ExportError(f"float16 wants a float32 model, came one with {', '.join(sorted(found))}")
    seen = _observe(model, feeds)
    kept = _decide(model, seen, LARGEST * margin)
    rewriting = _Rewriting(model, seen, kept)
    result = rewriting.run()
    try:
        onnx.checker.check_model(result, full_check=result.ByteSize() < (1 << 30))
    except Exception as error:  # the checker's exceptions share no base class
        raise ExportError(f"the float16 rewrite is no valid ONNX: {str(error)[:300]}") from error
    return result, rewriting.report()


def _observe(model: onnx.ModelProto, feeds: Iterable[Mapping[str, NDArray[Any]]]) -> dict[str, _Seen]:
    """Run in float32 with every tensor as an output."""
    import onnxruntime

    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    inside = [name for node in model.graph.node for name in node.output if name]
    ports = {port.name for port in model.graph.output}
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in inside if name not in ports)
    settings = onnxruntime.SessionOptions()
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    settings.log_severity_level = 3
    seen = {tensor.name: _Seen(np.dtype(np.float32)) for tensor in model.graph.initializer if _is_float(tensor)}
    for tensor in model.graph.initializer:
        if _is_float(tensor):
            _note(seen[tensor.name], numpy_helper.to_array(tensor))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "watched.onnx")
        save(watched, path)
        try:
            session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
            ran = False
            for feed in feeds:
                ran = True
                values = dict(zip(inside, session.run(inside, dict(feed)), strict=True))
                for name, value in {**feed, **values}.items():
                    array = np.asarray(value)
                    _note(seen.setdefault(name, _Seen(array.dtype)), array)
        except Exception as error:  # the runtime's exceptions share no base class of their own
            raise ExportError(
                f"the model does not run in float32, so nothing is known of its ranges: {error}"
            ) from error
    if not ran:
        raise ExportError("float16 wants at least one input to see which tensors overflow, came none")
    return seen


def _note(what: _Seen, array: NDArray[Any]) -> None:
    if array.dtype != np.float32 or not array.size:
        return
    finite = np.abs(np.where(np.abs(array) >= MASK, 0, np.nan_to_num(array, nan=np.inf)))
    what.largest = max(what.largest, float(finite.max()))
    items = finite.reshape(len(finite), -1) if finite.ndim > 1 else finite.reshape(1, -1)
    what.total = max(what.total, float(items.sum(axis=1, dtype=np.float64).max()))


def _is_float(tensor: TensorProto) -> bool:
    return bool(tensor.data_type == TensorProto.FLOAT)


def _decide(model: onnx.ModelProto, seen: Mapping[str, _Seen], limit: float) -> dict[int, str]:
    """Index and reason of each node that stays in float32."""
    versions = {item.domain: item.version for item in model.opset_import}
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    kept: dict[int, str] = {}
    for index, node in enumerate(model.graph.node):
        if reason := _unable(node, versions, seen) or _overflows(node, seen, limit):
            kept[index] = reason
        elif reason := _vanishes(node, constants):
            kept[index] = reason
            for guarded in _guarded(model, index):
                kept.setdefault(guarded, f"it is guarded by the constant of {node.name!r}, which float16 loses")
    maker = {name: index for index, node in enumerate(model.graph.node) for name in node.output}
    wanted = [name for node in model.graph.node if node.op_type == "Range" for name in node.input]
    while wanted:
        index = maker.get(wanted.pop(), -1)
        if index >= 0 and index not in kept and _floats(model.graph.node[index], seen):
            kept[index] = "it computes the bounds of a Range, which ONNX defines in float32"
            wanted += model.graph.node[index].input
    for name in _captured(model.graph):
        if name in maker:
            kept.setdefault(maker[name], "its result is used by a graph inside another node")
    for index, node in enumerate(model.graph.node):
        if not _counts(node, seen):
            continue
        kept.setdefault(index, "it turns float values above 2048 into integers, which float16 does not hold exactly")
        if (source := maker.get(node.input[0])) is not None:
            kept.setdefault(source, "its integers above 2048 are used as such, and float16 does not hold them exactly")
    return kept


def _captured(graph: onnx.GraphProto) -> set[str]:
    """Names that graphs inside nodes use, which may come from outside."""
    inside = [a.g for node in graph.node for a in node.attribute if a.type == onnx.AttributeProto.GRAPH]
    names = {name for inner in inside for node in inner.node for name in node.input}
    return names.union(*(_captured(inner) for inner in inside)) | {o.name for inner in inside for o in inner.output}


def _floats(node: onnx.NodeProto, seen: Mapping[str, _Seen]) -> list[str]:
    return [n for n in (*node.input, *node.output) if n in seen and seen[n].dtype == np.float32]


def _unable(node: onnx.NodeProto, versions: Mapping[str, int], seen: Mapping[str, _Seen]) -> str:
    if node.op_type in ALWAYS_FULL:
        return "it is not rewritten: it has a graph inside, or makes its own element type"
    if not _floats(node, seen):
        return ""
    if node.domain not in ("", "ai.onnx"):
        return f"it is no operator of ONNX but of {node.domain}"
    if not all(_takes_half(node, versions, i, output=True) for i in range(len(node.output))):
        return "ONNX does not define it for float16"
    main = [i for i, name in enumerate(node.input) if name in seen and seen[name].dtype == np.float32]
    if main and not any(_takes_half(node, versions, i) for i in main):
        return "ONNX does not define it for float16"
    return ""


def _takes_half(node: onnx.NodeProto, versions: Mapping[str, int], index: int, *, output: bool = False) -> bool:
    """Whether ONNX lets one input or output be float16; a position that is never float (such as a shape) does."""
    schema = onnx.defs.get_schema(node.op_type, versions.get(node.domain, versions.get("", 1)), node.domain)
    ports = schema.outputs if output else schema.inputs
    if not ports:
        return True
    types = ports[min(index, len(ports) - 1)].types
    return "tensor(float16)" in types or "tensor(float)" not in types


def _overflows(node: onnx.NodeProto, seen: Mapping[str, _Seen], limit: float) -> str:
    for name in _floats(node, seen):
        if seen[name].largest > limit:
            side = "gives" if name in node.output else "takes"
            return f"it {side} {seen[name].largest:.3g}, more than {limit:.3g}"
    if node.op_type in SUMS and node.input[0] in seen and (total := seen[node.input[0]].total) > limit:
        return f"it adds up to {total:.3g}, more than {limit:.3g}"
    return ""


def _vanishes(node: onnx.NodeProto, constants: Mapping[str, TensorProto]) -> str:
    """A scalar such as an epsilon that float16 makes zero, or changes by more than a percent."""
    for name in node.input:
        tensor = constants.get(name)
        if tensor is None or not _is_float(tensor) or int(np.prod(tensor.dims, dtype=np.int64)) != 1:
            continue
        value = float(numpy_helper.to_array(tensor).reshape(()))
        with np.errstate(over="ignore", under="ignore"):
            half = float(np.float16(value))
        if value and abs(value) < MASK and abs(half - value) > 0.01 * abs(value):
            return f"its constant {value:.3g} would be {half:.3g}"
    return ""


def _guarded(model: onnx.ModelProto, start: int) -> list[int]:
    """Nodes from one with an epsilon to the division that it guards: cast in between, the guard would be lost."""
    reached, found = set(model.graph.node[start].output), []
    for index, node in enumerate(model.graph.node):  # sorted, so one pass reaches everything
        if index <= start or not reached & set(node.input):
            continue
        if node.op_type in _ON_THE_WAY | _DIVISIONS:
            found.append(index)
        if node.op_type in _ON_THE_WAY:
            reached |= set(node.output)
    return found


def _counts(node: onnx.NodeProto, seen: Mapping[str, _Seen]) -> bool:
    if node.op_type != "Cast" or node.input[0] not in seen:
        return False
    source, result = seen[node.input[0]], seen.get(node.output[0])
    to_integer = result is not None and np.issubdtype(result.dtype, np.integer)
    return source.dtype == np.float32 and to_integer and source.largest > EXACT


@dataclass
class _Rewriting:
    """One rewrite in progress: every tensor has one element type, and is cast once to the other where wanted."""

    model: onnx.ModelProto
    seen: Mapping[str, _Seen]
    kept: Mapping[int, str]
    half: set[str] = field(default_factory=set)  # tensors that are float16 now
    cast: dict[tuple[str, int], str] = field(default_factory=dict)
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    tensors: dict[str, TensorProto] = field(default_factory=dict)
    clamped: list[str] = field(default_factory=list)
    renamed: dict[str, str] = field(default_factory=dict)
    halved: int = 0

    def __post_init__(self) -> None:
        self.versions = {item.domain: item.version for item in self.model.opset_import}
        self.constants = {tensor.name: tensor for tensor in self.model.graph.initializer}
        self.taken = {name for node in self.model.graph.node for name in (*node.input, *node.output)}

    def run(self) -> onnx.ModelProto:
        """Build the new model."""
        outputs = {port.name for port in self.model.graph.output}
        for index, node in enumerate(self.model.graph.node):
            self._node(index, node, outputs)
        for port in self.model.graph.output:
            if port.name in self.half:
                self._append_cast(self.renamed[port.name], port.name, TensorProto.FLOAT)
        result = onnx.ModelProto()
        result.CopyFrom(self.model)
        del result.graph.node[:], result.graph.initializer[:], result.graph.value_info[:]
        result.graph.node.extend(self.nodes)
        used = {name for node in self.nodes for name in node.input} | outputs
        result.graph.initializer.extend(t for t in {**self.constants, **self.tensors}.values() if t.name in used)
        return result

    def report(self) -> Report:
        """What was done."""
        nodes = self.model.graph.node
        kept = tuple(Kept(nodes[index].name, nodes[index].op_type, reason) for index, reason in self.kept.items())
        largest = max((self.seen[name].largest for name in self.half if name in self.seen), default=0.0)
        casts = sum(name.startswith("to_float") for name in (node.name for node in self.nodes))
        return Report(self.halved, kept, casts, tuple(dict.fromkeys(self.clamped)), largest)

    def _node(self, index: int, node: onnx.NodeProto, outputs: set[str]) -> None:
        new = onnx.NodeProto()
        new.CopyFrom(node)
        lower = index not in self.kept and bool(_floats(node, self.seen))
        for i, name in enumerate(node.input):
            if name in self.seen and self.seen[name].dtype == np.float32:
                half = lower and _takes_half(node, self.versions, i)
                new.input[i] = self._as(name, TensorProto.FLOAT16 if half else TensorProto.FLOAT)
        if lower:
            self.halved += 1
            self._attributes(new)
            for i, name in enumerate(node.output):
                if name in self.seen and self.seen[name].dtype == np.float32:
                    self.half.add(name)
                    if name in outputs:
                        new.output[i] = self.renamed[name] = self._fresh(f"{name}_float16")
        self.nodes.append(new)

    def _as(self, name: str, kind: int) -> str:
        """The tensor in an element type; casts and converted constants are made once and shared."""
        if (TensorProto.FLOAT16 if name in self.half else TensorProto.FLOAT) == kind:
            return self.renamed.get(name, name)
        if (name, kind) not in self.cast:
            fresh = self._fresh(f"{name}_{'float16' if kind == TensorProto.FLOAT16 else 'float32'}")
            if name in self.constants:
                self.tensors[fresh] = self._halved(self.constants[name], fresh)
            else:
                self._append_cast(self.renamed.get(name, name), fresh, kind)
            self.cast[name, kind] = fresh
        return self.cast[name, kind]

    def _append_cast(self, source: str, target: str, kind: int) -> None:
        word = "to_float16" if kind == TensorProto.FLOAT16 else "to_float32"
        self.nodes.append(helper.make_node("Cast", [source], [target], name=f"{word}_{len(self.nodes)}", to=kind))

    def _halved(self, tensor: TensorProto, name: str) -> TensorProto:
        values = numpy_helper.to_array(tensor)
        if bool((np.abs(values) >= MASK).any()):
            self.clamped.append(tensor.name)
        # Minus infinity as a mask makes NaN of a row that is masked whole; the least finite value does not.
        return numpy_helper.from_array(np.clip(values, -LARGEST, LARGEST).astype(np.float16), name)

    def _attributes(self, node: onnx.NodeProto) -> None:
        """Element types that a node carries itself."""
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.FLOAT16
            elif attribute.type == onnx.AttributeProto.TENSOR and _is_float(attribute.t):
                attribute.t.CopyFrom(self._halved(attribute.t, attribute.t.name))
            elif node.op_type == "Constant" and attribute.name in ("value_float", "value_floats"):
                values = np.asarray(attribute.f if attribute.name == "value_float" else attribute.floats, np.float32)
                tensor = self._halved(numpy_helper.from_array(values, "value"), "value")
                attribute.CopyFrom(helper.make_attribute("value", tensor))

    def _fresh(self, name: str) -> str:
        while name in self.taken:
            name += "_"
        self.taken.add(name)
        return name
