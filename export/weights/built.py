"""Build a catalogue entry around weights: the options that they mean go over those of the preset."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from attn_export.errors import CheckpointError
from attn_export.export.construct import construct
from attn_export.export.weights import fit, implementations
from attn_export.export.weights.state_dict import State
from attn_export.mechanisms.spec import Preset, Spec
from attn_export.untrusted import text


@dataclass(frozen=True)
class Built:
    """A module with its weights.

    Attributes:
        module: in the element type that was asked for.
        preset: the one given, with the arguments that the weights told.
        chosen: whose weights they are.
        filled: what was put in.
    """

    module: nn.Module
    preset: Preset
    chosen: implementations.Chosen
    filled: fit.Filled


def build(
    entry: str,
    spec: Spec,
    preset: Preset,
    state: State,
    *,
    named: str = "",
    variant: str | None = None,
    seed: int = 0,
    strict: bool = True,
    dtype: torch.dtype | None = None,
) -> Built:
    """Build the entry as the function that its weights mean, and fill it.

    Args:
        entry: its name.
        spec: of the entry.
        preset: what the weights do not tell.
        state: names and tensors as the file has them.
        named: the preset's name, since a source may be refused under one.
        variant: a source by its name, where names do not tell.
        seed: of whatever the weights leave alone.
        strict: whether names that find no partner are an error.
        dtype: of the module; as it is constructed unless given.

    Raises:
        CheckpointError: nothing here computes what the weights mean, or they do not fit.
        UsageError: there is no such variant.
    """
    module = construct(preset.build or spec.build, preset.arguments, seed)
    chosen = implementations.choose(entry, spec, state, module.state_dict().keys(), variant, named)
    more: Mapping[str, Any] = implementations.arguments(chosen)
    if more:
        preset = replace(preset, arguments={**preset.arguments, **more})
        try:
            module = construct(preset.build or spec.build, preset.arguments, seed)
        except (ValueError, TypeError) as error:
            raise CheckpointError(
                text.one_line(f"{chosen.said[-1]}, the weights ask of {entry} for: {error}")
            ) from error
    if dtype is not None:
        module = module.to(dtype)
    return Built(module, preset, chosen, fit.fill(module, chosen.state, spec=spec, source=chosen.source, strict=strict))
