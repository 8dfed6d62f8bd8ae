"""Small ONNX graphs: those TensorRT fuses, and those it refuses, each for one reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

X = helper.make_tensor_value_info
FLOAT = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16}


def save(path: Path, nodes, inputs, outputs, weights: dict[str, NDArray] | None = None, opset: int = 18) -> Path:
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in (weights or {}).items()]
    graph = helper.make_graph(nodes, path.stem, inputs, outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    onnx.save(model, path)
    return path


def _draw(*shape: int, dtype: str = "float32") -> NDArray:
    return (np.random.default_rng(0).standard_normal(shape) * 0.1).astype(dtype)


def attention(
    path: Path, dtype: str = "float32", blocks: int = 1, batch: int | str = 2, key: int = 16, value: int = 16
) -> Path:
    """Self-attention blocks with a residual; Q is scaled before the first product, the form NVIDIA asks for."""
    width, heads, tokens = 64, 4, 49
    wide = {"q": heads * key, "k": heads * key, "v": heads * value}
    nodes, weights = [], {}
    weights["split"] = np.array([0, tokens, heads, -1])
    weights["join"] = np.array([0, tokens, heads * value])
    weights["scale"] = np.array(key**-0.5, dtype)
    now = "x"
    for i in range(blocks):
        for part, order in (("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3])):
            weights[f"w{part}{i}"] = _draw(width, wide[part], dtype=dtype)
            nodes += [
                helper.make_node("MatMul", [now, f"w{part}{i}"], [f"{part}p{i}"], name=f"project_{part}{i}"),
                helper.make_node("Reshape", [f"{part}p{i}", "split"], [f"{part}s{i}"], name=f"split_{part}{i}"),
                helper.make_node("Transpose", [f"{part}s{i}"], [f"{part}t{i}"], name=f"heads_{part}{i}", perm=order),
            ]
        weights[f"wo{i}"] = _draw(wide["v"], width, dtype=dtype)
        nodes += [
            helper.make_node("Mul", [f"qt{i}", "scale"], [f"qn{i}"], name=f"scale{i}"),
            helper.make_node("MatMul", [f"qn{i}", f"kt{i}"], [f"s{i}"], name=f"scores{i}"),
            helper.make_node("Softmax", [f"s{i}"], [f"p{i}"], name=f"softmax{i}", axis=-1),
            helper.make_node("MatMul", [f"p{i}", f"vt{i}"], [f"o{i}"], name=f"weigh{i}"),
            helper.make_node("Transpose", [f"o{i}"], [f"ot{i}"], name=f"back{i}", perm=[0, 2, 1, 3]),
            helper.make_node("Reshape", [f"ot{i}", "join"], [f"oj{i}"], name=f"join{i}"),
            helper.make_node("MatMul", [f"oj{i}", f"wo{i}"], [f"po{i}"], name=f"project_o{i}"),
            helper.make_node("Add", [f"po{i}", now], [f"r{i}"], name=f"residual{i}"),
        ]
        now = f"r{i}"
    nodes.append(helper.make_node("Identity", [now], ["y"], name="out"))
    shape = [batch, tokens, width]
    return save(path, nodes, [X("x", FLOAT[dtype], shape)], [X("y", FLOAT[dtype], shape)], weights)


def branches(path: Path, fused: bool) -> Path:
    """A RepVGG block at inference: three branches and a ReLU, or the one convolution they are equal to."""
    weights = {"w3": _draw(16, 16, 3, 3), "b3": _draw(16)}
    three = helper.make_node("Conv", ["x", "w3", "b3"], ["c3"], name="conv3", pads=[1, 1, 1, 1])
    if fused:
        nodes = [three, helper.make_node("Relu", ["c3"], ["y"], name="relu")]
    else:
        weights |= {"w1": _draw(16, 16, 1, 1), "b1": _draw(16), "g": _draw(16, 1, 1)}
        nodes = [
            three,
            helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], name="conv1"),
            helper.make_node("Mul", ["x", "g"], ["i"], name="identity"),
            helper.make_node("Add", ["c3", "c1"], ["a"], name="add1"),
            helper.make_node("Add", ["a", "i"], ["s"], name="add2"),
            helper.make_node("Relu", ["s"], ["y"], name="relu"),
        ]
    shape = [1, 16, 32, 32]
    return save(path, nodes, [X("x", FLOAT["float32"], shape)], [X("y", FLOAT["float32"], shape)], weights)


def convolution(path: Path, batch: int | str = 1) -> Path:
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], name="conv", pads=[1, 1, 1, 1])]
    return save(
        path,
        nodes,
        [X("x", FLOAT["float32"], [batch, 4, 8, 8])],
        [X("y", FLOAT["float32"], [batch, 8, 8, 8])],
        {"w": _draw(8, 4, 3, 3)},
    )


def nonzero(path: Path) -> Path:
    nodes = [
        helper.make_node("Relu", ["x"], ["r"], name="first"),
        helper.make_node("NonZero", ["r"], ["y"], name="find"),
    ]
    return save(path, nodes, [X("x", FLOAT["float32"], [1, 4])], [X("y", TensorProto.INT64, None)])


def two_refused(path: Path) -> Path:
    nodes = [
        helper.make_node("DFT", ["x"], ["d"], name="dft"),
        helper.make_node("Unique", ["d"], ["y"], name="unique"),
    ]
    return save(path, nodes, [X("x", FLOAT["float32"], [1, 4, 8, 2])], [X("y", FLOAT["float32"], None)])


def col2im(path: Path) -> Path:
    nodes = [helper.make_node("Col2Im", ["x", "size", "block"], ["y"], name="fold")]
    weights = {"size": np.array([8, 8]), "block": np.array([3, 3])}
    return save(path, nodes, [X("x", FLOAT["float32"], [1, 36, 36])], [X("y", FLOAT["float32"], None)], weights)


def quantised(path: Path) -> Path:
    """A convolution and a ReLU in explicit int8: symmetric activations, weights by channel, the bias in float32."""
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], name="quantize"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["xd"], name="dequantize"),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"], name="weights", axis=0),
        helper.make_node("Conv", ["xd", "wd", "b"], ["c"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"], name="relu"),
        helper.make_node("QuantizeLinear", ["r", "s", "z"], ["rq"], name="quantize_out"),
        helper.make_node("DequantizeLinear", ["rq", "s", "z"], ["y"], name="dequantize_out"),
    ]
    weights = {
        "s": np.float32(0.1),
        "z": np.int8(0),
        "w": np.random.default_rng(0).integers(-127, 128, (32, 32, 3, 3)).astype(np.int8),
        "ws": np.full(32, 0.01, np.float32),
        "wz": np.zeros(32, np.int8),
        "b": _draw(32),
    }
    shape = [1, 32, 16, 16]
    return save(path, nodes, [X("x", FLOAT["float32"], shape)], [X("y", FLOAT["float32"], shape)], weights)


def uint8_activations(path: Path) -> Path:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], name="quantize"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], name="dequantize"),
    ]
    ports = [X("x", FLOAT["float32"], [1, 4])], [X("y", FLOAT["float32"], [1, 4])]
    return save(path, nodes, *ports, {"s": np.float32(0.1), "z": np.uint8(128)})


def int32_bias(path: Path) -> Path:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], name="quantize"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["xd"], name="dequantize"),
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["wd"], name="weights"),
        helper.make_node("DequantizeLinear", ["b", "s", "zb"], ["bd"], name="bias"),
        helper.make_node("Conv", ["xd", "wd", "bd"], ["y"], name="conv"),
    ]
    weights = {
        "s": np.float32(0.1),
        "z": np.int8(0),
        "zb": np.int32(0),
        "w": np.ones((4, 4, 3, 3), np.int8),
        "b": np.zeros(4, np.int32),
    }
    return save(path, nodes, [X("x", FLOAT["float32"], [1, 4, 8, 8])], [X("y", FLOAT["float32"], None)], weights)


def attention_operator(path: Path) -> Path:
    """Opset 23's Attention in float32, for which there is no dedicated kernel."""
    nodes = [helper.make_node("Attention", ["q", "k", "v"], ["y"], name="attend")]
    ports = [X(name, FLOAT["float32"], [1, 4, 16, 8]) for name in "qkv"]
    return save(path, nodes, ports, [X("y", FLOAT["float32"], [1, 4, 16, 8])], opset=23)


def needs_scratch(path: Path) -> Path:
    """Two large products with a softmax between them: more than a megabyte between kernels."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"], name="widen"),
        helper.make_node("Softmax", ["m"], ["s"], name="softmax"),
        helper.make_node("MatMul", ["s", "v"], ["y"], name="narrow"),
    ]
    ports = [X("x", FLOAT["float32"], [1024, 64])], [X("y", FLOAT["float32"], [1024, 64])]
    return save(path, nodes, *ports, {"w": _draw(64, 1024), "v": _draw(1024, 64)})
