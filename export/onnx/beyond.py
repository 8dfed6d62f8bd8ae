"""Whether a graph and the module it was traced from are one function at sizes that were not traced."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import onnx
import torch

from attn_export.errors import AttnExportError
from attn_export.export.arrays import array, arrays
from attn_export.export.copies import copied
from attn_export.export.outputs import evaluate
from attn_export.export.subject import Subject
from attn_export.reparam.evaluate.onnx import OnnxEvaluator

#: Outputs further apart than this, as a share of their size, are of two functions.
_APART = 1e-3
#: Elements of inputs that are tried.
MOST = 1 << 24
STOPS = "the module does not run"


def compared(subject: Subject, model: onnx.ModelProto, sizes: Mapping[str, int]) -> str:
    """Say what is wrong at the given sizes, or nothing."""
    if _elements(subject, sizes) > MOST:
        return "it was not tried, as that is large"
    inputs = subject.example(sizes=sizes)
    try:
        wanted = evaluate(subject.module if subject.graph is not None else copied(subject.module), inputs)
    except AttnExportError:
        return STOPS
    try:
        came = OnnxEvaluator(model).run(arrays(inputs))
    except AttnExportError:
        return "the graph does not run"
    for key, value in wanted.items():
        right, other = array(value).astype(np.float64), came[key]
        apart = max(_APART, torch.finfo(value.dtype).eps) if value.is_floating_point() else _APART
        if other.shape != right.shape or not np.linalg.norm(other - right) <= apart * np.linalg.norm(right):
            return "the graph computes something else than the module"
    return ""


def _elements(subject: Subject, sizes: Mapping[str, int]) -> int:
    known = {**subject.sizes, **sizes}
    return sum(math.prod(known[d] if isinstance(d, str) else d for d in item.shape) for item in subject.inputs)
