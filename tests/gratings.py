"""A small classifier that is right without training: gratings of four kinds, oriented filters, a fitted last layer.

Its outputs vary with the image, so that int8 can be judged on it; it is the same on every machine.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from attn_export.types import Array

#: Waves along each axis, of a picture of 16 by 16, by class.
KINDS = ((0, 2), (2, 0), (0, 4), (3, 3))
SIZE = 16


def picture(kind: int, seed: int, noise: float = 1.0) -> Array:
    """Draw one picture, ``1 16 16``."""
    random = np.random.default_rng((kind, seed))
    y, x = np.mgrid[:SIZE, :SIZE] / SIZE * 2 * np.pi
    rows, columns = KINDS[kind]
    wave = np.cos(rows * y + columns * x + random.uniform(0, 2 * np.pi))
    return np.asarray(random.uniform(0.5, 2) * wave + noise * random.standard_normal((SIZE, SIZE)), np.float32)[None]


def write(folder: Path, count: int, noise: float = 1.0) -> Path:
    """Write pictures, ``folder/CLASS/NUMBER.npy``."""
    for index in range(count):
        kind = index % len(KINDS)
        place = folder / str(kind)
        place.mkdir(parents=True, exist_ok=True)
        np.save(place / f"{index}.npy", picture(kind, index, noise))
    return folder


def model() -> onnx.ModelProto:
    """Make the classifier; its last layer is fitted to pictures that no test sees."""
    y, x = np.mgrid[:5, :5] / SIZE * 2 * np.pi
    filters = np.stack([np.cos(r * y + c * x + phase) for r, c in KINDS for phase in (0, np.pi / 2)])[:, None]
    filters = (filters - filters.mean((2, 3), keepdims=True)).astype(np.float32)
    mix = np.eye(8, dtype=np.float32)[:, :, None, None] + 0.1
    pictures = np.stack([picture(index % 4, 10_000 + index) for index in range(200)])
    wanted = np.eye(4)[np.arange(200) % 4]
    features = np.column_stack([_features(pictures, filters, mix), np.ones(200)])
    head = np.linalg.lstsq(features, wanted, rcond=None)[0]
    constants = {
        "filters": filters,
        "mix": mix,
        "head": head[:-1].T.astype(np.float32),
        "bias": head[-1].astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "filters"], ["a"], "first", pads=[2, 2, 2, 2]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "mix"], ["c"], "second"),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("GlobalAveragePool", ["d"], ["e"]),
        helper.make_node("Flatten", ["e"], ["f"]),
        helper.make_node("Gemm", ["f", "head", "bias"], ["scores"], "last", transB=1),
    ]
    ports = [
        helper.make_tensor_value_info(*port)
        for port in (
            ("x", TensorProto.FLOAT, ("b", 1, SIZE, SIZE)),
            ("scores", TensorProto.FLOAT, ("b", 4)),
        )
    ]
    tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "gratings", ports[:1], ports[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def _features(pictures: Array, filters: Array, mix: Array) -> Array:
    padded = np.pad(pictures[:, 0], ((0, 0), (2, 2), (2, 2)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (5, 5), (1, 2))
    first = np.maximum(np.einsum("nhwij,cij->nchw", windows, filters[:, 0]), 0)
    return np.asarray(np.maximum(np.einsum("nchw,dc->ndhw", first, mix[:, :, 0, 0]), 0).mean((2, 3)))
