"""What goes down the pipeline: a module in eval mode, what it takes, what may vary, where its weights are from."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from attn_export.errors import UnknownNameError, UsageError
from attn_export.export.weights import checkpoint, fit, implementations
from attn_export.export.weights.randomize import randomize
from attn_export.mechanisms.spec import Input, Preset, Spec, sizes_of
from attn_export.types import Dim


@dataclass(frozen=True)
class Subject:
    """A module to be deployed.

    Attributes:
        name: how the user called it.
        module: in eval mode, float32; never changed by any stage.
        inputs: names, shapes (numbers and dimension names) and element types, in the order of ``forward``.
        sizes: the size of each named dimension at which the module is traced.
        dynamic: the dimensions that may vary.
        weights: where the weights came from, in words, with a seed or a sha256.
    """

    name: str
    module: nn.Module
    inputs: tuple[Input, ...]
    sizes: Mapping[str, int]
    dynamic: tuple[Dim, ...] = ()
    weights: str = ""
    notes: tuple[str, ...] = field(default=())

    def example(
        self, *, seed: int = 0, scale: float = 1.0, sizes: Mapping[str, int] | None = None
    ) -> dict[str, Tensor]:
        """Draw inputs: normal floats times ``scale``, uniform integers, booleans true one time in four.

        ``sizes`` replaces the traced sizes of the dimensions it names.
        """
        known = {**self.sizes, **(sizes or {})}
        return {item.name: draw(item, known, seed, scale) for item in self.inputs}


def draw(item: Input, sizes: Mapping[str, int], seed: int, scale: float = 1.0) -> Tensor:
    """Draw one input tensor; the same arguments give the same values on every machine."""
    shape = tuple(sizes[dim] if isinstance(dim, str) else dim for dim in item.shape)
    random = np.random.default_rng([seed, zlib.crc32(item.name.encode())])
    match item.dtype:
        case "float32":
            return torch.from_numpy(np.asarray(random.standard_normal(shape) * scale, np.float32))
        case "int64":
            assert isinstance(item.high, int)
            return torch.from_numpy(np.asarray(random.integers(0, item.high, shape)))
        case "bool":
            return torch.from_numpy(np.asarray(random.random(shape) < 0.25))


def from_spec(
    name: str,
    spec: Spec,
    preset: str | None = None,
    *,
    seed: int = 0,
    weights: Path | None = None,
    strict: bool = True,
    variant: str | None = None,
    weights_key: str | None = None,
) -> Subject:
    """Build a catalogue entry under one of its presets, with awakened weights or those of a checkpoint.

    A checkpoint of another implementation may need other constructor arguments: those of the source that its names
    show, or of ``variant``, go over the preset's.

    Raises:
        UnknownNameError: there is no such preset, or no such variant.
        CheckpointError: the checkpoint cannot be read, does not fit, or means a function that is none of the entry's.
    """
    chosen = preset or (spec.default if spec.default in spec.configurations else next(iter(spec.presets)))
    if chosen not in spec.configurations:
        raise UnknownNameError(f"preset of {name}", chosen, spec.configurations)
    settings: Preset = spec.configurations[chosen]
    module = build(settings.build or spec.build, dict(settings.arguments), seed)
    inputs = tuple(_resolved(item, settings) for item in settings.inputs or spec.inputs)
    if weights is None:
        randomize(module, seed)
        origin = f"awakened from seed {seed}"
    else:
        taken = checkpoint.take(weights, weights_key)
        theirs = implementations.choose(name, spec, taken.state, module.state_dict().keys(), variant, chosen)
        more = implementations.arguments(theirs)
        if more:
            module = build(settings.build or spec.build, {**settings.arguments, **more}, seed)
        filled = fit.fill(module, theirs.state, spec=spec, source=theirs.source, strict=strict)
        origin = checkpoint.origin(weights, taken, theirs, filled)
    dynamic = spec.dynamic if settings.dynamic is None else settings.dynamic
    label = name if preset is None else f"{name}:{chosen}"
    return Subject(label, module, inputs, sizes_of(inputs, settings), dynamic, origin)


def build(factory: object, arguments: dict[str, object], seed: int) -> nn.Module:
    """Call a constructor under a seed, leaving the caller's random state alone; the module comes in eval mode.

    Raises:
        UsageError: the constructor refuses the arguments, or what it gives is no module.
    """
    assert callable(factory)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            module = factory(**arguments)
        except (TypeError, ValueError) as error:
            name = getattr(factory, "__name__", str(factory))
            raise UsageError(f"{name}({', '.join(f'{k}={v!r}' for k, v in arguments.items())}): {error}") from error
    if not isinstance(module, nn.Module):
        raise UsageError(f"wanted a function or class that gives a torch.nn.Module; it gave a {type(module).__name__}")
    return module.eval()


def _resolved(item: Input, preset: Preset) -> Input:
    high = preset.arguments[item.high] if isinstance(item.high, str) else item.high
    return Input(item.name, item.shape, item.dtype, high)


def with_dynamic(subject: Subject, wanted: str) -> Subject:
    """Keep the dynamic dimensions that the user asked for: ``batch`` (called ``b``), ``all``, ``none``, or names.

    Raises:
        UsageError: a name is no dimension of the subject that may vary.
    """
    known = {dim.name: dim for dim in subject.dynamic}
    names: Sequence[str]
    match wanted:
        case "none":
            names = ()
        case "all":
            names = tuple(known)
        case "batch":
            names = ("b",) if "b" in known else ()
        case _:
            names = [name.strip() for name in wanted.split(",")]
    for name in names:
        if name not in known:
            raise UnknownNameError(f"dynamic dimension of {subject.name}", name, [*known, "all", "batch", "none"])
    return replace(subject, dynamic=tuple(known[name] for name in names))
