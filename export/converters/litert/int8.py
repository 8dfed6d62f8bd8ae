"""A ``.tflite`` file in float32 into int8: with the very codes of the int8 ONNX graph, of weights and activations.

    float file ─► operators paired with layers ─► codes of tensors ─► integers, and QUANTIZE and DEQUANTIZE between

uint8 codes of ONNX become int8 codes of LiteRT, 128 less, which mean the same numbers. What the int8 graph leaves in
float stays in float. Between layers an operator computes in integers where all that it takes and gives has codes.
Biases become int32 in steps of the product of two scales, as the kernels need them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from attn_export.errors import ExportError
from attn_export.export.converters.litert.counterparts import CHANNELS, NONE, RELU6, Counterpart, form, matched
from attn_export.export.converters.litert.flatbuffer import File
from attn_export.export.converters.litert.norms import take_out
from attn_export.export.converters.litert.tensors import MOVES, Coded, coded, ends, factor
from attn_export.export.quantise.codes import Code
from attn_export.export.quantise.pairs import LayerCodes, Pairs
from attn_export.types import Array

#: Operators with integer kernels that take and give different codes.
COMPUTES = frozenset({"ADD", "GELU", "HARD_SWISH", "MEAN", "MUL", "RELU", "RELU6", "SUB"})
#: Kernels for int8 came with these versions of operators; of others with the first.
_VERSIONS = {
    **dict.fromkeys(("ADD", "GELU", "MAX_POOL_2D", "MEAN", "MUL", "PAD", "RELU", "RELU6", "SLICE", "SUB"), 2),
    **dict.fromkeys(("CONV_2D", "DEPTHWISE_CONV_2D"), 3),
    "FULLY_CONNECTED": 5,
    "TRANSPOSE": 2,
}
#: What int8 codes are less than uint8 codes.
_SHIFT = 128
#: How far a weight may be from the float model's, as a share of its size, before its channels have been levelled.
_LEVELLED = 0.1


@dataclass(frozen=True)
class Rewritten:
    """A file in int8.

    Attributes:
        content: its bytes.
        floats: layers that are int8 in the ONNX graph and float here, by name, each with the reason.
    """

    content: bytes
    floats: Mapping[str, str]


def rewritten(content: bytes, pairs: Pairs) -> Rewritten:
    """Bring a file to int8.

    Args:
        content: the file in float32.
        pairs: what the int8 graph says of the same model.

    Raises:
        ExportError: it has several graphs, or lacks every layer, or one to whose weights others were fitted.
    """
    file = File(content)
    found, left = matched(file, pairs.layers)
    by_name = {one.layer.node: one for one in pairs.layers}
    if levelled := [name for name in left if _is_levelled(by_name[name])]:
        why = f"{left[levelled[0]]}, and its channels were levelled with its neighbours'"
        raise ExportError(f"LiteRT cannot take the int8 model: {levelled[0]}: {why}")
    floats = {name: why for name, why in left.items() if by_name[name].codes is not None}
    take_out(file, found)
    floats |= _Writer(file, coded(file, pairs, found), found).written()
    if not any(one.layer.codes is not None and one.layer.layer.node not in floats for one in found):
        first = next(iter(floats.items()), ("no layer", "there is none"))
        raise ExportError(f"LiteRT cannot take the int8 model: no layer would be int8; {first[0]}: {first[1]}")
    return Rewritten(file.content(), floats)


def _is_levelled(layer: LayerCodes) -> bool:
    """Whether the int8 graph multiplies by more than the rounded weight of the float graph."""
    return float(np.linalg.norm(layer.means - layer.float_weight)) > _LEVELLED * float(
        np.linalg.norm(layer.float_weight)
    )


class _Writer:
    """Writes the operators of a file anew, with integers where there are codes."""

    def __init__(self, file: File, known: Coded, found: Sequence[Counterpart]) -> None:
        self.file, self.codes, self.exact, self.before = file, known.codes, known.exact, known.before
        self.found = {id(one.operator): one for one in found}
        self.ends = {*map(int, file.graph.inputs), *map(int, file.graph.outputs)}
        self.made: list[Any] = []
        #: By tensor with codes, its form in int8 and its form in float32.
        self.integers: dict[int, int] = {}
        self.numbers: dict[int, int] = {}

    def written(self) -> dict[str, str]:
        """Write all; of layers that stay in float although they have codes say why, by name."""
        left: dict[str, str] = {}
        operators = self.file.operators
        for port in map(int, self.file.graph.inputs):
            self._rounded(port)
        for one in operators:
            counterpart, outputs = self.found.get(id(one)), list(map(int, one.outputs))
            if counterpart is not None:
                bias = self._bias(counterpart)
                if bias is not None:
                    self._integer_layer(counterpart, bias)
                else:
                    self._float_layer(counterpart)
                    if counterpart.layer.codes is not None:
                        left[counterpart.layer.layer.node] = self._why(counterpart)
            elif self._is_integer(one):
                self._integer(one, [self._operand(int(tensor)) for tensor in one.inputs])
            elif self.file.name(one) == "HARD_SWISH":
                for step in self._hard_swish(*ends(one)):
                    self._float(step, list(map(int, step.inputs)))
            else:
                self._float(one, list(map(int, one.inputs)))
            for tensor in outputs:
                self._rounded(tensor)
        self.file.graph.operators = self.made
        return left

    def _has_codes(self, one: Counterpart) -> bool:
        source, into = ends(one.operator)
        given = self.before if one.added else self.codes
        return one.layer.codes is not None and source in self.codes and into in given

    def _why(self, one: Counterpart) -> str:
        if not self._has_codes(one):
            return "what it gives is no tensor of the file"
        return "its bias takes more than 32 bits in steps of its scales"

    def _bias(self, one: Counterpart) -> Array | None:
        """Give a layer's bias in steps of its scales; None where it is not to be in int8, or does not fit."""
        layer, (source, _) = one.layer, ends(one.operator)
        if not self._has_codes(one) or layer.scales is None:
            return None
        steps = layer.scales.astype(np.float64) * self.codes[source].scale
        channels = self.file.shape(int(one.operator.inputs[1]))[CHANNELS[self.file.name(one.operator)]]
        bias = np.zeros(channels) if layer.bias is None else layer.bias.astype(np.float64)
        found = np.rint(bias / steps)
        return found.astype(np.int32) if np.abs(found).max(initial=0.0) < 2**31 else None

    def _integer_layer(self, one: Counterpart, bias: Array) -> None:
        operator, layer, (source, _) = one.operator, one.layer, ends(one.operator)
        assert layer.codes is not None
        assert layer.scales is not None
        values = form(self.file, operator, layer.codes, layer)
        weight = self.file.add_tensor(int(operator.inputs[1]), "codes", "INT8", values)
        axis = CHANNELS[self.file.name(operator)] if layer.scales.size > 1 else 0
        self.file.quantise(weight, layer.scales, axis=axis)
        added = self.file.add_tensor(weight, "bias", "INT32", bias)
        self.file.quantise(added, layer.scales * np.float32(self.codes[source].scale))
        inputs = [self.integers[source], weight, added]
        if one.added:
            self._integer_before(one, inputs)
        else:
            self._integer(operator, inputs)

    def _integer_before(self, one: Counterpart, inputs: Sequence[int]) -> None:
        """Write a layer into which the file took a constant, such as a hard sigmoid's: that comes behind its codes."""
        operator, (_, into) = one.operator, ends(one.operator)
        codes, numbers = self.file.add_tensor(into, "codes", "INT8"), self.file.add_tensor(into, "numbers", "FLOAT32")
        self._quantised(codes, self.before[into])
        operator.inputs, operator.outputs = np.asarray(inputs, np.int32), np.asarray([codes], np.int32)
        self.file.raise_version(operator, _VERSIONS.get(self.file.name(operator), 1))
        constant = self.file.add_tensor(into, "added", "FLOAT32", np.asarray(one.added, np.float32))
        behind = self.file.operator("ADD", [numbers, constant], [into], options="AddOptions")
        behind.builtinOptions.fusedActivationFunction = operator.builtinOptions.fusedActivationFunction
        operator.builtinOptions.fusedActivationFunction = NONE
        self.made += [operator, self.file.operator("DEQUANTIZE", [codes], [numbers], 2), behind]

    def _float_layer(self, one: Counterpart) -> None:
        """Write a layer in float with the weight of the int8 graph, which is not that of the float graph."""
        operator, layer = one.operator, one.layer
        values = form(self.file, operator, layer.means, layer)
        assert values is not None
        inputs = list(map(int, operator.inputs))
        inputs[1] = self.file.add_tensor(inputs[1], "own", "FLOAT32", values.astype(np.float32))
        if layer.bias is not None:
            bias = np.asarray(layer.bias + np.float32(one.added), np.float32)
            inputs = [*inputs[:2], self.file.add_tensor(inputs[1], "bias", "FLOAT32", bias)]
        self._float(operator, inputs)

    def _hard_swish(self, source: int, into: int) -> list[Any]:
        """Write a hard swish in float as its steps: in a file with integers some compilers take none of float32."""
        three, sixth = (
            self.file.add_tensor(source, label, "FLOAT32", np.asarray(value, np.float32))
            for label, value in (("three", 3), ("sixth", 1 / 6))
        )
        bent, scaled = (self.file.add_tensor(source, label, "FLOAT32") for label in ("bent", "scaled"))
        first = self.file.operator("ADD", [source, three], [bent], options="AddOptions")
        first.builtinOptions.fusedActivationFunction = RELU6
        second = self.file.operator("MUL", [bent, sixth], [scaled], options="MulOptions")
        return [first, second, self.file.operator("MUL", [source, scaled], [into], options="MulOptions")]

    def _is_integer(self, operator: Any) -> bool:
        """Whether an operator that is no layer computes in integers."""
        name, (source, into) = self.file.name(operator), ends(operator)
        if into not in self.codes or source not in self.codes:
            return False
        if name in MOVES:
            return self.codes[source] == self.codes[into]
        has_factor = factor(self.file, operator) is not None
        others = [] if has_factor else [int(one) for one in operator.inputs if self.file.is_float(int(one))]
        # What is also read as it was computed is read so here.
        return name in COMPUTES and source not in self.exact and all(self._is_only_codes(one) for one in others)

    def _is_only_codes(self, tensor: int) -> bool:
        return tensor in self.integers and tensor not in self.exact

    def _operand(self, tensor: int) -> int:
        """Give an input in integers; a factor becomes a code of one step, which means it exactly."""
        if tensor in self.integers:
            return self.integers[tensor]
        value = self.file.constant(tensor)
        if value is None:
            return tensor
        own = self.file.add_tensor(tensor, "code", "INT8", np.ones(value.shape, np.int8))
        self.file.quantise(own, value.ravel())
        return own

    def _integer(self, operator: Any, inputs: Sequence[int]) -> None:
        """Let an operator give integers, of which what reads numbers gets these."""
        _, into = ends(operator)
        operator.inputs = np.asarray(inputs, np.int32)
        self.file.raise_version(operator, _VERSIONS.get(self.file.name(operator), 1))
        self.made.append(operator)
        if into in self.ends:
            self.integers[into], self.numbers[into] = self._codes_of(into), into
            operator.outputs = np.asarray([self.integers[into]], np.int32)
            self.made.append(self.file.operator("DEQUANTIZE", [self.integers[into]], [into], 2))
            return
        self.file.retype(into, "INT8")
        self._quantised(into, self.codes[into])
        self.integers[into] = into

    def _float(self, operator: Any, inputs: Sequence[int]) -> None:
        """Let an operator compute in float what it computed in float before."""
        operator.inputs = np.asarray([self._as_numbers(tensor) for tensor in inputs], np.int32)
        self.made.append(operator)

    def _rounded(self, tensor: int) -> None:
        """Bring what was computed in float to its codes, where it has some."""
        if tensor not in self.codes or tensor in self.integers:
            return
        self.integers[tensor] = self._codes_of(tensor)
        self.made.append(self.file.operator("QUANTIZE", [tensor], [self.integers[tensor]], 2))
        if tensor in self.exact:
            self.numbers[tensor] = tensor

    def _as_numbers(self, tensor: int) -> int:
        """Give a tensor in float: of one that has codes, what these mean."""
        if tensor not in self.integers:
            return tensor
        if tensor not in self.numbers:
            self.numbers[tensor] = self.file.add_tensor(tensor, "numbers", "FLOAT32")
            self.made.append(self.file.operator("DEQUANTIZE", [self.integers[tensor]], [self.numbers[tensor]], 2))
        return self.numbers[tensor]

    def _codes_of(self, tensor: int) -> int:
        own = self.file.add_tensor(tensor, "codes", "INT8")
        self._quantised(own, self.codes[tensor])
        return own

    def _quantised(self, tensor: int, by: Code) -> None:
        self.file.quantise(tensor, [by.scale], by.zero_point - (_SHIFT if by.unsigned else 0))
