"""Small graph → ONNX: new operators in place of those that died; everything else stays as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from attn_export.reparam import ir
from attn_export.reparam.adapters.onnx.nodes import captured
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
        self._wide = False
        self.arrays: dict[str, Array] = {}
        self._names = {n for node in reader.model.graph.node for n in (*node.input, *node.output, node.name)}
        self._names |= {t.name for t in reader.model.graph.initializer}

    def write(self, *, wide: bool = False) -> ModelProto:
        """Return the new model; what it shares with the old one is copied.

        ``wide`` does not round new weights, and leaves them in ``arrays``: their initializers are empty.
        """
        self._wide, self._new, self.arrays = wide, [], {}
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
        return self._assemble(_needed(self._folded(_needed(nodes, outputs)), outputs))

    def _folded(self, nodes: list[NodeProto]) -> list[NodeProto]:
        """Write out constants that were the shape or the type of what died."""
        lost = {name for node in self._reader.model.graph.node for name in node.output if name}
        lost -= {name for node in nodes for name in node.output}
        kept: list[NodeProto] = []
        for node in nodes:
            if lost.isdisjoint(node.input):
                kept.append(node)
                continue
            for name in filter(None, node.output):
                array = self._reader.constants.get(name)
                if array is None:
                    lost.add(name)  # on the way from what died to its shape
                else:
                    self._new.append(numpy_helper.from_array(np.asarray(array), name))
        return kept

    def _assemble(self, nodes: list[NodeProto]) -> ModelProto:
        old = self._reader.model
        read = {n for node in nodes for n in node.input}
        read |= {n for node in nodes for n in captured(node)}
        read |= {o.name for o in old.graph.output}
        made = {n for node in nodes for n in node.output}
        model = ModelProto()
        for field, value in old.ListFields():
            if field.name != "graph":
                if field.is_repeated:
                    getattr(model, field.name).extend(value)
                else:
                    setattr(model, field.name, value)
        graph = model.graph
        for field, value in old.graph.ListFields():
            if field.name in ("node", "initializer", "value_info"):
                continue
            if field.is_repeated:
                getattr(graph, field.name).extend(value)
            else:
                setattr(graph, field.name, value)
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
        if self._wide:
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
        """The ONNX nodes that compute one node of the small graph."""
        op, x = node.op, node.inputs[0]

        def make(kind: str, inputs: list[str], output: str = node.output, **at: Any) -> NodeProto:
            return helper.make_node(kind, inputs, [output], self._unique(f"{node.scope or 'node'}.fused_{kind}"), **at)

        match op:
            case ir.Conv() | ir.ConvTranspose():
                inputs = [x, self._tensor(op.weight, node, "weight")]
                if op.bias is not None:
                    inputs.append(self._tensor(op.bias, node, "bias"))
                more: dict[str, Any] = {"output_padding": list(op.extra)} if isinstance(op, ir.ConvTranspose) else {}
                yield make(
                    type(op).__name__,
                    inputs,
                    kernel_shape=list(op.weight.shape[2:]),
                    strides=list(op.strides),
                    dilations=list(op.dilations),
                    group=op.groups,
                    pads=[p[0] for p in op.pads] + [p[1] for p in op.pads],
                    **more,
                )
            case ir.Linear():
                weight = self._tensor(op.weight, node, "weight")
                shape = self._final.values[x].shape
                if op.bias is not None and shape is not None and len(shape) == 2:
                    yield make("Gemm", [x, weight, self._tensor(op.bias, node, "bias")])
                elif op.bias is not None:
                    middle = self._unique(f"{node.output}:product")
                    yield make("MatMul", [x, weight], middle)
                    yield make("Add", [middle, self._tensor(op.bias, node, "bias")])
                else:
                    yield make("MatMul", [x, weight])
            case ir.Affine():
                yield from self._affine(op, node, make)
            case ir.Transpose():
                yield make("Transpose", [x], perm=list(op.perm))
            case ir.Slice():
                stop = 2**63 - 1 if op.stop is None else op.stop
                places = [[op.start], [stop], [op.axis], [op.step]]
                names = [
                    self._integers(n, node, w) for n, w in zip(places, ("starts", "ends", "axes", "steps"), strict=True)
                ]
                yield make("Slice", [x, *names])
            case ir.Take():
                yield make("Gather", [x, self._integers(op.index.tolist(), node, "indices")], axis=op.axis)
            case ir.Reshape() | ir.Flatten():
                shape = self._final.values[node.output].shape
                assert shape is not None
                target = [n if isinstance(n, int) else -1 for n in shape]
                yield make("Reshape", [x, self._integers(target, node, "shape")])
            case ir.DepthToSpace():
                yield make("DepthToSpace", [x], blocksize=op.block, mode="CRD" if op.crd else "DCR")
            case ir.Upsample():
                scales = self._floats([1.0, 1.0, *op.factors], node, "scales")
                region = "" if self._reader.opset >= 13 else self._floats([], node, "roi")  # read by old opsets only
                modes = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
                yield make("Resize", [x, region, scales], mode="nearest", **modes)
            case _:
                raise AssertionError(f"the plan never writes {op}")

    def _affine(self, op: ir.Affine, node: ir.Node, make: Callable[..., NodeProto]) -> Iterator[NodeProto]:
        x = node.inputs[0]
        if op.factor is None and op.term is None:
            yield make("Identity", [x])
            return
        if op.factor is not None:
            middle = node.output if op.term is None else self._unique(f"{node.output}:scaled")
            yield make("Mul", [x, self._tensor(op.factor, node, "scale")], middle)
            x = middle
        if op.term is not None:
            yield make("Add", [x, self._tensor(op.term, node, "shift")])


def _needed(nodes: list[NodeProto], outputs: list[str]) -> list[NodeProto]:
    """Drop nodes whose results nobody reads."""
    wanted, kept = set(outputs), list[NodeProto]()
    for node in reversed(nodes):
        if any(name in wanted for name in node.output):
            kept.append(node)
            wanted |= {*node.input, *captured(node)}
    return kept[::-1]


def element_type(model: onnx.ModelProto) -> int:
    """The element type of the model's first floating input."""
    for info in model.graph.input:
        if info.type.tensor_type.elem_type in _ELEMENT.values():
            return int(info.type.tensor_type.elem_type)
    return int(TensorProto.FLOAT)
