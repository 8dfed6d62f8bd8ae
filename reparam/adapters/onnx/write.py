"""Small graph → ONNX: new operators in place of those that died; everything else stays as it was."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from attn_export.reparam import ir
from attn_export.reparam.adapters.onnx.nodes import inputs_of
from attn_export.reparam.adapters.onnx.read import OnnxReader
from attn_export.types import Array

_ELEMENT = {
    "float32": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "bfloat16": TensorProto.BFLOAT16,
    "float64": TensorProto.DOUBLE,
}


class Writer:
    """Writes the result of a plan back into a copy of the model."""

    def __init__(self, reader: OnnxReader, final: ir.Graph) -> None:
        self._reader, self._final = reader, final
        self._new: list[TensorProto] = []
        self._unrounded = False
        self.arrays: dict[str, Array] = {}
        self._names = {n for node in reader.model.graph.node for n in (*node.input, *node.output, node.name)}
        self._names |= {t.name for t in reader.model.graph.initializer}

    def write(self, *, unrounded: bool = False) -> ModelProto:
        """Return the new model, in which what it shares with the old one is copied; the old one where that is all.

        ``unrounded`` does not round new weights, and leaves them in ``arrays``: their initializers are empty.
        """
        self._unrounded, self._new, self.arrays = unrounded, [], {}
        old = self._reader.model
        hosts = {node.output: node.host for node in self._reader.graph.nodes}
        alive = {node.host for node in self._final.nodes if node.host is not None}
        linear = {node.host for node in self._reader.graph.nodes}
        added: dict[object, list[ir.Node]] = {}
        pending: list[ir.Node] = []
        for node in self._final.nodes:
            if node.host is None:
                pending.append(node)
                if node.output in hosts:
                    added.setdefault(hosts[node.output], []).extend(pending)
                    pending = []
        assert not pending
        nodes: list[NodeProto] = []
        for index, proto in enumerate(old.graph.node):
            for node in added.get(index, []):
                protos = list(self._protos(node))
                for made in protos:
                    made.metadata_props.extend(proto.metadata_props)
                nodes += protos
            if index in alive or index not in linear:
                nodes.append(proto)
        outputs = [o.name for o in old.graph.output]
        left = _needed(self._folded(_needed(nodes, outputs)), outputs)
        kept = not added and not self._new and len(left) == len(old.graph.node)
        return old if kept and self._reads_all(left) else self._assemble(left)

    def _reads_all(self, nodes: list[NodeProto]) -> bool:
        """Whether every constant of the old model is still there."""
        read = {n for node in nodes for n in inputs_of(node)} | {o.name for o in self._reader.model.graph.output}
        return read.issuperset(t.name for t in self._reader.model.graph.initializer)

    def _folded(self, nodes: list[NodeProto]) -> list[NodeProto]:
        """Write out constants that were the shape or the type of what died."""
        lost = {name for node in self._reader.model.graph.node for name in node.output if name}
        lost -= {name for node in nodes for name in node.output}
        remaining: list[NodeProto] = []
        for node in nodes:
            if lost.isdisjoint(node.input):
                remaining.append(node)
                continue
            for name in filter(None, node.output):
                array = self._reader.constants.get(name)
                if array is None:
                    lost.add(name)  # on the way from what died to its shape
                else:
                    self._new.append(numpy_helper.from_array(np.asarray(array), name))
        return remaining

    def _assemble(self, nodes: list[NodeProto]) -> ModelProto:
        old = self._reader.model
        read = {n for node in nodes for n in inputs_of(node)}
        read |= {o.name for o in old.graph.output}
        made = {n for node in nodes for n in node.output}
        model = ModelProto()
        _copy_fields(old, model, skip={"graph"})
        graph = model.graph
        _copy_fields(old.graph, graph, skip={"node", "initializer", "value_info"})
        inputs = {i.name for i in old.graph.input}
        graph.node.extend(nodes)
        graph.initializer.extend(t for t in old.graph.initializer if t.name in read or t.name in inputs)
        self._new.reverse()
        while self._new:  # one by one: the graph copies what it is given
            tensor = self._new.pop()
            if tensor.name in read:
                graph.initializer.append(tensor)
        graph.value_info.extend(v for v in old.graph.value_info if v.name in made and v.name in read)
        return model

    def _unique(self, base: str) -> str:
        name, number = base, 1
        while name in self._names:
            name, number = f"{base}_{number}", number + 1
        self._names.add(name)
        return name

    def _tensor(self, array: Array, node: ir.Node, what: str) -> str:
        """Register a constant, rounded once to the element type of the value."""
        name = self._unique(f"{node.scope or node.output}.fused_{what}")
        element = _ELEMENT[self._final.values[node.output].dtype]
        if self._unrounded:
            self.arrays[name] = array
            self._new.append(TensorProto(name=name, data_type=element))
        else:
            typed = np.ascontiguousarray(array).astype(helper.tensor_dtype_to_np_dtype(element))
            self._new.append(numpy_helper.from_array(typed, name))
        return name

    def _integers(self, numbers: list[int], node: ir.Node, what: str) -> str:
        name = self._unique(f"{node.scope or node.output}.fused_{what}")
        self._new.append(numpy_helper.from_array(np.array(numbers, dtype=np.int64), name))
        return name

    def _floats(self, numbers: list[float], node: ir.Node, what: str) -> str:
        """Register numbers that are float32 by the standard."""
        name = self._unique(f"{node.scope or node.output}.fused_{what}")
        self._new.append(numpy_helper.from_array(np.array(numbers, dtype=np.float32), name))
        return name

    def _protos(self, node: ir.Node) -> Iterator[NodeProto]:
        """Yield the ONNX nodes that compute one node of the small graph."""
        write = self._writers.get(type(node.op))
        if write is None:
            raise AssertionError(f"the plan never writes {node.op}")
        return write(self, node.op, node)

    def _make(self, node: ir.Node, kind: str, inputs: list[str], output: str | None = None, **at: Any) -> NodeProto:
        name = self._unique(f"{node.scope or 'node'}.fused_{kind}")
        return helper.make_node(kind, inputs, [output or node.output], name, **at)

    def _convolution(self, op: ir.Conv | ir.ConvTranspose, node: ir.Node) -> Iterator[NodeProto]:
        inputs = [node.inputs[0], self._tensor(op.weight, node, "weight")]
        if op.bias is not None:
            inputs.append(self._tensor(op.bias, node, "bias"))
        more: dict[str, Any] = {"output_padding": list(op.extra)} if isinstance(op, ir.ConvTranspose) else {}
        yield self._make(
            node,
            type(op).__name__,
            inputs,
            kernel_shape=list(op.weight.shape[2:]),
            strides=list(op.strides),
            dilations=list(op.dilations),
            group=op.groups,
            pads=[p[0] for p in op.pads] + [p[1] for p in op.pads],
            **more,
        )

    def _linear(self, op: ir.Linear, node: ir.Node) -> Iterator[NodeProto]:
        x, weight = node.inputs[0], self._tensor(op.weight, node, "weight")
        shape = self._final.values[x].shape
        if op.bias is None:
            yield self._make(node, "MatMul", [x, weight])
        elif shape is not None and len(shape) == 2:
            yield self._make(node, "Gemm", [x, weight, self._tensor(op.bias, node, "bias")])
        else:
            middle = self._unique(f"{node.output}:product")
            yield self._make(node, "MatMul", [x, weight], middle)
            yield self._make(node, "Add", [middle, self._tensor(op.bias, node, "bias")])

    def _affine(self, op: ir.Affine, node: ir.Node) -> Iterator[NodeProto]:
        x = node.inputs[0]
        if op.factor is None and op.term is None:
            yield self._make(node, "Identity", [x])
            return
        if op.factor is not None:
            middle = node.output if op.term is None else self._unique(f"{node.output}:scaled")
            yield self._make(node, "Mul", [x, self._tensor(op.factor, node, "scale")], middle)
            x = middle
        if op.term is not None:
            yield self._make(node, "Add", [x, self._tensor(op.term, node, "shift")])

    def _transpose(self, op: ir.Transpose, node: ir.Node) -> Iterator[NodeProto]:
        yield self._make(node, "Transpose", [node.inputs[0]], perm=list(op.perm))

    def _slice(self, op: ir.Slice, node: ir.Node) -> Iterator[NodeProto]:
        stop = 2**63 - 1 if op.stop is None else op.stop
        places = {"starts": op.start, "ends": stop, "axes": op.axis, "steps": op.step}
        names = [self._integers([place], node, what) for what, place in places.items()]
        yield self._make(node, "Slice", [node.inputs[0], *names])

    def _take(self, op: ir.Take, node: ir.Node) -> Iterator[NodeProto]:
        index = self._integers(op.index.tolist(), node, "indices")
        yield self._make(node, "Gather", [node.inputs[0], index], axis=op.axis)

    def _reshape(self, _: ir.Reshape | ir.Flatten, node: ir.Node) -> Iterator[NodeProto]:
        shape = self._final.values[node.output].shape
        assert shape is not None
        target = self._integers([n if isinstance(n, int) else -1 for n in shape], node, "shape")
        yield self._make(node, "Reshape", [node.inputs[0], target])

    def _depth_to_space(self, op: ir.DepthToSpace, node: ir.Node) -> Iterator[NodeProto]:
        mode = "CRD" if op.crd else "DCR"
        yield self._make(node, "DepthToSpace", [node.inputs[0]], blocksize=op.block, mode=mode)

    def _upsample(self, op: ir.Upsample, node: ir.Node) -> Iterator[NodeProto]:
        scales = self._floats([1.0, 1.0, *op.factors], node, "scales")
        region = "" if self._reader.opset >= 13 else self._floats([], node, "roi")  # read by old opsets only
        modes = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        yield self._make(node, "Resize", [node.inputs[0], region, scales], mode="nearest", **modes)

    #: How each operator that a plan may add is written.
    _writers: ClassVar[Mapping[type[ir.Op], Callable[[Writer, Any, ir.Node], Iterator[NodeProto]]]] = {
        ir.Conv: _convolution,
        ir.ConvTranspose: _convolution,
        ir.Linear: _linear,
        ir.Affine: _affine,
        ir.Transpose: _transpose,
        ir.Slice: _slice,
        ir.Take: _take,
        ir.Reshape: _reshape,
        ir.Flatten: _reshape,
        ir.DepthToSpace: _depth_to_space,
        ir.Upsample: _upsample,
    }


def _copy_fields(old: ModelProto | GraphProto, new: ModelProto | GraphProto, skip: Collection[str]) -> None:
    for field, value in old.ListFields():
        if field.name in skip:
            continue
        if field.is_repeated:
            getattr(new, field.name).extend(value)
        else:
            setattr(new, field.name, value)


def _needed(nodes: list[NodeProto], outputs: list[str]) -> list[NodeProto]:
    """Drop nodes whose results nobody reads."""
    wanted, needed = set(outputs), list[NodeProto]()
    for node in reversed(nodes):
        if any(name in wanted for name in node.output):
            needed.append(node)
            wanted |= set(inputs_of(node))
    return needed[::-1]


def element_type(model: onnx.ModelProto) -> int:
    """Return the element type of the model's first floating input."""
    for info in model.graph.input:
        if info.type.tensor_type.elem_type in _ELEMENT.values():
            return int(info.type.tensor_type.elem_type)
    return int(TensorProto.FLOAT)
