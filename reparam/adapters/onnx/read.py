"""ONNX → small graph: what is linear is read, everything else stays opaque.

Initializers that a caller may override, operators with sub-graphs, casts and quantisation are opaque.
"""

# ruff: noqa: ARG002 - the readers of operators share one signature
from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper

from attn_export.reparam import ir
from attn_export.reparam.adapters.onnx.border import writes
from attn_export.reparam.adapters.onnx.constants import alive, settle
from attn_export.reparam.adapters.onnx.nodes import captured, scope_of
from attn_export.reparam.types import Dim
from attn_export.types import Array

At = Mapping[str, Any]
#: The default of batch norms, which the standard writes in float32.
_EPSILON = float(np.float32(1e-5))
_PREFER_FLOOR = b"round_prefer_floor"
_FLOATS: dict[int, str] = {
    TensorProto.FLOAT: "float32",
    TensorProto.FLOAT16: "float16",
    TensorProto.BFLOAT16: "bfloat16",
    TensorProto.DOUBLE: "float64",
}


class OnnxReader:
    """Reads one model. ``graph`` is the small graph; nodes carry their index in the model as ``host``."""

    def __init__(
        self, model: onnx.ModelProto, hints: Mapping[str, tuple[int, ...]], folder: Path | None = None
    ) -> None:
        self.model = model
        self.opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
        self.shapes, self.constants = settle(model, self.opset, hints, folder)
        nodes: list[ir.Node] = []
        living = alive(model.graph, self.constants)
        written = writes(model.graph, living, self.constants, self.shapes)
        inner = {index for write in written.values() for index in write.inner}
        for index, node in enumerate(model.graph.node):
            if index in written:
                write, name = written[index], node.name or f"{node.op_type}_{index}"
                nodes.append(ir.Node(name, write.op, (write.base,), node.output[0], scope_of(node), index))
            elif index in living and index not in inner:
                nodes += self._read(index, node)
        names = {n for node in nodes for n in (*node.inputs, node.output)} | {i.name for i in model.graph.input}
        values = {n: ir.Value(n, self.shapes.shape(n), self.shapes.sizes(n), self._dtype(n)) for n in names}
        self.graph = ir.Graph(
            nodes,
            values,
            tuple(i.name for i in model.graph.input),
            frozenset(o.name for o in model.graph.output),
        )

    def _dtype(self, name: str) -> str:
        return _FLOATS.get(self.shapes.dtype(name), "other")

    def _read(self, index: int, node: NodeProto) -> list[ir.Node]:
        scope = scope_of(node)
        outside = captured(node)
        inputs = tuple(n for n in (*node.input, *outside) if n and not self.constants.known(n))
        outputs = [n for n in node.output if n]
        name = node.name or f"{node.op_type}_{index}"
        read: list[tuple[ir.Op, tuple[str, ...], str]] | None = None
        kinds = {self._dtype(n) for n in (*inputs[:1], *outputs)}  # an operator of the algebra keeps the type
        if node.domain in ("", "ai.onnx") and inputs and kinds.isdisjoint({"other"}) and not outside:
            read = self._linear(node, inputs)
        if read is None:
            kind = node.op_type if not node.domain else f"{node.domain}.{node.op_type}"
            read = [(ir.Opaque(kind), inputs, output) for output in outputs]
        return [ir.Node(name, op, args, output, scope, index) for op, args, output in read]

    def _linear(self, node: NodeProto, inputs: tuple[str, ...]) -> list[tuple[ir.Op, tuple[str, ...], str]] | None:
        """Read a node as operators of the algebra; None if it is none."""
        at = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        output = node.output[0]
        if node.op_type == "Split":
            return self._split(node, at)
        method = getattr(self, f"_op_{node.op_type.lower()}", None)
        if method is None or sum(1 for n in node.output if n) != 1:
            return None
        op = method(node, at)
        if op is None:
            return None
        if isinstance(op, ir.Concat) or (isinstance(op, ir.Sum) and len(op.factors) > 1):
            return [(op, tuple(node.input), output)]
        return [(op, inputs[:1], output)] if len(inputs) == 1 else None

    def _const(self, node: NodeProto, place: int) -> Array | None:
        """Return a floating constant in float64; None if absent, not constant, empty or not finite."""
        if len(node.input) <= place or not node.input[place]:
            return None
        array = self.constants.exact(node.input[place])
        if array is None:
            return None
        wide = np.asarray(array).astype(np.float64, copy=False)
        return wide if wide.size and _finite(wide) else None

    def _has(self, node: NodeProto, place: int) -> bool:
        return len(node.input) > place and bool(node.input[place])

    def _ints(self, node: NodeProto, place: int, attribute: Any = None) -> list[int] | None:
        """Integers from an input, or from the attribute of older opsets."""
        if self._has(node, place):
            array = self.constants.get(node.input[place])
            return None if array is None else [int(n) for n in np.asarray(array).reshape(-1)]
        return None if attribute is None else [int(n) for n in attribute]

    def _rank(self, name: str) -> int | None:
        shape = self.shapes.shape(name)
        return None if shape is None else len(shape)

    def _axis(self, node: NodeProto, axis: int) -> int | None:
        rank = self._rank(node.input[0])
        return axis if axis >= 0 else None if rank is None else axis + rank

    def _window(
        self, node: NodeProto, at: At, kernel: list[int]
    ) -> tuple[tuple[int, ...], tuple[int, ...], tuple[tuple[int, int], ...]] | None:
        """Strides, dilations and pads of a sliding window."""
        rank = len(kernel)
        strides = tuple(at.get("strides") or [1] * rank)
        dilations = tuple(at.get("dilations") or [1] * rank)
        pads = list(at.get("pads") or [0] * 2 * rank)
        mode = at.get("auto_pad", b"NOTSET")
        if mode in (b"SAME_UPPER", b"SAME_LOWER"):
            shape = self.shapes.shape(node.input[0])
            for n in range(rank):
                reach = dilations[n] * (kernel[n] - 1) + 1
                size = None if shape is None else shape[n + 2]
                if strides[n] == 1:
                    total = reach - 1
                elif isinstance(size, int):
                    total = max(0, (-(-size // strides[n]) - 1) * strides[n] + reach - size)
                else:
                    return None
                small = total // 2
                pads[n], pads[n + rank] = (small, total - small) if mode == b"SAME_UPPER" else (total - small, small)
        elif mode == b"VALID":
            pads = [0] * 2 * rank
        return strides, dilations, tuple((pads[n], pads[n + rank]) for n in range(rank))

    def _op_conv(self, node: NodeProto, at: At) -> ir.Op | None:
        weight, bias = self._const(node, 1), self._const(node, 2)
        if weight is None or (bias is None and self._has(node, 2)):
            return None
        window = self._window(node, at, list(weight.shape[2:])) if weight.ndim > 2 else None
        if window is None or weight.shape[0] % at.get("group", 1) or (bias is not None and len(bias) != len(weight)):
            return None
        return ir.Conv(weight, bias, window[0], window[1], at.get("group", 1), window[2])

    def _op_convtranspose(self, node: NodeProto, at: At) -> ir.Op | None:
        weight, bias = self._const(node, 1), self._const(node, 2)
        if weight is None or (bias is None and self._has(node, 2)) or "output_shape" in at:
            return None
        if at.get("auto_pad", b"NOTSET") != b"NOTSET" or weight.ndim < 3 or weight.shape[0] % at.get("group", 1):
            return None
        window = self._window(node, at, list(weight.shape[2:]))
        assert window is not None
        extra = tuple(at.get("output_padding") or [0] * (weight.ndim - 2))
        return ir.ConvTranspose(weight, bias, window[0], window[1], at.get("group", 1), window[2], extra)

    def _op_batchnormalization(self, node: NodeProto, at: At) -> ir.Op | None:
        gamma, beta, mean, var = (self._const(node, n) for n in range(1, 5))
        if gamma is None or beta is None or mean is None or var is None or at.get("training_mode", 0):
            return None
        if len({array.shape for array in (gamma, beta, mean, var)}) > 1 or gamma.ndim != 1:
            return None
        factor = gamma / np.sqrt(var + at.get("epsilon", _EPSILON))
        if not np.isfinite(factor).all():
            return None
        return ir.Affine(factor, beta - mean * factor, axis=1)

    def _pair(self, node: NodeProto) -> tuple[Array | None, int] | None:
        """Return the constant operand of a binary operator and its place; (None, 0) where both vary."""
        known = [self.constants.known(name) for name in node.input]
        if not any(known):
            return None, 0
        place = known.index(True)
        array = self._const(node, place)
        return None if array is None or all(known) else (array, place)

    def _op_add(self, node: NodeProto, at: At) -> ir.Op | None:
        found = self._pair(node)
        if found is None:
            return None
        return ir.Sum((1.0, 1.0)) if found[0] is None else ir.Affine(None, found[0])

    def _op_sub(self, node: NodeProto, at: At) -> ir.Op | None:
        found = self._pair(node)
        if found is None:
            return None
        array, place = found
        if array is None:
            return ir.Sum((1.0, -1.0))
        return ir.Affine(np.array(-1.0), array) if place == 0 else ir.Affine(None, -array)

    def _op_mul(self, node: NodeProto, at: At) -> ir.Op | None:
        found = self._pair(node)
        return None if found is None or found[0] is None else ir.Affine(found[0], None)

    def _op_div(self, node: NodeProto, at: At) -> ir.Op | None:
        found = self._pair(node)
        if found is None or found[0] is None or found[1] == 0 or not np.all(found[0]):
            return None
        return ir.Affine(1.0 / found[0], None)

    def _op_neg(self, node: NodeProto, at: At) -> ir.Op | None:
        return ir.Affine(np.array(-1.0), None)

    def _op_identity(self, node: NodeProto, at: At) -> ir.Op | None:
        return ir.Sum((1.0,))

    def _op_leakyrelu(self, node: NodeProto, at: At) -> ir.Op | None:
        return ir.Sum((1.0,)) if at.get("alpha", 0.01) == 1 else None

    def _op_dropout(self, node: NodeProto, at: At) -> ir.Op | None:
        training = self._ints(node, 2) if self._has(node, 2) else [0]
        return ir.Sum((1.0,)) if training == [0] else None

    def _op_sum(self, node: NodeProto, at: At) -> ir.Op | None:
        return None if any(map(self.constants.known, node.input)) else ir.Sum((1.0,) * len(node.input))

    def _op_mean(self, node: NodeProto, at: At) -> ir.Op | None:
        n = len(node.input)
        return None if any(map(self.constants.known, node.input)) else ir.Sum((1.0 / n,) * n)

    def _op_concat(self, node: NodeProto, at: At) -> ir.Op | None:
        axis = self._axis(node, at["axis"])
        return None if axis is None or any(map(self.constants.known, node.input)) else ir.Concat(axis)

    def _op_matmul(self, node: NodeProto, at: At) -> ir.Op | None:
        weight, rank = self._const(node, 1), self._rank(node.input[0])
        return None if weight is None or weight.ndim != 2 or rank is None or rank < 2 else ir.Linear(weight, None)

    def _op_gemm(self, node: NodeProto, at: At) -> ir.Op | None:
        weight, bias = self._const(node, 1), self._const(node, 2)
        if weight is None or at.get("transA", 0) or (bias is None and self._has(node, 2)):
            return None
        weight = weight.T if at.get("transB", 0) else weight
        weight = weight if at.get("alpha", 1.0) == 1 else weight * at["alpha"]
        if bias is not None:
            if bias.ndim > 1 and any(n != 1 for n in bias.shape[:-1]):
                return None
            bias = np.array(np.broadcast_to(bias.reshape(-1), weight.shape[1:])) * at.get("beta", 1.0)
        return ir.Linear(weight, bias)

    def _op_pad(self, node: NodeProto, at: At) -> ir.Op | None:
        if at.get("mode", b"constant") != b"constant":
            return None
        rank, pads = self._rank(node.input[0]), self._ints(node, 1, at.get("pads"))
        value = self._const(node, 2)
        if rank is None or pads is None or (value is None and self._has(node, 2)):
            return None
        axes = self._ints(node, 3, range(rank))
        if axes is None:
            return None
        full = [(0, 0)] * rank
        for n, axis in enumerate(axes):
            full[axis % rank] = (pads[n], pads[n + len(axes)])
        return ir.Pad(tuple(full), 0.0 if value is None else float(value.reshape(-1)[0]))

    def _op_slice(self, node: NodeProto, at: At) -> ir.Op | None:
        starts, ends = self._ints(node, 1, at.get("starts")), self._ints(node, 2, at.get("ends"))
        rank = self._rank(node.input[0])
        if starts is None or ends is None or rank is None:
            return None
        axes, steps = self._ints(node, 3, at.get("axes", range(len(starts)))), self._ints(node, 4, [1] * len(starts))
        if axes is None or steps is None or len(axes) != 1 or steps[0] < 1:
            return None  # one axis at a time: what exporters write
        stop = None if ends[0] >= 2**31 - 1 else ends[0]
        return ir.Slice(axes[0] % rank, max(starts[0], -(2**31)), stop, steps[0])

    def _op_gather(self, node: NodeProto, at: At) -> ir.Op | None:
        if not self.constants.known(node.input[1]):
            return None
        index = self.constants.get(node.input[1])
        axis = self._axis(node, at.get("axis", 0))
        if index is None or index.ndim != 1 or axis is None:
            return None
        shape = self.shapes.shape(node.input[0])
        size = None if shape is None else shape[axis]
        return ir.Take(axis, np.asarray(index, dtype=np.int64) % size) if isinstance(size, int) else None

    def _op_averagepool(self, node: NodeProto, at: At) -> ir.Op | None:
        kernel = list(at["kernel_shape"])
        window = self._window(node, at, kernel)
        if window is None or any(d != 1 for d in window[1]):
            return None
        return ir.AvgPool(
            tuple(kernel), window[0], window[2], bool(at.get("count_include_pad", 0)), bool(at.get("ceil_mode", 0))
        )

    def _reshaped(self, node: NodeProto, at: At) -> ir.Op | None:
        return ir.Reshape()

    _op_reshape = _op_flatten = _op_squeeze = _op_unsqueeze = _reshaped

    def _op_transpose(self, node: NodeProto, at: At) -> ir.Op | None:
        rank = self._rank(node.input[0])
        perm = at.get("perm") or (None if rank is None else range(rank)[::-1])
        return None if perm is None else ir.Transpose(tuple(perm))

    def _op_depthtospace(self, node: NodeProto, at: At) -> ir.Op | None:
        return ir.DepthToSpace(at["blocksize"], at.get("mode", b"DCR") == b"CRD")

    def _op_resize(self, node: NodeProto, at: At) -> ir.Op | None:
        """Read nearest upsampling by whole factors, in the modes in which output q shows input ⌊q / factor⌋."""
        shape = self.shapes.shape(node.input[0])
        if not _shows_floor(at) or shape is None or len(shape) < 3:
            return None
        factors = self._factors(node, at, shape)
        if factors is None or len(factors) != len(shape) or factors[:2] != [1, 1]:
            return None
        if any(f < 1 or f != int(f) for f in factors):
            return None
        return ir.Upsample(tuple(int(f) for f in factors[2:]))

    def _factors(self, node: NodeProto, at: At, shape: Sequence[Dim]) -> list[float] | None:
        """By how much Resize enlarges each axis: what it is told, or what the sizes make of it."""
        given = self.constants.get(node.input[2]) if self._has(node, 2) else None
        if given is not None and given.size:
            factors = [1.0] * len(shape)
            for axis, factor in zip(at.get("axes", range(len(shape))), given.reshape(-1), strict=True):
                factors[axis] = float(factor)
            return factors
        larger = self.shapes.shape(node.output[0])
        if larger is None or len(larger) != len(shape) or not self._has(node, 3):
            return None
        pairs = list(zip(larger, shape, strict=True))
        if not all(isinstance(a, int) and isinstance(b, int) for a, b in pairs[2:]):
            return None
        return [float(a) / b if isinstance(a, int) and isinstance(b, int) else 1.0 for a, b in pairs]

    def _op_spacetodepth(self, node: NodeProto, at: At) -> ir.Op | None:
        return ir.SpaceToDepth(at["blocksize"], crd=False)

    def _split(self, node: NodeProto, at: At) -> list[tuple[ir.Op, tuple[str, ...], str]] | None:
        axis = self._axis(node, at.get("axis", 0))
        shape = self.shapes.shape(node.input[0])
        total, parts = None if axis is None or shape is None else shape[axis], len(node.output)
        if axis is None or not isinstance(total, int):
            return None
        sizes = self._ints(node, 1, at.get("split"))
        if sizes is None:
            if self._has(node, 1):
                return None
            each = -(-total // parts)
            sizes = [min(each, total - each * n) for n in range(parts)]
        ends = np.cumsum(sizes)
        return [
            (ir.Slice(axis, int(end - size), int(end)), (node.input[0],), name)
            for size, end, name in zip(sizes, ends, node.output, strict=True)
            if name
        ]


def _shows_floor(at: At) -> bool:
    """Whether Resize with these attributes shows input ⌊q / factor⌋ at output q."""
    where, rounding = at.get("coordinate_transformation_mode", b"half_pixel"), at.get("nearest_mode", _PREFER_FLOOR)
    exact = (where, rounding) == (b"asymmetric", b"floor") or (
        where == b"half_pixel" and rounding.startswith(b"round_prefer")
    )
    stretched = at.get("keep_aspect_ratio_policy", b"stretch") == b"stretch"  # else sizes are rounded
    return exact and stretched and bool(at.get("mode", b"nearest") == b"nearest")


def _finite(values: Array) -> bool:
    """Whether no number is infinite or none; their sum mostly says so, and makes no copy of them."""
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(values.sum()) or np.isfinite(values).all())
