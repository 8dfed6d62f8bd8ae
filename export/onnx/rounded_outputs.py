"""Outputs in a half precision: what a correct float32 run gives is rounded to it, however exact it was inside."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import TensorProto

from attn_export.bundle.elements import fitted
from attn_export.types import Array

_HALVES = {TensorProto.FLOAT16: "float16", TensorProto.BFLOAT16: "bfloat16"}


def rounded(model: onnx.ModelProto, outputs: Mapping[str, Array]) -> dict[str, Array]:
    """Round the outputs of a float32 run to the types that the model declares."""
    kinds = {value.name: _HALVES.get(value.type.tensor_type.elem_type) for value in model.graph.output}
    with np.errstate(over="ignore"):
        return {name: fitted(value, kind) if (kind := kinds.get(name)) else value for name, value in outputs.items()}
