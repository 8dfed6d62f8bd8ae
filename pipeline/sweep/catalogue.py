"""Which jobs the catalogue has."""

from __future__ import annotations

from collections.abc import Sequence

from attn_export.mechanisms import MECHANISMS, static_spec
from attn_export.pipeline.sweep.job import SweepJob


def jobs(families: Sequence[str], presets: Sequence[str], *, fuse: bool | None, variants: bool) -> list[SweepJob]:
    """Every job of the catalogue: the named presets where an entry has them, and its variants.

    ``fuse`` None runs each both plain and fused.
    """
    found = []
    for name, place in MECHANISMS.entries.items():
        if place.path is None or (families and place.family not in families):
            continue
        spec = static_spec.read(place.path).spec
        chosen = [p for p in presets if p in spec.configurations] + (list(spec.variants) if variants else [])
        for preset in dict.fromkeys(chosen):
            found += [SweepJob(name, preset, mode) for mode in ((False, True) if fuse is None else (fuse,))]
    return found
