"""Divide activations that are too large for float16 by powers of two, and multiply the next weights by them.

    y = V relu(W x + b)    is    y = (2ⁿ V) relu(2⁻ⁿ W x + 2⁻ⁿ b)

A power of two only moves the exponent of a float32, so every sum and every rounding is what it was, and the outputs
are the same bits, as long as nothing falls below the least normal number (2⁻¹²⁶); constants are checked for that.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from attn_export.export.graph.index import GraphIndex
from attn_export.export.graph.unread import without_unread_constants
from attn_export.export.precision.float16_policy import LARGEST, MARGIN, MASK, Extent, observe
from attn_export.export.precision.scale_groups import ScaleGroups, constant_scales, scale_groups


@dataclass(frozen=True)
class ScaledTensor:
    """A tensor that was divided.

    Attributes:
        tensor: its name.
        exponent: n, of the 2ⁿ that divides it.
        largest: the largest magnitude that was seen before.
    """

    tensor: str
    exponent: int
    largest: float


@dataclass(frozen=True)
class UnscaledTensor:
    """A tensor that is too large and could not be divided, with the reason."""

    tensor: str
    largest: float
    reason: str

    def __str__(self) -> str:
        return f"{self.tensor!r} reaches {self.largest:.6g} and could not be divided: {self.reason}"


@dataclass(frozen=True)
class EqualiseReport:
    """What was divided, and what is still too large."""

    scaled: tuple[ScaledTensor, ...] = ()
    left: tuple[UnscaledTensor, ...] = ()

    def summary(self) -> str:
        """Say it in one line."""
        if not self.scaled and not self.left:
            return "no tensor is too large for float16"
        text = f"{_tensors(len(self.scaled))} divided by powers of two"
        return text + (f", {len(self.left)} still too large for float16" if self.left else "")

    def offer(self) -> str:
        """Say what equalising would do for a model that is to compute in float16; nothing where it does nothing."""
        over = [item for item in self.scaled if item.largest > LARGEST]
        near = [item for item in self.scaled if LARGEST * MARGIN < item.largest <= LARGEST]
        if not over and not near:
            return ""
        passed = [f"{_tensors(len(over))} {_verb('pass', over)} {LARGEST:,.0f}"] if over else []
        passed += [f"{_tensors(len(near))} {_verb('pass', near)} half of that"] if over and near else []
        passed += [f"{_tensors(len(near))} {_verb('pass', near)} half of {LARGEST:,.0f}"] if near and not over else []
        return (
            f"{' and '.join(passed)}, the largest float16; --equalize divides them by powers of two, exactly, so that"
            " nothing need stay in float32 for that or overflow on a device"
        )


def _tensors(count: int) -> str:
    return "1 tensor" if count == 1 else f"{count} tensors"


def _verb(word: str, what: list[ScaledTensor]) -> str:
    return f"{word}es" if len(what) == 1 else word


def equalise(
    model: onnx.ModelProto, feeds: Iterable[Mapping[str, NDArray[Any]]], *, limit: float = LARGEST * MARGIN
) -> tuple[onnx.ModelProto, EqualiseReport]:
    """Return a float32 model that computes the same and whose activations stay within ``limit``, as far as they can.

    Raises:
        ExportError: the model does not run on ``feeds``.
    """
    return equalised(model, observe(model, feeds), limit)


def equalised(
    model: onnx.ModelProto, seen: Mapping[str, Extent], limit: float
) -> tuple[onnx.ModelProto, EqualiseReport]:
    """Return the model as ``equalise`` does, given what a float32 run showed of its tensors."""
    graph = GraphIndex(model)
    sizes = {n: s.largest for n, s in seen.items() if s.dtype == np.float32 and graph.computed(n)}
    groups = scale_groups(graph, sizes.__contains__)
    while True:
        chosen = exponents(groups, sizes, limit)
        scaled = tuple(
            ScaledTensor(name, chosen[root], size)
            for name, size in sizes.items()
            if (root := groups.root(name)) in chosen
        )
        try:
            result = rescaled(model, {item.tensor: item.exponent for item in scaled})
        except InexactError as error:  # at least one group fewer each time
            groups.fix(list(error.tensors), str(error))
            continue
        left = tuple(
            UnscaledTensor(name, size, groups.why_fixed(name))
            for name, size in sizes.items()
            if limit < size and groups.root(name) not in chosen
        )
        return result, EqualiseReport(scaled, left)


def exponents(groups: ScaleGroups, sizes: Mapping[str, float], limit: float) -> dict[str, int]:
    """Choose for each free group with a tensor beyond ``limit`` the least power of two that brings all within it."""
    found = {}
    for root, names in groups.members().items():
        largest = max((sizes.get(name, 0.0) for name in names), default=0.0)
        if limit < largest < MASK and root not in groups.fixed:
            found[root] = power(largest, limit)
    return found


def power(largest: float, limit: float) -> int:
    """Give the least n of 0 or more with ``largest / 2ⁿ <= limit``.

    >>> power(67_394, 32_752), power(65_504, 32_752), power(1, 32_752)
    (2, 1, 0)
    """
    n = max(0, math.frexp(largest / limit)[1] - 1)
    return n if math.ldexp(largest, -n) <= limit else n + 1


def rescaled(model: onnx.ModelProto, exponents: Mapping[str, int]) -> onnx.ModelProto:
    """Divide tensors by powers of two, with the constants of the nodes that take or give them.

    A constant that another node reads as it is, or with another factor, is copied for it.

    Raises:
        InexactError: a constant would lose bits.
    """
    graph = GraphIndex(model)
    result = onnx.ModelProto()
    result.CopyFrom(model)
    made: dict[tuple[str, int], str] = {}
    taken = {*graph.tensors, *graph.maker, *(port.name for port in graph.inputs)}
    for node, new in zip(graph.nodes, result.graph.node, strict=True):
        concerned = [name for name in (*node.output, *node.input) if name in exponents]
        given = next((exponents[name] for name in node.output if name in exponents), 0)
        took = next((exponents[name] for name in node.input if name in exponents), 0)
        if not concerned:
            continue
        for index, of_output, of_input in constant_scales(graph, node):
            name, shift = node.input[index], -(of_output * given + of_input * took)
            if not shift or graph.tensors[name].data_type != onnx.TensorProto.FLOAT:
                continue
            if (name, shift) not in made:
                fresh = f"{name}_times_2_to_{shift}"
                while fresh in taken:
                    fresh += "_"
                taken.add(fresh)
                value = times_power(numpy_helper.to_array(graph.tensors[name]), shift)
                if value is None:
                    raise InexactError(name, shift, tuple(concerned))
                result.graph.initializer.append(numpy_helper.from_array(value, fresh))
                made[name, shift] = fresh
            new.input[index] = made[name, shift]
    without_unread_constants(result)
    return result


def times_power(value: NDArray[np.float32], shift: int) -> NDArray[np.float32] | None:
    """Multiply by a power of two; None where a value would leave the normal numbers, and lose bits.

    >>> times_power(np.float32([3, -0.0]), -2), times_power(np.float32([1.2e-38]), -2)
    (array([ 0.75, -0.  ], dtype=float32), None)
    """
    # By the bits: a runtime in this process may have made the processor take numbers below the normal ones for zero.
    bits = np.ascontiguousarray(value, dtype=np.float32).view(np.int32)
    exponent = (bits >> 23) & 255
    moving = ((bits & 0x7FFFFFFF) != 0) & (exponent != 255)
    if not ((exponent[moving] >= 1) & (exponent[moving] + shift >= 1) & (exponent[moving] + shift <= 254)).all():
        return None
    return np.where(moving, bits + (shift << 23), bits).astype(np.int32).view(np.float32).reshape(np.shape(value))


class InexactError(ArithmeticError):
    """A constant cannot be multiplied by a power of two without losing bits; ``tensors`` are what asks for it."""

    def __init__(self, name: str, shift: int, tensors: tuple[str, ...]) -> None:
        super().__init__(f"the constant {name!r} would leave the normal numbers of float32 times 2^{shift}")
        self.tensors = tensors
