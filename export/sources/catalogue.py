"""A catalogue entry as a subject, under one of its presets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from attn_export.errors import UsageError
from attn_export.export.source import Source, SourceOptions
from attn_export.mechanisms import MECHANISMS
from attn_export.mechanisms.spec import Input, Preset, Spec, sizes_of

if TYPE_CHECKING:
    from attn_export.export.subject import Subject


class _Catalogue:
    def claims(self, text: str) -> bool:
        return text in MECHANISMS

    def load(self, options: SourceOptions) -> Subject:
        from attn_export.export.subject import with_dynamic

        name = options.text
        if options.inputs or options.arguments or options.outputs:
            raise UsageError(
                f"{name} is a catalogue entry: choose --preset; --outputs, --input and --kwargs are for your own code"
            )
        built = from_spec(
            name,
            MECHANISMS[name],
            options.preset,
            seed=options.seed,
            weights=options.weights,
            strict=options.strict,
            variant=options.variant,
            weights_key=options.weights_key,
        )
        return with_dynamic(built, options.dynamic or "batch")


SOURCE: Source = _Catalogue()


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
    """Build a catalogue entry under one of its presets, with random weights or those of a checkpoint.

    A checkpoint of another implementation may need other constructor arguments: those of the source that its names
    show, or of ``variant``, go over the preset's.

    Raises:
        UnknownNameError: there is no such preset, or no such variant.
        CheckpointError: the checkpoint cannot be read, does not fit, or means a function that is none of the entry's.
    """
    from attn_export.export.construct import construct
    from attn_export.export.subject import Subject
    from attn_export.export.weights import built, checkpoint
    from attn_export.export.weights.randomize import randomize

    chosen = spec.named(name, preset)
    settings: Preset = spec.configurations[chosen]
    if weights is None:
        module = construct(settings.build or spec.build, settings.arguments, seed)
        randomize(module, seed)
        origin = f"random, seed {seed}"
    else:
        taken = checkpoint.take(weights, weights_key)
        made = built.build(name, spec, settings, taken.state, named=chosen, variant=variant, seed=seed, strict=strict)
        module, settings = made.module, made.preset
        origin = checkpoint.origin(weights, taken, made.chosen, made.filled)
    inputs = tuple(_resolved(item, settings) for item in settings.inputs or spec.inputs)
    dynamic = spec.dynamic if settings.dynamic is None else settings.dynamic
    label = name if preset is None else f"{name}:{chosen}"
    sizes = sizes_of(inputs, settings)
    return Subject(label, module, inputs, sizes, dynamic, origin, random=weights is None)


def _resolved(item: Input, preset: Preset) -> Input:
    high = preset.arguments[item.high] if isinstance(item.high, str) else item.high
    return Input(item.name, item.shape, item.dtype, high)
