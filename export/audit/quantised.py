"""Whether the codes of an int8 graph are what they must be: what an error in dB may not show, read off the graph.

scale          constant, float32, finite, above zero; one, or one for each output channel of what reads the weight
zero point     int8 or uint8, of the scale's shape; of int8 it is zero
pair           Quantize and Dequantize have the same scale and zero point
weight         each channel uses at least half of its codes, and not most of them are the largest
activation     the range holds what most of its values are, where that was looked at
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from attn_export.export.graph.index import GraphIndex, attribute
from attn_export.types import Array

#: Codes of int8 and uint8.
_ENDS = {"int8": (-128, 127), "uint8": (0, 255)}
#: The largest code of a channel whose scale was made for it: a power of two away at most.
LEAST = 63
#: Share of the largest code among a weight's, beyond which it was cut off.
MOST = 0.5
#: Shares of a tensor's values that lie below and above what is called usual.
QUANTILES = (0.005, 0.995)
#: Numbers of a tensor from which its quantiles are taken.
_SAMPLE = 100_000
#: A range may miss what is usual by so many of its steps.
_STEPS = 1.5


@dataclass(frozen=True)
class Range:
    """What a pair rounds to: the smallest and largest number that has a code, and the step between them."""

    low: float
    high: float
    step: float

    def beyond(self, least: float, most: float) -> float:
        """Say how many times its end the further of two numbers is; 1 or less within the range.

        >>> Range(-1.0, 3.0, 0.1).beyond(-2.0, 3.0), Range(0.0, 3.0, 0.1).beyond(0.0, 1.5)
        (2.0, 0.5)
        """
        reach = max(-self.low, self.high)
        return max(most / (self.high if self.high > 0 else reach), -least / (-self.low if self.low < 0 else reach))


@dataclass(frozen=True)
class Usual:
    """The values of a tensor: the ends, and between which of them all but one in a hundred lie."""

    least: float
    low: float
    high: float
    most: float

    @classmethod
    def seen(cls, values: Array) -> Usual:
        """Look at one tensor."""
        flat = values.ravel()
        part = flat[:: max(1, flat.size // _SAMPLE)]
        low, high = np.quantile(part, QUANTILES)
        return cls(float(flat.min()), float(low), float(high), float(flat.max()))

    @classmethod
    def of(cls, rows: Sequence[Usual]) -> Usual:
        """Bring several cases together: the outer ends, and of what is usual the median."""
        low, high = (float(np.median([getattr(row, end) for row in rows])) for end in ("low", "high"))
        return cls(min(row.least for row in rows), low, high, max(row.most for row in rows))


def rounded(model: onnx.ModelProto) -> dict[str, Range]:
    """Give by tensor that is rounded to codes while the model runs its range; what is no constant is left out."""
    index = GraphIndex(model)
    found = {}
    for node in index.nodes:
        if node.op_type == "QuantizeLinear" and node.input[1] in index.tensors:
            scale, zero = _constants(index, node)
            if scale.size == 1 and zero.dtype.name in _ENDS:
                low, high = (float(scale.reshape(())) * (end - int(zero.reshape(()))) for end in _ENDS[zero.dtype.name])
                found[node.input[0]] = Range(low, high, float(scale.reshape(())))
    return found


def audit(
    model: onnx.ModelProto, usual: Mapping[str, Usual] | None = None, *, per_channel: bool = True
) -> tuple[str, ...]:
    """List what is wrong with the codes of a graph, in sentences; nothing where all is as it must be.

    Args:
        model: with pairs of QuantizeLinear and DequantizeLinear.
        usual: by tensor that is rounded, what its values are.
        per_channel: whether weights have a scale for each output channel.
    """
    index = GraphIndex(model)
    found: list[str] = []
    for node in index.nodes:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        where = f"{node.op_type} {node.name or node.output[0]!r}"
        if any(name not in index.tensors for name in node.input[1:]):
            found.append(f"{where}: expected a constant scale and zero point")
            continue
        scale, zero = _constants(index, node)
        if why := _code(scale, zero):
            found.append(f"{where}: {why}")
        elif node.input[0] in index.tensors:
            found += [f"{where}: {why}" for why in _weight(index, node, scale, per_channel=per_channel)]
        elif scale.size > 1:
            found.append(f"{where}: expected one scale for an activation, got {scale.size}")
        elif node.op_type == "DequantizeLinear":
            found += [f"{where}: {why}" for why in _pair(index, node, scale, zero)]
    for name, have in rounded(model).items():
        wanted = (usual or {}).get(name)
        if wanted and (have.low > wanted.low + _STEPS * have.step or have.high < wanted.high - _STEPS * have.step):
            found.append(
                f"{name} is cut off: its codes hold {have.low:.3g} to {have.high:.3g}, and most of its values lie"
                f" between {wanted.low:.3g} and {wanted.high:.3g}"
            )
    return tuple(found)


def _constants(index: GraphIndex, node: onnx.NodeProto) -> tuple[Array, Array]:
    scale = np.asarray(index.array(node.input[1]))
    if len(node.input) > 2 and node.input[2]:
        return scale, np.asarray(index.array(node.input[2]))
    return scale, np.zeros(scale.shape, np.uint8)


def _code(scale: Array, zero: Array) -> str:
    """Say what is wrong with a scale or its zero point by themselves."""
    if scale.dtype != np.float32 or not np.isfinite(scale).all() or (scale <= 0).any():
        return "expected finite scales above zero, in float32"
    if zero.dtype.name not in _ENDS:
        return f"expected a zero point of int8 or uint8, got {zero.dtype}"
    if zero.shape != scale.shape:
        return f"expected a zero point of the scale's shape {scale.shape}, got {zero.shape}"
    return "expected int8 to be symmetric, got a zero point" if zero.dtype == np.int8 and zero.any() else ""


def _weight(index: GraphIndex, node: onnx.NodeProto, scale: Array, *, per_channel: bool) -> list[str]:
    """Say what is wrong with a constant's codes."""
    codes = np.asarray(index.array(node.input[0])).astype(np.int64)
    axis = int(attribute(node, "axis", 1))
    wanted = _channels(index, node)
    if scale.size > 1:
        if not -codes.ndim <= axis < codes.ndim or codes.shape[axis] != scale.size:
            return [f"its {scale.size} scales do not lie along an axis of its shape {codes.shape}"]
        if wanted is not None and axis % codes.ndim != wanted:
            return [f"expected a scale for each output channel, along axis {wanted}, got axis {axis}"]
    elif per_channel and wanted is not None and codes.shape[wanted] > 1:
        return ["expected a scale for each output channel, got one for all"]
    sizes = np.abs(np.moveaxis(codes, axis, 0).reshape(scale.size, -1) if scale.size > 1 else codes.reshape(1, -1))
    if not sizes.size:
        return []
    found = []
    largest = sizes.max(1)
    if ((largest > 0) & (largest < LEAST)).any():
        channel = int(np.flatnonzero((largest > 0) & (largest < LEAST))[0])
        found.append(f"its scale is too large: of 127 codes, those of channel {channel} reach {largest[channel]}")
    share = float(np.mean(sizes >= 127))
    if sizes.size > scale.size * 2 and share > MOST:
        found.append(f"its scale is too small: {share:.0%} of its codes are the largest")
    return found


def _channels(index: GraphIndex, node: onnx.NodeProto) -> int | None:
    """Find the axis of a constant that counts output channels, by what reads it; None where nothing says."""
    readers = index.readers.get(node.output[0], [])
    if len(readers) != 1 or list(readers[0].input).index(node.output[0]) != 1:
        return None
    reader = readers[0]
    axes = {"Conv": 0, "ConvTranspose": 1, "Gemm": 0 if attribute(reader, "transB", 0) else 1, "MatMul": 1}
    return axes.get(reader.op_type)


def _pair(index: GraphIndex, node: onnx.NodeProto, scale: Array, zero: Array) -> list[str]:
    """Say where what is decoded was coded otherwise."""
    maker = index.maker.get(node.input[0])
    if maker is None or maker.op_type != "QuantizeLinear" or any(name not in index.tensors for name in maker.input[1:]):
        return []
    other_scale, other_zero = _constants(index, maker)
    if not np.array_equal(scale, other_scale):
        return ["its scale is not that of the QuantizeLinear before it"]
    if zero.dtype != other_zero.dtype or not np.array_equal(zero, other_zero):
        return ["its zero point is not that of the QuantizeLinear before it"]
    return []
