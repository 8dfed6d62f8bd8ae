"""Feed a session and read it: NumPy's types as they are, bfloat16 by its bits."""

from __future__ import annotations

import ctypes
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attn_export.bundle import elements
from attn_export.types import Feeds

_BFLOAT16 = "tensor(bfloat16)"
#: The number of the type in ONNX.
_NUMBER = 16


def takes_bits(session: Any) -> bool:
    """Whether an input or an output is bfloat16."""
    return any(port.type == _BFLOAT16 for port in (*session.get_inputs(), *session.get_outputs()))


def fed(session: Any, feeds: Feeds) -> dict[str, NDArray[Any]]:
    """Run a session; outputs by name. What is bfloat16 goes in and comes back as float32 numbers.

    Raises:
        Exception: whatever the runtime raises; its errors share no public base.
    """
    names = [port.name for port in session.get_outputs()]
    if not takes_bits(session):
        return dict(zip(names, session.run(names, dict(feeds)), strict=True))
    from onnxruntime import OrtValue

    kinds = {port.name: port.type for port in session.get_inputs()}
    bits = {name: elements.to_bits(value) for name, value in feeds.items() if kinds.get(name) == _BFLOAT16}
    values = {name: OrtValue.ortvalue_from_numpy_with_onnx_type(value, _NUMBER) for name, value in bits.items()}
    values |= {name: OrtValue.ortvalue_from_numpy(value) for name, value in feeds.items() if name not in bits}
    came = session.run_with_ort_values(names, values)
    return {name: _read(value) for name, value in zip(names, came, strict=True)}


def _read(value: Any) -> NDArray[Any]:
    if value.data_type() != _BFLOAT16:
        plain: NDArray[Any] = value.numpy()
        return plain
    shape = tuple(value.shape())
    count = math.prod(shape)
    raw = ctypes.string_at(value.data_ptr(), 2 * count) if count else b""
    return elements.from_bits(np.frombuffer(raw, np.uint16).reshape(shape))
