"""Put a mechanism of the catalogue behind layers of a network: a copy, which keeps every name of the network's own.

    y = layer(x)   →   y = mechanism(layer(x))       the mechanism is a part of the layer, under its own name

So a checkpoint of the network still fits, and what is new stands in the state dict as ``layer.mechanism.…``.
"""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from attn_export.errors import UsageError
from attn_export.export.construct import construct
from attn_export.export.copies import copied
from attn_export.export.outputs import called
from attn_export.export.parts import evaluating
from attn_export.mechanisms import MECHANISMS
from attn_export.mechanisms.at_shape import Layout, at_shape, inside, layout_of
from attn_export.mechanisms.spec import Preset, Spec, call

#: Modules that an error names.
_SHOWN = 5


@dataclass(frozen=True)
class Inserted:
    """A network with a mechanism in it.

    Attributes:
        module: the copy; in training or evaluation mode as the original, part by part.
        places: by name of the layer, the shape that it gives, and what was built behind it, as a call.
    """

    module: nn.Module
    places: Mapping[str, tuple[tuple[int, ...], str]]


class Adapted(nn.Module):
    """A mechanism in the layout of what it stands behind.

    Maps become tokens, ``b c h w → b (h w) c``, or put their channels last, and come back as they were.
    """

    def __init__(self, mechanism: nn.Module, layout: Layout, inputs: int, *, is_map: bool) -> None:
        super().__init__()
        self.mechanism = mechanism
        self.layout, self.inputs, self.is_map = layout, inputs, is_map

    def forward(self, x: Tensor) -> Tensor:
        """Give a tensor of the shape of ``x``; a mechanism of several inputs gets it as all of them."""
        inside = x
        if self.is_map and self.layout == "tokens":
            inside = x.flatten(2).transpose(1, 2)
        elif self.is_map and self.layout == "channels last":
            inside = x.permute(0, 2, 3, 1)
        y: Tensor = self.mechanism(*[inside] * self.inputs)
        if self.is_map and self.layout == "tokens":
            return y.transpose(1, 2).reshape(x.shape)
        return y.permute(0, 3, 1, 2) if self.is_map and self.layout == "channels last" else y


class _Behind:
    """A hook behind a layer: what the layer gives goes through the part of that name."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, layer: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        part = getattr(layer, self.name)
        found: Tensor = part(output)
        return found


def insert(
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    mechanism: str,
    after: Sequence[str],
    *,
    preset: str | None = None,
    arguments: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Inserted:
    """Put a mechanism behind every layer whose name one of the patterns matches.

    Args:
        module: never changed.
        inputs: of one run by name, which tells what shape each layer gives.
        mechanism: a name of the catalogue.
        after: patterns over the names of ``named_modules``, where ``*`` stands for dots as well.
        preset: of the mechanism; what depends on the shape is made for the layer's (``mechanisms.at_shape``).
        arguments: of the mechanism's constructor, which go before those of the preset.
        seed: of its initial weights, which are those of its constructor.

    Raises:
        UsageError: nothing matches, a layer cannot have something behind it, or the mechanism does not fit there.
        SubjectError: the network does not run.
    """
    spec = MECHANISMS[mechanism]
    base = spec.configurations[spec.named(mechanism, preset)]
    names = matched(module, after)
    shapes = _shapes(module, inputs, names)
    made, places = copied(module), {}
    for name in names:
        part, call = _built(name, shapes[name], mechanism, spec, base, arguments or {}, seed)
        _put(made.get_submodule(name), mechanism, part, name)
        places[name] = tuple(shapes[name].shape), call
    return Inserted(made, places)


def matched(module: nn.Module, patterns: Sequence[str]) -> list[str]:
    """List the parts whose names a pattern matches, in the order of the network.

    Raises:
        UsageError: one of the patterns matches nothing.
    """
    known = [name for name, _ in module.named_modules() if name]
    for pattern in patterns:
        if not fnmatch.filter(known, pattern):
            near = difflib.get_close_matches(pattern.replace("*", ""), known, n=3, cutoff=0.3) or known[:_SHOWN]
            raise UsageError(
                f"--after {pattern!r} matches no module of {type(module).__name__}, which has {len(known)};"
                f" did you mean {' or '.join(map(repr, near))}?"
            )
    if not patterns:
        raise UsageError("expected a pattern of module names, got none; give for example --after 'layer*.conv2'")
    return [name for name in known if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)]


def _shapes(module: nn.Module, inputs: Mapping[str, Tensor], names: Sequence[str]) -> dict[str, Tensor]:
    """Run a copy, and keep what each of the layers gives.

    Raises:
        UsageError: one of them does not run, gives no single tensor, or tensors of several shapes.
    """
    ran = evaluating(copied(module))
    seen: dict[str, list[object]] = {name: [] for name in names}
    with ExitStack() as stack:
        for name in names:
            keep = seen[name].append
            hook = ran.get_submodule(name).register_forward_hook(lambda _m, _i, output, keep=keep: keep(output))
            stack.callback(hook.remove)
        called(ran, inputs)
    found = {}
    for name, outputs in seen.items():
        if not outputs:
            raise UsageError(f"{name!r} did not run on these inputs, so nothing can be put behind it")
        first = outputs[0]
        if not isinstance(first, Tensor) or not first.is_floating_point():
            kind = f"{first.dtype} numbers" if isinstance(first, Tensor) else f"a {type(first).__name__}"
            raise UsageError(f"expected {name!r} to give one tensor of floats, got {kind}; choose a part inside of it")
        if any(not isinstance(one, Tensor) or one.shape != first.shape for one in outputs):
            raise UsageError(f"{name!r} runs {len(outputs)} times on several shapes: expected one; choose another part")
        found[name] = first
    return found


def _built(
    place: str,
    output: Tensor,
    mechanism: str,
    spec: Spec,
    base: Preset,
    arguments: Mapping[str, Any],
    seed: int,
) -> tuple[nn.Module, str]:
    """Build a mechanism for one place, and hold it to the shape.

    Raises:
        UsageError: it cannot be built for that shape, does not run on it, or does not keep it.
    """
    shape = tuple(output.shape)
    text = "x".join(map(str, shape))
    try:
        layout = layout_of(spec, base)
        is_map = len(shape) == 4
        if layout == "network":
            raise UsageError("is a whole network, which takes images")
        settings = at_shape(spec, base, inside(layout, shape), arguments)
        assert settings.build is not None
        module = construct(settings.build, settings.arguments, seed)
    except UsageError as error:
        raise UsageError(f"{mechanism} behind {place!r}, which gives {text}: {error}") from error
    part: nn.Module = module
    count = len(base.inputs or spec.inputs)
    if count > 1 or (is_map and layout != "map"):
        part = Adapted(module, layout, count, is_map=is_map)
    part = evaluating(part.to(output.device, output.dtype))
    try:
        with torch.no_grad():
            came = part(output)
    except (RuntimeError, ValueError, IndexError, AssertionError) as error:
        line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UsageError(f"{mechanism} does not run on the {text} that {place!r} gives: {line}") from error
    if not isinstance(came, Tensor) or came.shape != output.shape:
        kind = "x".join(map(str, came.shape)) if isinstance(came, Tensor) else f"a {type(came).__name__}"
        raise UsageError(
            f"{mechanism} does not keep the shape: behind {place!r} it gets {text} and gives {kind}, which the layer"
            " after it was not made for; choose a mechanism, or --mechanism-kwargs, that keep it"
        )
    return part, call(type(module).__name__, settings.arguments)


def _put(layer: nn.Module, name: str, part: nn.Module, place: str) -> None:
    """Make ``part`` a part of ``layer``, behind all that it does.

    Raises:
        UsageError: the layer has something of that name, or runs its parts by itself.
    """
    if isinstance(layer, nn.ModuleList | nn.ModuleDict):
        raise UsageError(f"{place!r} is a {type(layer).__name__}, which runs its parts by itself; choose one of these")
    if hasattr(layer, name):
        raise UsageError(f"{place!r} has a part {name!r} already; choose a part inside of it, or one behind it")
    in_order = type(layer).forward is nn.Sequential.forward
    part.train(layer.training)
    layer.add_module(name, part)
    if not in_order:  # a Sequential runs a part that is added to it last, by itself
        layer.register_forward_hook(_Behind(name))
