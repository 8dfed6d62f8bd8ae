"""Run an ONNX model in float64: the reference evaluator of the onnx package, its slow operators done by PyTorch."""

# ruff: noqa: ARG002 - the evaluator gives every attribute by name
from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

_NARROW = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)
_SAMPLING = {b"bilinear": b"linear", b"bicubic": b"cubic"}


def widened(model: onnx.ModelProto, folder: Path | None = None) -> onnx.ModelProto:
    """A copy whose constants are float64, and whose casts to narrower floats cast to float64."""
    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    _widen(wide.graph, folder)
    return wide


def _widen(graph: onnx.GraphProto, folder: Path | None) -> None:
    for tensor in graph.initializer:
        _widen_tensor(tensor, folder)
    for info in (*graph.input, *graph.output):
        if info.type.tensor_type.elem_type in _NARROW:
            info.type.tensor_type.elem_type = TensorProto.DOUBLE
    del graph.value_info[:]
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                _widen_tensor(attribute.t, folder)
            elif attribute.type == onnx.AttributeProto.GRAPH:
                _widen(attribute.g, folder)
            elif attribute.name in ("to", "dtype") and attribute.i in _NARROW:
                attribute.i = TensorProto.DOUBLE
            elif node.op_type == "GridSample" and attribute.name == "mode":
                # The evaluator knows only the names since opset 20, whatever the model's.
                attribute.s = _SAMPLING.get(attribute.s, attribute.s)
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name in ("value_float", "value_floats"):
            old = node.attribute[0]
            array = np.array(old.f if old.name == "value_float" else list(old.floats), dtype=np.float64)
            del node.attribute[:]
            node.attribute.append(helper.make_attribute("value", numpy_helper.from_array(array)))


def _widen_tensor(tensor: TensorProto, folder: Path | None) -> None:
    if tensor.data_type in _NARROW:
        array = numpy_helper.to_array(tensor, base_dir=str(folder or "")).astype(np.float64)
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


class Conv(OpRun):
    """Convolution by PyTorch; asymmetric and automatic padding by the operator's own definition."""

    op_domain = ""

    def _run(  # type: ignore[no-untyped-def]
        self, X, W, B=None, auto_pad=None, dilations=None, group=None, kernel_shape=None, pads=None, strides=None
    ):
        """Pad, then convolve."""
        rank = X.ndim - 2
        strides, dilations = list(strides or [1] * rank), list(dilations or [1] * rank)
        begins, ends = _pads(auto_pad, pads, X.shape[2:], W.shape[2:], strides, dilations)
        flat = [n for pair in reversed(list(zip(begins, ends, strict=True))) for n in pair]
        x = F.pad(_torch(X), flat)
        convolve: Any = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[rank]
        bias = None if B is None else _torch(B)
        y = convolve(x, _torch(W), bias, strides, 0, dilations, group or 1)
        return (y.numpy(),)


def _pads(
    mode: str | None,
    pads: Sequence[int] | None,
    sizes: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
) -> tuple[list[int], list[int]]:
    rank = len(sizes)
    if mode in (None, "NOTSET", ""):
        given = list(pads or [0] * 2 * rank)
        return given[:rank], given[rank:]
    if mode == "VALID":
        return [0] * rank, [0] * rank
    begins, ends = [], []
    for size, taps, step, dilation in zip(sizes, kernel, strides, dilations, strict=True):
        total = max(0, (-(-size // step) - 1) * step + dilation * (taps - 1) + 1 - size)
        first = total // 2 if mode == "SAME_UPPER" else total - total // 2
        begins.append(first)
        ends.append(total - first)
    return begins, ends


def _torch(array: NDArray[Any]) -> torch.Tensor:
    return torch.from_numpy(np.require(array, requirements=["C", "W"]))


class Pad(OpRun):
    """Padding, negative amounts included, which the reference refuses."""

    op_domain = ""

    def _run(self, data, pads=None, constant_value=None, axes=None, mode=None, value=None):  # type: ignore[no-untyped-def]
        """Crop, then pad."""
        axes = range(data.ndim) if axes is None else axes
        count, crop, grow = len(pads) // 2, [slice(None)] * data.ndim, [(0, 0)] * data.ndim
        for number, axis in enumerate(axes):
            left, right = int(pads[number]), int(pads[number + count])
            crop[axis] = slice(max(0, -left), data.shape[axis] - max(0, -right))
            grow[axis] = (max(0, left), max(0, right))
        if mode in ("reflect", "edge", "wrap"):
            return (np.pad(data[tuple(crop)], grow, mode=mode),)
        given = value if constant_value is None else constant_value
        fill = 0.0 if given is None else np.asarray(given).reshape(-1)[0]
        return (np.pad(data[tuple(crop)], grow, constant_values=fill),)


class BatchNormalization(OpRun):
    """Batch norm in inference; the reference's own rounds through float32 in some releases."""

    op_domain = ""

    def _run(self, x, scale, bias, mean, var, epsilon=None, momentum=None, training_mode=None, **_):  # type: ignore[no-untyped-def]
        """Normalise with the running statistics."""
        shape = (-1, *(1,) * (x.ndim - 2))
        factor = scale / np.sqrt(var + (1e-5 if epsilon is None else epsilon))
        return (x * factor.reshape(shape) + (bias - mean * factor).reshape(shape),)


class Float64:
    """A model ready to run in float64."""

    def __init__(self, model: onnx.ModelProto, folder: Path | None = None) -> None:
        self._names = [o.name for o in model.graph.output]
        self._run = ReferenceEvaluator(widened(model, folder), new_ops=[Conv, BatchNormalization, Pad])

    def __call__(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run; floating inputs are widened."""
        wide = {n: a.astype(np.float64) if np.issubdtype(a.dtype, np.floating) else a for n, a in feeds.items()}
        with torch.no_grad(), np.errstate(all="ignore"):
            results = self._run.run(None, wide)
        return dict(zip(self._names, results, strict=True))
