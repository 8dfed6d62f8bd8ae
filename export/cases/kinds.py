"""Inputs as the world has them, beside normal numbers: images, empty and constant ones, extremes, masks.

| kind | floats |
|---|---|
| natural image | 1/f spectrum in 0..1, its channels alike (only inputs of 1 to 4 channels) |
| normalised image | the same less ImageNet's mean, over its deviation |
| constant frames | one negative number a channel (of tokens: a feature) |
| one bright pixel | zeros, and 255 at one place |
| negative, non-negative | normal numbers without their sign |
| zeros, ones | as they say |
| scale 1e+05 | normal numbers, very large |

Integers and booleans have kinds of their own; in each case every input that is not of the kind is drawn as ever.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import numpy as np
from torch import Tensor

from attn_export.bundle.elements import fitted
from attn_export.export.arrays import tensor
from attn_export.export.subject import draw, is_mask, whole
from attn_export.mechanisms.spec import Input, is_float
from attn_export.types import Array

BRIGHT = "one bright pixel"
LARGE = "scale 1e+05"
#: Those that tell most come first: a large model is proven on four of them.
IMAGES = ("natural image", "negative", "zeros", LARGE, "constant frames", BRIGHT, "ones", "normalised image")
FEATURES = ("non-negative", "negative", "zeros", LARGE, "constant frames", BRIGHT, "ones")
TURNS = "integers in turn"
INTEGERS = ("lowest integers", "highest integers", TURNS)
MASKS = ("all true", "all false", "first half true", "one true")
NUMBERS = "mask of normal numbers"
#: Where correct runs may part for no reason: their reference is asked whether it stands still, and rounding whether it
#: is magnified.
UNSTEADY = frozenset({"constant frames", "one bright pixel", "zeros", "ones", LARGE})
#: Those of one piece, on which correct runs round alike.
UNIFORM = UNSTEADY - {LARGE}
_BRIGHT = 255.0
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def is_image(item: Input) -> bool:
    """Whether an input may be an image: one to four channels on two axes."""
    return is_float(item.dtype) and len(item.shape) == 4 and item.shape[1] in (1, 2, 3, 4) and not is_mask(item)


def kinds_of(item: Input) -> tuple[str, ...]:
    """List the kinds that an input is drawn in, the most telling first."""
    numbers = not is_float(item.dtype)
    if item.within is not None:
        return INTEGERS if numbers else ()
    if is_mask(item):
        return MASKS if numbers else (*MASKS, NUMBERS)
    if numbers:
        return INTEGERS
    names = IMAGES if is_image(item) else FEATURES
    return tuple(name for name in names if name != LARGE or item.dtype != "float16")


def draw_kind(kind: str, item: Input, sizes: Mapping[str, int], seed: int) -> Tensor:
    """Draw an input of a kind; as ever where it has none of that name."""
    if kind not in kinds_of(item):
        return draw(item, sizes, seed)
    shape = tuple(sizes[dim] if isinstance(dim, str) else dim for dim in item.shape)
    random = np.random.default_rng([seed, zlib.crc32(item.name.encode())])
    if kind in MASKS:
        made = _mask(kind, shape)
    elif kind in INTEGERS:
        made = _integers(kind, shape, *whole(item))
    else:
        made = _floats(kind, shape, random)
    return tensor(fitted(made, item.dtype), item.dtype)


def _floats(kind: str, shape: tuple[int, ...], random: np.random.Generator) -> Array:
    match kind:
        case "natural image":
            return natural(shape, random)
        case "normalised image":
            count = shape[1]
            mean, std = (_MEAN, _STD) if count == 3 else ((0.5,) * count, (0.25,) * count)
            return np.asarray((natural(shape, random) - _frame(mean)) / _frame(std))
        case "constant frames":
            # Of tokens (batch, token, feature) it is the tokens that are alike.
            own = (shape[0], 1, shape[2]) if len(shape) == 3 else (*shape[:2], *(1 for _ in shape[2:]))
            own = own if len(shape) > 2 else (*shape[:1], *(1 for _ in shape[1:]))
            return np.broadcast_to(-np.abs(random.standard_normal(own)) - 0.1, shape)
        case "one bright pixel":
            made = np.zeros(shape)
            place = [int(random.integers(n)) if n else 0 for n in shape]
            if made.size:
                made[_pixel(place)] = _BRIGHT
            return made
        case "negative":
            return -np.abs(random.standard_normal(shape))
        case "non-negative":
            return np.abs(random.standard_normal(shape))
        case "zeros":
            return np.zeros(shape)
        case "ones":
            return np.ones(shape)
        case _:
            return np.asarray(random.standard_normal(shape) * (1e5 if kind == LARGE else 1.0))


def natural(shape: tuple[int, ...], random: np.random.Generator) -> Array:
    """Draw images as cameras see them: the amplitude falls with the frequency, channels are alike, values are 0..1."""
    height, width = shape[-2:]
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :])
    frequency[0, 0] = 1.0 / max(height, width)
    grey = random.standard_normal((*shape[:-3], 1, height, width))
    noise = 0.8 * grey + 0.2 * random.standard_normal(shape)
    made = np.fft.irfft2(np.fft.rfft2(noise) / frequency, s=(height, width))
    least, most = made.min((-1, -2), keepdims=True), made.max((-1, -2), keepdims=True)
    return np.asarray((made - least) / np.maximum(most - least, 1e-12))


def _pixel(place: list[int]) -> tuple[int | slice, ...]:
    """Index one place of every item: all channels of a pixel, all features of a token, one number elsewhere."""
    if len(place) >= 4:
        return (slice(None), slice(None), *place[2:])
    if len(place) == 3:
        return (slice(None), place[1], slice(None))
    return (slice(None), *place[1:]) if len(place) == 2 else tuple(place)


def _frame(values: tuple[float, ...]) -> Array:
    return np.asarray(values)[:, None, None]


def _mask(kind: str, shape: tuple[int, ...]) -> Array:
    last = shape[-1] if shape else 1
    row = {
        "all true": np.ones(last),
        "all false": np.zeros(last),
        "first half true": np.arange(last) < max(1, last // 2),
        "one true": np.arange(last) < 1,
    }[kind]
    return np.broadcast_to(row if shape else row[0], shape)


def _integers(kind: str, shape: tuple[int, ...], low: int, high: int) -> Array:
    if kind == TURNS:
        return (low + np.arange(int(np.prod(shape))) % (high - low)).reshape(shape)
    return np.full(shape, low if kind == "lowest integers" else high - 1)
