"""Cut nodes out of real graphs, each a graph of its own with fixed sizes, inputs and a float64 reference."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from attn_export.bundle import Case
from attn_export.errors import AttnExportError
from attn_export.export.graph.index import graph_inputs
from attn_export.export.lint._form import SETTINGS, WHOLE_GELU, Form, Forms
from attn_export.export.onnx.exported import Contract, Exported
from attn_export.export.onnx.save import save
from attn_export.reparam.evaluate.onnx import OnnxEvaluator
from attn_export.types import TensorSpec

Arrays = Mapping[str, NDArray[Any]]
#: The span of the values that floats are drawn from anew: far from where float16 ends, and their signs are kept.
LEAST, MOST = 0.25, 2.0
#: Drawn values are whole multiples of this, which float16 holds: nothing is decided by how an input is rounded.
STEP = 2.0**-9


@dataclass(frozen=True)
class Probe:
    """One node as a graph.

    Attributes:
        forms: its form in the graph that it was cut from, and its own; mostly one and the same.
        source: the graph and the node.
        exported: the graph of that node, of fixed sizes.
        case: inputs, with what the node means in float64.
    """

    forms: tuple[str, ...]
    source: str
    exported: Exported = field(repr=False)
    case: Case = field(repr=False)

    @property
    def name(self) -> str:
        """A name for files, of the operator and of what the form is."""
        op = Form.of(self.forms[0]).op.replace("::", "-")
        return f"{op}-{hashlib.sha256(self.forms[0].encode()).hexdigest()[:8]}"


def cut(model: onnx.ModelProto, feeds: Arrays, source: str, known: set[str]) -> Iterator[Probe]:
    """Cut every node whose form is not ``known`` yet out of a graph that takes ``feeds``; ``known`` grows."""
    forms = [(node, form) for node, form in Forms(model) if WHOLE_GELU not in form.features]
    nodes = [(node, str(form)) for node, form in forms if str(form) not in known]
    if not nodes:
        return
    values = {**_constants(model), **feeds, **run(model, feeds)}
    folded = Forms(model).folded
    for node, form in nodes:
        if form in known or any(name and name not in values for name in (*node.input, *node.output)):
            continue
        known.add(form)
        try:
            yield _probe(node, form, f"{source}: {node.name or node.output[0]}", model, values, folded)
        except AttnExportError:
            continue  # the reference does not claim it


def _constants(model: onnx.ModelProto) -> dict[str, NDArray[Any]]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def _probe(
    node: onnx.NodeProto, form: str, source: str, model: onnx.ModelProto, values: Arrays, folded: set[str]
) -> Probe:
    names = list(dict.fromkeys(name for name in node.input if name))
    settings = {node.input[place] for place in SETTINGS.get(node.op_type, ()) if place < len(node.input)}
    drawn = {n: values[n] if n in settings else redrawn(values[n], seed) for seed, n in enumerate(names)}
    inputs = [name for name in names if name not in folded]
    graph = helper.make_graph(
        [node],
        "probe",
        [_port(name, drawn[name]) for name in inputs],
        [_port(name, values[name]) for name in node.output if name],
        [numpy_helper.from_array(drawn[name], name) for name in names if name in folded],
    )
    own = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    feeds = {name: drawn[name] for name in inputs}
    return whole(own, feeds, source, form)


def whole(model: onnx.ModelProto, feeds: Arrays, source: str, *forms: str) -> Probe:
    """Give a graph of one node, or of one GELU that is written out, of fixed sizes as a probe.

    Raises:
        ExportError: the reference does not claim its operator.
    """
    ours = run(model, feeds)
    reference = OnnxEvaluator(model).run(feeds)
    del model.graph.output[:]
    model.graph.output.extend(_port(name, ours[name]) for name in reference)
    error = {name: _distance(ours[name], reference[name]) for name in reference}
    case = Case("probe", dict(feeds), reference, error)
    told = [form for _, form in Forms(model)]
    own = tuple(str(form) for form in told if len(told) == 1 or WHOLE_GELU in form.features)
    opset = next(item.version for item in model.opset_import if item.domain in ("", "ai.onnx"))
    contract = Contract(opset, _specs(model.graph.input), _specs(model.graph.output))
    return Probe(tuple(dict.fromkeys((*forms, *own))), source, Exported(model, contract), case)


def inside(probe: Probe) -> Probe | None:
    """Put the node between others, where its own ports are none that a runtime hands in or out: many dimensions, bools.

    None where every port is a float of at most four dimensions, of which the first is one.
    """
    model = probe.exported.model
    odd = [p for p in (*model.graph.input, *model.graph.output) if _odd(p)]
    if not odd:
        return None
    made = onnx.ModelProto()
    made.CopyFrom(model)
    if len(made.graph.node) > 1:
        return None
    (node,) = made.graph.node
    before, after, feeds = [], [], dict(probe.case.inputs)
    for port in made.graph.input:
        if not _odd(port):
            continue
        inner, name = f"{port.name}_inner", port.name
        value = feeds[name]
        feeds[name] = value.reshape(_flat(value.shape)).astype(np.float32)
        before += _steps(made, name, inner, value.shape, port.type.tensor_type.elem_type)
        for place, one in enumerate(node.input):
            if one == name:
                node.input[place] = inner
        port.CopyFrom(_port(name, feeds[name]))
    reference = {}
    for port in made.graph.output:
        value = probe.case.reference[port.name]
        if not _odd(port):
            reference[port.name] = value
            continue
        inner, name = f"{port.name}_inner", port.name
        node.output[list(node.output).index(name)] = inner
        reference[name] = value.reshape(_flat(value.shape)).astype(np.float64)
        after += _steps(made, inner, name, reference[name].shape, TensorProto.FLOAT)
        port.CopyFrom(_port(name, reference[name].astype(np.float32)))
    nodes = [*before, node, *after]
    copies = [onnx.NodeProto.FromString(one.SerializeToString()) for one in nodes]
    del made.graph.node[:]
    made.graph.node.extend(copies)
    contract = Contract(probe.exported.contract.opset, _specs(made.graph.input), _specs(made.graph.output))
    case = Case("probe", feeds, reference, {name: probe.case.float32_error.get(name, 0.0) for name in reference})
    return Probe(probe.forms, probe.source, Exported(made, contract), case)


def amid(probe: Probe) -> Probe | None:
    """Put the node between activations, for a compiler that leaves to the CPU what it would run inside a network.

    None where a port is no float.
    """
    model = probe.exported.model
    ports = (*model.graph.input, *model.graph.output)
    if len(model.graph.node) > 1 or any(port.type.tensor_type.elem_type != TensorProto.FLOAT for port in ports):
        return None
    made = onnx.ModelProto()
    made.CopyFrom(model)
    (node,) = made.graph.node
    for place, name in enumerate(node.input):
        if name in probe.case.inputs:
            node.input[place] = f"{name}_active"
    for place, name in enumerate(node.output):
        node.output[place] = f"{name}_before" if name else ""
    before = [helper.make_node("Relu", [name], [f"{name}_active"], name=f"{name}_relu") for name in probe.case.inputs]
    after = [
        helper.make_node("Relu", [f"{port.name}_before"], [port.name], name=f"{port.name}_relu")
        for port in model.graph.output
    ]
    copies = [onnx.NodeProto.FromString(one.SerializeToString()) for one in (*before, node, *after)]
    del made.graph.node[:]
    made.graph.node.extend(copies)
    feeds = {name: np.abs(value) for name, value in probe.case.inputs.items()}
    return whole(made, feeds, probe.source, *probe.forms)


def _odd(port: onnx.ValueInfoProto) -> bool:
    kind = port.type.tensor_type
    many = len(kind.shape.dim) > 1 and kind.shape.dim[0].dim_value != 1
    return kind.elem_type != TensorProto.FLOAT or len(kind.shape.dim) > 4 or many


def _flat(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Give a shape of as many elements that every runtime hands in: a batch of one, four dimensions at most.

    >>> _flat((1, 2, 3)), _flat((4, 2, 3, 5)), _flat((1, 2, 3, 4, 5))
    ((1, 2, 3), (1, 4, 2, 15), (1, 2, 3, 20))
    """
    one = shape if len(shape) < 2 or shape[0] == 1 else (1, *shape)
    return one if len(one) <= 4 else (*one[:3], int(np.prod(one[3:])))


def _steps(model: onnx.ModelProto, source: str, target: str, shape: tuple[int, ...], kind: int) -> list[onnx.NodeProto]:
    """Bring one tensor to the shape and element type of another."""
    sizes = f"{target}_sizes"
    model.graph.initializer.append(numpy_helper.from_array(np.array(shape, np.int64), sizes))
    between = f"{target}_between"
    return [
        helper.make_node("Cast", [source], [between], name=f"{target}_cast", to=kind),
        helper.make_node("Reshape", [between, sizes], [target], name=f"{target}_reshape"),
    ]


def _distance(got: NDArray[Any], reference: NDArray[Any]) -> float:
    if reference.dtype.kind != "f":
        return 0.0
    return float(np.linalg.norm((got.astype(np.float64) - reference).ravel()))


def _specs(ports: Iterable[onnx.ValueInfoProto]) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(
            port.name,
            str(helper.tensor_dtype_to_np_dtype(port.type.tensor_type.elem_type)),
            tuple(dim.dim_value for dim in port.type.tensor_type.shape.dim),
        )
        for port in ports
    )


def _port(name: str, value: NDArray[Any]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)


def redrawn(value: NDArray[Any], seed: int) -> NDArray[Any]:
    """Draw floats anew, with signs and zeros kept; what is one number or no float stays, and what is no number, too.

    >>> redrawn(np.array([0.0, -1e6, np.inf, 1e-9], np.float32), 0).tolist()[:3]
    [0.0, -0.72265625, inf]
    """
    if value.dtype != np.float32 or value.size < 2:
        return value
    draw = np.random.default_rng(seed).uniform(LEAST, MOST, value.shape)
    new = np.where(np.isfinite(value) & (value != 0), np.sign(value) * draw, value)
    return coarse(new)


def coarse(value: NDArray[Any]) -> NDArray[Any]:
    """Round to what float16 holds."""
    return np.asarray(np.round(value / STEP) * STEP, np.float32)


def run(model: onnx.ModelProto, feeds: Arrays) -> dict[str, NDArray[Any]]:
    """Run a graph in float32, and give every tensor that a node makes."""
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    del bare.graph.output[:]
    bare.graph.output.extend(
        onnx.ValueInfoProto(name=name) for node in model.graph.node for name in node.output if name
    )
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "m.onnx")
        save(bare, path)
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))


def drawn_feeds(model: onnx.ModelProto, seed: int = 0) -> dict[str, NDArray[Any]]:
    """Draw inputs for a graph of fixed sizes; an open first dimension is 1, and others are 8.

    Raises:
        ValueError: an input has a type that is not drawn.
    """
    rng, found = np.random.default_rng(seed), {}
    for port in graph_inputs(model):
        kind = port.type.tensor_type
        shape = [
            dim.dim_value if dim.HasField("dim_value") else 8 if axis else 1 for axis, dim in enumerate(kind.shape.dim)
        ]
        if kind.elem_type == TensorProto.FLOAT:
            found[port.name] = rng.standard_normal(shape).astype(np.float32)
        elif kind.elem_type in (TensorProto.INT64, TensorProto.INT32):
            found[port.name] = rng.integers(0, 2, shape).astype(helper.tensor_dtype_to_np_dtype(kind.elem_type))
        else:
            raise ValueError(f"expected floats or integers, got element type {kind.elem_type} of {port.name}")
    return found
