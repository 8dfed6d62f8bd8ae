"""Hostile ONNX files: harmed in their nodes, tensors, names, types and promises, and in their bytes."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.attack import mutate
from benchmarks.attack.attempt import Attempt

NAMES = ("branches", "attention", "loop", "function", "quantised", "beside")
OPERATORS = (
    "Conv", "ConvTranspose", "BatchNormalization", "Add", "Mul", "Relu", "Reshape", "Transpose", "Concat", "Split",
    "Slice", "Gather", "Pad", "Resize", "Softmax", "Gemm", "MatMul", "AveragePool", "MaxPool", "GlobalAveragePool",
    "ReduceMean", "Constant", "ConstantOfShape", "Shape", "Expand", "Tile", "Range", "Loop", "If", "Scan", "Einsum",
    "Cast", "Identity",
    "Dropout", "Clip", "Squeeze", "Unsqueeze", "Flatten", "LayerNormalization", "InstanceNormalization",
    "GroupNormalization", "Where", "NonZero", "TopK", "LSTM", "QLinearConv", "StringNormalizer", "NoSuchOp", "",
)  # fmt: skip
SIZES = (0, 1, -1, 2, 3, 7, 2**20, 2**31 - 1, 2**31, 2**40, 2**62, -(2**63), 2**63 - 1)


def text(rng: Random) -> str:
    """Draw a name that protobuf can hold."""
    return rng.choice(mutate.TEXTS).encode("utf-8", "replace").decode()


@cache
def _read(file: Path) -> bytes:
    return file.read_bytes()


def hostile_graph(work: Path, originals: Path, rng: Random) -> Attempt:
    """Make an ONNX file that was harmed, and a command that reads it."""
    file = work / "x.onnx"
    said = harm(file, originals / "graphs", rng)
    pick = rng.random()
    if pick < 0.45:
        more = [word for word in ("--border-maps", "--fail-on-rollback", "--json") if rng.random() < 0.2]
        output = rng.choice(["y.onnx"] * 6 + ["x.onnx", "no/y.onnx", "dir", "../keep", "x.onnx/y"])
        return Attempt(("fuse", "x.onnx", "-o", output, *more), said, writes=(output,))
    if pick < 0.8:
        words = ("lint", "x.onnx", "--target", rng.choice(["ort_mobile", "tensorrt"]))
        return Attempt(words, said)
    shapes = ("--input", "x:b=2x2x4x4") if rng.random() < 0.3 else ()
    if pick < 0.9:
        return Attempt(
            ("x.onnx", *shapes, "-o", "out", "--no-bench", "--mutants", "none"), said, writes=("out", "out/*")
        )
    if pick < 0.97:
        return Attempt(("diff", "x.onnx"), said)
    words = ("x.onnx", *shapes, "-o", "out", "--no-bench", "--mutants", "none")
    return Attempt((*words, *(["--fuse"] if rng.random() < 0.5 else [])), said, writes=("out", "out/*"), full=True)


def harm(file: Path, graphs: Path, rng: Random) -> str:
    """Write a hostile graph to ``file``; where there is one already, mostly of that."""
    import onnx

    if file.exists() and rng.random() < 0.6:
        name, content = file.name, file.read_bytes()
    else:
        name = rng.choice(NAMES)
        content = _read(graphs / f"{name}.onnx")
    if name == "beside":
        shutil.copyfile(graphs / "beside.bin", file.with_name("beside.bin"))
    pick = rng.random()
    if pick < 0.25:
        file.write_bytes(mutate.bytes_of(content, rng))
        return f"{name}: bytes"
    if pick < 0.28:
        file.write_bytes(content)
        return mutate.place_file(file, rng)
    if pick < 0.34:
        kind, make = rng.choice(_WHOLE)
        file.write_bytes(make(rng).SerializeToString())
        return kind
    model = onnx.ModelProto.FromString(content)
    if rng.random() < 0.5:
        said = _past_the_door(model, rng)
    else:
        said = [_change(model, rng) for _ in range(rng.choice([1, 1, 1, 2, 2, 4]))]
        if name == "beside" or rng.random() < 0.06:
            said.append(_beside(model, file, rng))
    file.write_bytes(model.SerializePartialToString())
    return f"{name}: {', '.join(said)}"


def _change(model: Any, rng: Random) -> str:
    kind, act = rng.choice(_CHANGES)
    try:
        act(model, rng)
    except (IndexError, ValueError, TypeError):  # nothing of that kind in it, or what protobuf itself refuses
        return "nothing"
    return kind


def _past_the_door(model: Any, rng: Random) -> list[str]:
    """Make changes that ONNX's own checker does not mind: what is behind it is met only by these."""
    import onnx

    said: list[str] = []
    wanted = rng.choice([1, 2, 3, 5])
    for _ in range(25):
        changed = onnx.ModelProto.FromString(model.SerializeToString())
        kind = _change(changed, rng)
        try:
            onnx.checker.check_model(changed.SerializeToString())
            onnx.ModelProto.FromString(changed.SerializeToString())
        except Exception:  # noqa: S112  # the checker's errors share no base
            continue
        if kind != "nothing":
            model.CopyFrom(changed)
            said.append(f"valid {kind}")
        if len(said) == wanted:
            break
    return said or ["nothing"]


def _node(model: Any, rng: Random) -> Any:
    """Choose a node of the graph, of a graph inside it or of a function."""
    pools = [model.graph.node, *(function.node for function in model.functions)]
    pools += [a.g.node for node in model.graph.node for a in node.attribute if a.HasField("g")]
    return rng.choice(rng.choice([pool for pool in pools if pool]))


def _attribute(model: Any, rng: Random) -> None:
    node = _node(model, rng)
    attribute = rng.choice(node.attribute)
    match rng.randrange(7):
        case 0:
            node.attribute.remove(attribute)
        case 1:
            attribute.name = rng.choice(["pads", "strides", "group", "axis", "perm", "epsilon", "to", text(rng)])
        case 2:
            attribute.type = rng.randrange(15)
        case 3:
            attribute.ints[:] = [rng.choice(SIZES) for _ in range(rng.choice([0, 1, 2, 4, 5, 1000]))]
        case 4:
            attribute.i = rng.choice(SIZES)
        case 5:
            attribute.f = rng.choice([0.0, -1.0, float("nan"), float("inf"), 1e38])
        case _:
            node.attribute.append(attribute)


def _more_attributes(model: Any, rng: Random) -> None:
    from onnx import helper

    node = _node(model, rng)
    name = rng.choice(
        [
            "pads",
            "strides",
            "dilations",
            "group",
            "kernel_shape",
            "axis",
            "auto_pad",
            "perm",
            "output_shape",
            text(rng) or "q",
        ]
    )
    value = rng.choice(
        [
            [rng.choice(SIZES) for _ in range(rng.choice([1, 2, 4]))],
            rng.choice(SIZES),
            rng.choice([b"SAME_UPPER", b"SAME_LOWER", b"VALID", b"\xff\xfe"]),
            [1.5],
            -1.0,
        ]
    )
    if rng.random() < 0.1:
        del node.attribute[:]
    node.attribute.append(helper.make_attribute(name, value))


def _operator(model: Any, rng: Random) -> None:
    _node(model, rng).op_type = rng.choice((*OPERATORS, text(rng)))


def _domain(model: Any, rng: Random) -> None:
    _node(model, rng).domain = rng.choice(["ai.onnx", "com.microsoft", "own", "ai.onnx.ml", text(rng)])


def _names_of_edges(model: Any, rng: Random) -> None:
    node = _node(model, rng)
    edges = rng.choice([node.input, node.output])
    known = [name for other in model.graph.node for name in (*other.input, *other.output)]
    match rng.randrange(5):
        case 0:
            edges[rng.randrange(len(edges))] = rng.choice(known)  # a cycle, a name twice, or another wire
        case 1:
            edges[rng.randrange(len(edges))] = text(rng)
        case 2:
            del edges[rng.randrange(len(edges))]
        case 3:
            edges.append(rng.choice([*known, text(rng)]))
        case _:
            del edges[:]


def _cycle(model: Any, rng: Random) -> None:
    node = rng.choice(model.graph.node)
    node.input[0] = rng.choice([node.output[0], model.graph.node[-1].output[0]])


def _order(model: Any, rng: Random) -> None:
    nodes = list(model.graph.node)
    rng.shuffle(nodes)
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)


def _drop_or_double(model: Any, rng: Random) -> None:
    parts = rng.choice(
        [
            model.graph.node,
            model.graph.initializer,
            model.graph.input,
            model.graph.output,
            model.opset_import,
            model.functions,
        ]
    )
    at = rng.randrange(len(parts))
    if rng.random() < 0.5:
        del parts[at]
    else:
        parts.add().ParseFromString(parts[at].SerializeToString())


def _node_name(model: Any, rng: Random) -> None:
    for node in model.graph.node:
        node.name = text(rng) if rng.random() < 0.5 else "same"


def _rename_all(model: Any, rng: Random) -> None:
    """Give one tensor a wild name everywhere, so that the graph stays right."""
    known = sorted({name for node in model.graph.node for name in (*node.input, *node.output) if name})
    old, new = rng.choice(known), text(rng) or "n"
    for node in model.graph.node:
        for edges in (node.input, node.output):
            for at, name in enumerate(edges):
                if name == old:
                    edges[at] = new
    for value in (*model.graph.input, *model.graph.output, *model.graph.initializer, *model.graph.value_info):
        if value.name == old:
            value.name = new


def _dims(model: Any, rng: Random) -> None:
    value = rng.choice([*model.graph.input, *model.graph.output])
    kind = value.type.tensor_type
    match rng.randrange(8):
        case 0:
            rng.choice(kind.shape.dim).dim_value = rng.choice(SIZES)
        case 1:
            rng.choice(kind.shape.dim).dim_param = text(rng)
        case 2:
            kind.ClearField("shape")
        case 3:
            del kind.shape.dim[rng.randrange(len(kind.shape.dim))]
        case 4:
            kind.shape.dim.add().dim_value = rng.choice(SIZES)
        case 5:
            for _ in range(rng.choice([10, 5000])):
                kind.shape.dim.add().dim_value = 1
        case 6:
            value.type.Clear()
        case _:
            value.type.sequence_type.elem_type.tensor_type.elem_type = 1


def _type(model: Any, rng: Random) -> None:
    value = rng.choice([*model.graph.input, *model.graph.output])
    value.type.tensor_type.elem_type = rng.choice([*range(25), 99, -1, 2**30])


def _tensor(model: Any, rng: Random) -> None:
    tensors = [*model.graph.initializer]
    tensors += [a.t for node in model.graph.node for a in node.attribute if a.HasField("t")]
    tensor = rng.choice(tensors)
    match rng.randrange(9):
        case 0:
            tensor.dims[rng.randrange(len(tensor.dims))] = rng.choice(SIZES)
        case 1:
            tensor.dims.append(rng.choice(SIZES))
        case 2:
            tensor.data_type = rng.choice([*range(25), 99, -1])
        case 3:
            tensor.raw_data = mutate.bytes_of(tensor.raw_data, rng)
        case 4:
            tensor.ClearField("raw_data")
        case 5:
            tensor.float_data.extend([1.0, float("nan")])
        case 6:
            tensor.name = text(rng)
        case 7:
            tensor.raw_data = rng.choice([b"\0\0\xc0\x7f", b"\0\0\x80\x7f", b"\xff\xff\x7f\x7f"]) * (
                len(tensor.raw_data) // 4
            )
        case _:
            tensor.segment.begin, tensor.segment.end = 0, 2**62


def _opset(model: Any, rng: Random) -> None:
    entry = rng.choice(model.opset_import) if model.opset_import else model.opset_import.add()
    if rng.random() < 0.7:
        entry.version = rng.choice([-1, 0, 1, 6, 7, 9, 11, 13, 17, 21, 26, 27, 99, 2**40, -(2**63)])
    else:
        entry.domain = rng.choice(["ai.onnx", "com.microsoft", text(rng)])


def _header(model: Any, rng: Random) -> None:
    match rng.randrange(5):
        case 0:
            model.ir_version = rng.choice([-1, 0, 1, 3, 8, 13, 99, 2**62])
        case 1:
            model.producer_name = text(rng)
        case 2:
            model.ClearField(rng.choice(["graph", "opset_import", "ir_version"]))
        case 3:
            entry = model.metadata_props.add()
            entry.key, entry.value = rng.choice(["origin", "attn_export", text(rng)]), text(rng)
        case _:
            model.graph.name = text(rng)


def _metadata_of_node(model: Any, rng: Random) -> None:
    for node in model.graph.node:
        entry = node.metadata_props.add()
        entry.key = rng.choice(["pkg.torch.onnx.stack_trace", "namespace", "pkg.torch.onnx.name_scopes", "source"])
        entry.value = rng.choice([text(rng), "[", "[]", "{}", 'File "x.py", line 1, in f', "['', '', 'a']"])
        node.doc_string = text(rng)


def _function(model: Any, rng: Random) -> None:
    if not model.functions:
        made = model.functions.add()
        made.name, made.domain = "F", "own"
        made.input.append("a")
        made.output.append("a")
        node = model.graph.node[0]
        node.op_type, node.domain = "F", "own"
        return
    function = rng.choice(model.functions)
    match rng.randrange(4):
        case 0:  # a function that calls itself
            node = function.node.add()
            node.op_type, node.domain = function.name, function.domain
            node.input.extend(function.input)
            node.output.extend(function.output)
        case 1:
            del function.output[:]
        case 2:
            function.name = text(rng)
        case _:
            function.opset_import[0].version = rng.choice([0, 99, -1])


def _subgraph(model: Any, rng: Random) -> None:
    inner = model.graph.SerializeToString()  # a message cannot be copied into itself
    node = rng.choice(model.graph.node)
    attribute = node.attribute.add()
    attribute.name, attribute.type = rng.choice(["body", "then_branch", "else_branch"]), 5
    attribute.g.ParseFromString(inner)
    node.op_type = rng.choice(["Loop", "If", "Scan", node.op_type])


def _sparse(model: Any, rng: Random) -> None:
    sparse = model.graph.sparse_initializer.add()
    sparse.values.name, sparse.values.data_type = "sp", 1
    sparse.values.dims.append(2)
    sparse.values.float_data.extend([1, 2])
    sparse.indices.data_type = 7
    sparse.indices.dims.append(2)
    sparse.indices.int64_data.extend([0, rng.choice([1, -1, 2**40])])
    sparse.dims.append(rng.choice(SIZES))


def _quantisation(model: Any, rng: Random) -> None:
    note = model.graph.quantization_annotation.add()
    note.tensor_name = text(rng)


_CHANGES: list[tuple[str, Callable[[Any, Random], None]]] = [
    ("an attribute", _attribute),
    ("an attribute", _attribute),
    ("one attribute more", _more_attributes),
    ("one attribute more", _more_attributes),
    ("another operator", _operator),
    ("another operator", _operator),
    ("a domain", _domain),
    ("edges", _names_of_edges),
    ("edges", _names_of_edges),
    ("a cycle", _cycle),
    ("order", _order),
    ("less or double", _drop_or_double),
    ("names of nodes", _node_name),
    ("a wild name", _rename_all),
    ("dimensions", _dims),
    ("dimensions", _dims),
    ("a type", _type),
    ("a tensor", _tensor),
    ("a tensor", _tensor),
    ("an opset", _opset),
    ("the header", _header),
    ("notes of nodes", _metadata_of_node),
    ("a function", _function),
    ("a graph inside", _subgraph),
    ("a sparse tensor", _sparse),
    ("a quantisation note", _quantisation),
]


def _beside(model: Any, file: Path, rng: Random) -> str:
    """Lead the weights of a tensor somewhere else."""
    if not model.graph.initializer:
        return "nothing"
    tensor = rng.choice(model.graph.initializer)
    tensor.ClearField("raw_data")
    tensor.data_location = rng.choice([1, 1, 1, 0])
    del tensor.external_data[:]
    location = rng.choice(
        [
            "beside.bin",
            "../keep/thesis.tex",
            "/etc/passwd",
            "/dev/zero",
            "pipe.bin",
            "link.bin",
            "none.bin",
            ".",
            "",
            "a/../beside.bin",
            text(rng),
            "x.onnx",
        ]
    )
    if location == "pipe.bin" and not file.with_name(location).exists():
        os.mkfifo(file.with_name(location))
    if location == "link.bin" and not file.with_name(location).is_symlink():
        file.with_name(location).symlink_to(rng.choice(["/etc/passwd", "/dev/zero", "beside.bin"]))
    for key, value in (
        ("location", location),
        ("offset", rng.choice(["0", "-1", "4", "x", str(2**63), "9" * 5000, ""])),
        ("length", rng.choice(["0", "8", "-8", "x", str(2**62), str(2**64)])),
        (text(rng), text(rng)),
    ):
        if rng.random() < 0.8:
            entry = tensor.external_data.add()
            entry.key, entry.value = key, value
    return f"weights in {location[:20]!r}"


def _graph(nodes: list[Any], constants: list[Any] = [], outputs: list[Any] | None = None) -> Any:  # noqa: B006
    from onnx import TensorProto
    from onnx import helper as h

    picture = h.make_tensor_value_info("x", TensorProto.FLOAT, ["b", 2, 4, 4])
    out = h.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = h.make_graph(nodes, "g", [picture], outputs or [out], constants)
    return h.make_model(graph, opset_imports=[h.make_opsetid("", 18)], ir_version=10)


def _chain(rng: Random) -> Any:
    """So many nodes in a row that whoever follows them by recursion falls."""
    from onnx import helper as h

    count = rng.choice([1200, 1200, 1200, 3000])
    operator = rng.choice(["Relu", "Identity", "Neg", "Add"])
    names = ["x", *(f"t{i}" for i in range(count - 1)), "y"]
    return _graph(
        [h.make_node(operator, [a] * (2 if operator == "Add" else 1), [b], b) for a, b in itertools.pairwise(names)]
    )


def _huge(rng: Random) -> Any:
    """Make a small graph that asks for a large tensor."""
    import numpy as np
    from onnx import helper as h
    from onnx import numpy_helper

    size = rng.choice([2**31, 2**33, 2**40, 2**62])
    shape = numpy_helper.from_array(np.array([size], np.int64), "s")
    operator = rng.choice(["ConstantOfShape", "Expand", "Tile"])
    made = {
        "ConstantOfShape": [
            h.make_node("ConstantOfShape", ["s"], ["h"], "h"),
            h.make_node("Identity", ["x"], ["y"], "i"),
        ],
        "Expand": [
            h.make_node("ReduceSum", ["x"], ["r"], "r", keepdims=0),
            h.make_node("Expand", ["r", "s"], ["y"], "e"),
        ],
        "Tile": [
            h.make_node("ReduceSum", ["x"], ["r"], "r", keepdims=0),
            h.make_node("Expand", ["r", "one"], ["o"], "e"),
            h.make_node("Tile", ["o", "s"], ["y"], "t"),
        ],
    }[operator]
    return _graph(made, [shape, numpy_helper.from_array(np.array([1], np.int64), "one")])


def _endless(rng: Random) -> Any:
    """Make a loop that would go on for years."""
    import numpy as np
    from onnx import TensorProto as T
    from onnx import helper as h
    from onnx import numpy_helper

    flag = h.make_tensor_value_info("c", T.BOOL, [])
    body = h.make_graph(
        [h.make_node("Identity", ["c"], ["d"], "go"), h.make_node("Relu", ["s"], ["t"], "r")],
        "body",
        [h.make_tensor_value_info("i", T.INT64, []), flag, h.make_tensor_value_info("s", T.FLOAT, None)],
        [h.make_tensor_value_info("d", T.BOOL, []), h.make_tensor_value_info("t", T.FLOAT, None)],
    )
    times = numpy_helper.from_array(np.array(rng.choice([2**40, 2**62]), np.int64), "n")
    yes = numpy_helper.from_array(np.array(True), "yes")
    return _graph([h.make_node("Loop", ["n", "yes", "x"], ["y"], "loop", body=body)], [times, yes])


class _Bytes:
    """A message that protobuf itself would not make."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def SerializeToString(self) -> bytes:  # noqa: N802  # protobuf's name
        """As it is."""
        return self.content


def _deep(rng: Random) -> Any:
    """Graphs in graphs in graphs, put together byte by byte: protobuf itself stops at a hundred levels."""

    def field(number: int, content: bytes) -> bytes:
        length, size = len(content), bytearray()
        while length > 127:
            size.append(length & 127 | 128)
            length >>= 7
        return bytes([number << 3 | 2, *size, length]) + content

    name = field(2, b"g")
    graph = name + field(1, field(4, b"Identity") + field(1, b"x") + field(2, b"y")) + field(12, field(1, b"y"))
    for _ in range(rng.choice([8, 20, 30, 100, 1000])):
        branch = [field(5, field(1, word) + field(6, graph) + b"\xa0\x01\x05") for word in (b"then_branch",)]
        graph = (
            name
            + field(1, field(4, b"If") + field(1, b"x") + field(2, b"y") + b"".join(branch))
            + field(12, field(1, b"y"))
        )
    return _Bytes(b"\x08\x0a" + field(7, graph) + field(8, b"\x10\x12"))


def _wide(rng: Random) -> Any:
    """One node with thousands of inputs, or thousands of nodes side by side."""
    from onnx import helper as h

    count = rng.choice([500, 3000])
    if rng.random() < 0.5:
        return _graph([h.make_node("Concat", ["x"] * count, ["y"], "c", axis=rng.choice([0, 1, 99, -99]))])
    return _graph(
        [h.make_node("Relu", ["x"], [f"t{i}"], f"r{i}") for i in range(count)] + [h.make_node("Relu", ["x"], ["y"])]
    )


def _empty(_rng: Random) -> Any:
    import onnx

    return onnx.ModelProto()


_WHOLE: list[tuple[str, Callable[[Random], Any]]] = [
    ("a long chain", _chain),
    ("a huge tensor", _huge),
    ("an endless loop", _endless),
    ("deep graphs", _deep),
    ("a wide graph", _wide),
    ("nothing", _empty),
]
