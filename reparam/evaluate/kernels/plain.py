"""Products, padding, activations and casts; and arithmetic as it was before opset 7."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from onnx import TensorProto

from attn_export.reparam.evaluate.claims import UnclaimedOperator
from attn_export.reparam.evaluate.tensors import array_of, tensor_of
from attn_export.types import Array

_Kernel = Callable[[Mapping[str, Any], Sequence[Array | None]], Array]
#: From half of the last step on, a number is rounded to infinity; 2^(1 + most) less half of the last bit.
_OVERFLOWS = {
    TensorProto.FLOAT16: 65520.0,
    TensorProto.BFLOAT16: 2.0**128 - 2.0**119,
    TensorProto.FLOAT: 2.0**128 - 2.0**103,
}


def product(_: Mapping[str, Any], arguments: Sequence[Array | None]) -> Array:
    """MatMul."""
    a, b = arguments
    assert a is not None
    assert b is not None
    return np.asarray(a @ b) if a.dtype.kind in "iu" else array_of(torch.matmul(tensor_of(a), tensor_of(b)))


def constant(attributes: Mapping[str, Any], _: Sequence[Array | None]) -> Array:
    """Constant, in whichever of its attributes it has its value."""
    ((name, value),) = attributes.items()
    if name in ("value_string", "value_strings"):
        return np.asarray(value.decode() if isinstance(value, bytes) else [v.decode() for v in value], object)
    if name in ("value_float", "value_floats"):
        return np.asarray(value, np.float32)
    return np.asarray(value, np.int64) if name in ("value_int", "value_ints") else np.asarray(value)


def erf(_: Mapping[str, Any], arguments: Sequence[Array | None]) -> Array:
    """Erf."""
    return array_of(torch.erf(tensor_of(arguments[0])))


def gelu(attributes: Mapping[str, Any], arguments: Sequence[Array | None]) -> Array:
    """Gelu, by the error function or by tanh."""
    how = attributes.get("approximate", b"none").decode()
    return array_of(torch.nn.functional.gelu(tensor_of(arguments[0]), approximate=how))


def hard_swish(_: Mapping[str, Any], arguments: Sequence[Array | None]) -> Array:
    """HardSwish: x · max(0, min(1, x/6 + 1/2))."""
    (x,) = arguments
    assert x is not None
    return np.asarray(x * np.clip(x / 6 + 0.5, 0, 1))


def mish(_: Mapping[str, Any], arguments: Sequence[Array | None]) -> Array:
    """Mish: x · tanh(softplus(x))."""
    (x,) = arguments
    assert x is not None
    return np.asarray(x * np.tanh(np.logaddexp(0, x)))


def softsign(_: Mapping[str, Any], arguments: Sequence[Array | None]) -> Array:
    """Softsign: x / (1 + |x|)."""
    (x,) = arguments
    assert x is not None
    return np.asarray(x / (1 + np.abs(x)))


def cast(attributes: Mapping[str, Any], arguments: Sequence[Array | None]) -> Array:
    """Cast to a floating-point type: nothing is rounded to it, but what is too large for it becomes infinite."""
    (x,) = arguments
    assert x is not None
    most = _OVERFLOWS.get(attributes["to"], np.inf)
    wide = x.astype(np.float64) if x.dtype.kind not in "f" or x.dtype.itemsize < 4 else x
    return np.asarray(np.where(np.abs(wide) >= most, np.copysign(np.inf, wide), wide) if most < np.inf else wide)


def cast_like(_: Mapping[str, Any], arguments: Sequence[Array | None]) -> Any:
    """CastLike to a floating-point type, of which all that is left is that it is one; others are not ours."""
    x, like = arguments
    assert x is not None
    assert like is not None
    return x.astype(like.dtype) if like.dtype in (np.float32, np.float64) else NotImplemented


def dropout(_: Mapping[str, Any], arguments: Sequence[Array | None]) -> tuple[Array, Array]:
    """Dropout that drops nothing, and its mask; that of training is refused unless its ratio is 0."""
    x, ratio, training = (*arguments, None, None)[:3]
    assert x is not None
    share = 0.5 if ratio is None else float(ratio)
    if training is not None and bool(training) and share:
        raise UnclaimedOperator(f"in training mode it draws random numbers: no two runs agree (ratio {share:g})")
    return x, np.ones(x.shape, bool)


def dropout_old(attributes: Mapping[str, Any], arguments: Sequence[Array | None]) -> tuple[Array, Array]:
    """Dropout before opset 7, where an attribute says that nobody trains."""
    x = arguments[0]
    assert x is not None
    training = not attributes.get("is_test", 0)
    return dropout({}, [x, np.asarray(attributes.get("ratio", 0.5)), np.asarray(training)])


def padding(attributes: Mapping[str, Any], arguments: Sequence[Array | None]) -> Array:
    """Pad; negative amounts crop, which the reference implementation refuses."""
    x, pads, value, axes = (*arguments, None, None, None)[:4]
    assert x is not None
    amounts = [int(n) for n in (attributes["pads"] if pads is None else pads)]
    where = [int(axis) % x.ndim for axis in (range(x.ndim) if axes is None else axes)]
    count, crop, grow = len(amounts) // 2, [slice(None)] * x.ndim, [(0, 0)] * x.ndim
    for place, axis in enumerate(where):
        left, right = amounts[place], amounts[place + count]
        crop[axis] = slice(max(0, -left), x.shape[axis] - max(0, -right))
        grow[axis] = (max(0, left), max(0, right))
    mode = attributes.get("mode", b"constant").decode()
    if mode != "constant":
        return np.asarray(np.pad(x[tuple(crop)], grow, mode=mode))
    fill = attributes.get("value", 0.0) if value is None or not value.size else value.reshape(-1)[0]
    return np.asarray(np.pad(x[tuple(crop)], grow, constant_values=fill))


def bits(_: Mapping[str, Any], arguments: Sequence[Array | None]) -> Any:
    """BitCast: between whole numbers only, for a floating-point number here has other bits than in its own type."""
    (x,) = arguments
    assert x is not None
    if x.dtype.kind == "f":
        raise UnclaimedOperator("the bits of a number are those of its own type, which is not kept in this evaluation")
    return NotImplemented


def picture(_: Mapping[str, Any], __: Sequence[Array | None]) -> Any:
    """ImageDecoder: the reference decodes with Pillow, if that is there."""
    if find_spec("PIL") is None:
        raise UnclaimedOperator("pictures are decoded by Pillow, which is not installed; pip install Pillow")
    return NotImplemented


def slope(_: Mapping[str, Any], arguments: Sequence[Array | None]) -> Array:
    """PRelu before opset 7: a vector of slopes is one for each channel."""
    x, slopes = arguments
    assert x is not None
    assert slopes is not None
    each = slopes.reshape(-1, *(1,) * (x.ndim - 2)) if slopes.size > 1 and x.ndim > 1 else slopes
    return np.asarray(np.where(x < 0, x * each, x))


def placed(function: Callable[[Array, Array], Array]) -> _Kernel:
    """Arithmetic before opset 7: the second array lies in the first from an axis on, by default at its end."""

    def run(attributes: Mapping[str, Any], arguments: Sequence[Array | None]) -> Array:
        a, b = arguments
        assert a is not None
        assert b is not None
        if "axis" in attributes and attributes.get("broadcast") and b.ndim:
            after = a.ndim - int(attributes["axis"]) % a.ndim - b.ndim
            b = b.reshape(*b.shape, *(1,) * after)
        return np.asarray(function(a, b))

    return run
