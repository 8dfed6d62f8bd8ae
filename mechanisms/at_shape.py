"""The preset of an entry at a shape that none of its presets has: behind a layer of a network, or for a comparison.

| argument of the constructor | at another shape |
|---|---|
| a dimension of the input, as ``channels`` | the size that it has there |
| ``out_channels``, ``outputs`` | the channels, so that the shape is kept |
| ``size``, ``height``, ``width`` | of the map; of tokens, that of a square map of as many |
| ``heads`` | of the preset where that divides the channels, else heads as wide as the preset's |
| ``d_k``, ``d_v`` | the channels of one head |
| a width inside, as ``hidden`` | the same share of the channels as in the preset |
| ``stride`` | the constructor's own |
| one that the constructor works out (its default is None) | left to it |
| any other | as in the preset |
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from attn_export.errors import UsageError
from attn_export.mechanisms.spec import Preset, Spec

#: What an entry takes: ``b c h w``, ``b h w c``, ``b n c``, or an image.
Layout = Literal["map", "channels last", "tokens", "network"]

_CHANNELS = ("channels", "c")
_WIDTHS = ("features", "descriptors", "middle", "hidden", "widths", "dim")


def layout_of(spec: Spec, preset: Preset) -> Layout:
    """Say what kind of tensor an entry takes under a preset.

    Raises:
        UsageError: neither maps, tokens nor images.
    """
    shapes = [item.shape for item in preset.inputs or spec.inputs]
    first = shapes[0]
    if any(len(shape) != len(first) for shape in shapes):
        raise UsageError("takes inputs of several kinds")
    if len(first) == 3 and first[2] in _CHANNELS:
        return "tokens"
    if len(first) == 4 and len(shapes) == 1:
        if first[1] == 3 or first[1] == "in_channels":
            return "network"
        if first[1] in _CHANNELS:
            return "map"
        if first[3] in _CHANNELS:
            return "channels last"
    raise UsageError(f"takes {', '.join(' x '.join(map(str, shape)) for shape in shapes)}, no maps, tokens or images")


def inside(layout: Layout, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Give the shape that an entry of a layout gets of a map ``b c h w``, or of tokens.

    >>> inside("tokens", (2, 64, 7, 7)), inside("channels last", (2, 64, 7, 9)), inside("map", (2, 64, 7, 9))
    ((2, 49, 64), (2, 7, 9, 64), (2, 64, 7, 9))
    """
    if len(shape) == 4 and layout == "tokens":
        return shape[0], shape[2] * shape[3], shape[1]
    if len(shape) == 4 and layout == "channels last":
        return shape[0], shape[2], shape[3], shape[1]
    return shape


def at_shape(spec: Spec, preset: Preset, shape: Sequence[int], given: Mapping[str, Any] | None = None) -> Preset:
    """Give the preset for inputs of another shape.

    Args:
        spec: of the entry.
        preset: where all that does not depend on the shape is taken from.
        shape: of a tensor in the entry's own layout, such as ``(2, 64, 56, 56)`` or ``(1, 196, 384)``.
        given: arguments of the constructor that go before all others.

    Raises:
        UsageError: the entry has no such layout, or a dimension of it cannot have that size.
    """
    layout = layout_of(spec, preset)
    if len(shape) != (3 if layout == "tokens" else 4):
        raise UsageError(f"takes {_WORDS[layout]}, got {'x'.join(map(str, shape))}")
    build = preset.build or spec.build
    bound = _bound(spec, preset, shape)
    if layout == "network":
        arguments = {name: bound.get(name, value) for name, value in preset.arguments.items()}
    else:
        arguments = _arguments(build, preset, layout, shape, bound)
    takes = inspect.signature(build).parameters
    arguments |= dict(given or {})
    if unknown := sorted(arguments.keys() - takes.keys()):
        raise UsageError(f"takes {', '.join(takes)}; got {unknown[0]!r}")
    sizes = {name: size for name, size in bound.items() if name not in takes}
    return replace(preset, arguments=arguments, sizes=sizes, build=build)


_WORDS = {
    "map": "maps b x c x h x w",
    "channels last": "maps b x h x w x c",
    "tokens": "tokens b x n x c",
    "network": "images b x 3 x h x w",
}


def _bound(spec: Spec, preset: Preset, shape: Sequence[int]) -> dict[str, int]:
    """Give every named dimension of the inputs its size."""
    found: dict[str, int] = {}
    for item in preset.inputs or spec.inputs:
        for dim, size in zip(item.shape, shape, strict=True):
            fixed = dim if isinstance(dim, int) else found.setdefault(dim, size)
            if fixed != size:
                raise UsageError(f"takes {item.name} of {' x '.join(map(str, item.shape))}; got {size} beside {fixed}")
    return found


def _arguments(
    build: Callable[..., Any], preset: Preset, layout: Layout, shape: Sequence[int], bound: Mapping[str, int]
) -> dict[str, Any]:
    channels = shape[1] if layout == "map" else shape[-1]
    height, width = _map(layout, shape)
    own = preset.arguments
    before = own.get("channels", channels)
    found: dict[str, Any] = {}
    for name, parameter in inspect.signature(build).parameters.items():
        if name in bound:
            found[name] = bound[name]
        elif name in ("height", "width"):
            found[name] = _side(name, height if name == "height" else width, shape)
        elif name == "size" and (name in own or parameter.default is not None):
            found[name] = (_side(name, height, shape), _side(name, width, shape))
        elif name in ("out_channels", "outputs") and (name in own or parameter.default is not None):
            found[name] = channels
        elif parameter.default is None or name == "stride" or (name not in own and name not in ("d_k", "d_v")):
            continue
        elif name == "heads":
            found[name] = _heads(own[name], before, channels)
        elif name in _WIDTHS:
            found[name] = _share(own[name], before, channels)
        elif name in own:
            found[name] = own[name]
    heads = found.get("heads", own.get("heads", 1))
    return found | {name: max(1, channels // heads) for name in ("d_k", "d_v") if name in found and name in own}


def _map(layout: Layout, shape: Sequence[int]) -> tuple[int, int]:
    """Give the height and width of a map, or of the square map that tokens are of; zeros where they are of none."""
    if layout == "tokens":
        side = math.isqrt(shape[1])
        return (side, side) if side * side == shape[1] else (0, 0)
    return (shape[2], shape[3]) if layout == "map" else (shape[1], shape[2])


def _side(name: str, side: int, shape: Sequence[int]) -> int:
    if not side:
        raise UsageError(f"has a fixed {name}, and {shape[1]} tokens are no square map; give it")
    return side


def _heads(heads: int, before: int, channels: int) -> int:
    """Keep the number of heads, else their width, else what divides.

    >>> _heads(8, 512, 384), _heads(3, 96, 64), _heads(3, 96, 50)
    (8, 2, 1)
    """
    if channels % heads == 0:
        return heads
    wide = before // heads
    return channels // wide if channels % wide == 0 else math.gcd(heads, channels)


def _share(width: int | Sequence[int], before: int, channels: int) -> Any:
    """Scale a width with the channels; 0 stays 0.

    >>> _share(128, 512, 64), _share((32, 32), 64, 256), _share(0, 64, 8)
    (16, (128, 128), 0)
    """
    if isinstance(width, int):
        return max(1, round(width * channels / before)) if width else 0
    return tuple(max(1, round(one * channels / before)) for one in width)
