"""Float32 runs of one module whose weights and inputs are moved by as much as float32 rounds.

A correct sum in float32 is the exact sum of operands that were moved by a few roundings each (Higham, Accuracy and
Stability of Numerical Algorithms, section 3.1). Where inputs are of one piece (zeros, constant frames), other runs
round alike, whatever they magnify: a norm over equal numbers is exactly zero in all of them. There inputs are moved by
a step as well.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from attn_export.export.copies import copied
from attn_export.export.graph_module import GraphModule
from attn_export.export.outputs import evaluate
from attn_export.types import Array

#: How far float32 rounds.
ROUNDING = 2.0**-24
#: Numbers that are drawn for weights.
_DRAWN = 1_000_003


class RoundedRuns:
    """Such runs of a module, which is copied when it is first asked for them."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._moved: nn.Module | None = None

    def __call__(self, inputs: Mapping[str, Tensor], *, step: float = 0.0) -> dict[str, Tensor]:
        """Run on inputs that are moved by a share of themselves and by a step.

        Raises:
            SubjectError: the module does not run on them.
        """
        if self._moved is None:
            self._moved = _moved(self._module)
        return evaluate(self._moved, shifted(inputs, ROUNDING, step, 0))


def shifted(inputs: Mapping[str, Tensor], share: float, step: float, seed: int) -> dict[str, Tensor]:
    """Move floating-point inputs by a share of themselves and by a step, both times normal numbers, in their type.

    A mask of zeros and ones says what counts, and no correct sum has another one: it stays as it is.
    """
    random = np.random.default_rng(seed)
    found = {}
    for name, value in inputs.items():
        if value.is_floating_point() and not _is_mask(value):
            noise = torch.from_numpy(random.standard_normal((2, *value.shape)))
            found[name] = (value.double() * (1 + share * noise[0]) + step * noise[1]).to(value.dtype)
        else:
            found[name] = value
    return found


def _is_mask(value: Tensor) -> bool:
    """Whether all values are 0 and 1, and some are 1; ones alone may be an image, which has more axes than a mask."""
    ones = value == 1
    return bool(ones.any() and (ones | (value == 0)).all()) and (value.ndim < 3 or not bool(ones.all()))


def _moved(module: nn.Module) -> nn.Module:
    """Copy a module with its matrices and kernels moved; vectors and scalars may be sizes, bounds and scales."""
    if isinstance(module, GraphModule):
        return GraphModule(_moved_graph(module.model))
    found, noise = copied(module), _Noise()
    with torch.no_grad():
        for value in found.parameters():
            if value.ndim > 1 and value.is_floating_point():
                value.mul_(1 + ROUNDING * torch.from_numpy(noise(tuple(value.shape))).to(value.dtype))
    return found


def _moved_graph(model: onnx.ModelProto) -> onnx.ModelProto:
    found = onnx.ModelProto()
    found.CopyFrom(model)
    noise = _Noise()
    for weight in found.graph.initializer:
        if len(weight.dims) > 1 and weight.data_type == onnx.TensorProto.FLOAT:
            value = numpy_helper.to_array(weight)
            moved = value * (1 + ROUNDING * noise(value.shape).astype(np.float64))
            weight.CopyFrom(numpy_helper.from_array(moved.astype(np.float32), weight.name))
    return found


class _Noise:
    """Normal numbers for all weights: drawn once, and for each weight taken on from where the last one ended.

    To draw as many as a large network has weights takes longer than to run it. Of a length that is prime: no two rows
    of a matrix lie alike in them.
    """

    def __init__(self) -> None:
        self._drawn = np.random.default_rng(0).standard_normal(_DRAWN, np.float32)
        self._next = 0

    def __call__(self, shape: tuple[int, ...]) -> Array:
        first, count = self._next, math.prod(shape)
        inside = first + count <= _DRAWN
        found = self._drawn[first : first + count] if inside else np.resize(np.roll(self._drawn, -first), count)
        self._next = (first + count) % _DRAWN
        return found.reshape(shape)
