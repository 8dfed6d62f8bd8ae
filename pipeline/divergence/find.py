"""Find where a bundle, a file or a subject diverges from another run: which pairs to compare, in turn."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from attn_export import bundle
from attn_export.deploy_tests.backends import BACKENDS, DEFAULT
from attn_export.errors import UsageError
from attn_export.pipeline.divergence.divergence import Divergence
from attn_export.pipeline.divergence.locate import first_divergence
from attn_export.pipeline.divergence.ports import aligned
from attn_export.pipeline.divergence.runs import Variant, in_order
from attn_export.pipeline.divergence.variants import VariantFactory


@dataclass(frozen=True)
class Found:
    """What was looked at, and the first divergence.

    Attributes:
        reference: the variant that is held true.
        suspect: the other.
        cases: how many inputs were looked at.
        divergence: None where there is none.
        interface: inputs and outputs that only one of them has, and another order, in words.
        notes: inputs and outputs that were paired in spite of their names, in words.
    """

    reference: Variant
    suspect: Variant
    cases: int
    divergence: Divergence | None
    interface: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, str]:
        """What the user calls the two."""
        return self.reference.text, self.suspect.text


def find(factory: VariantFactory, other: str | None = None, between: tuple[str, str] | None = None) -> Found:
    """Hold the variants against each other: ``between`` two, or the factory's own against ``other``.

    ``other`` is a backend (the one of the base install by default), another bundle, or an ONNX file.

    Raises:
        UsageError, LoadError, ConversionError, BackendError: one of them is nothing, or cannot be made or run.
    """
    pairs = list(_pairs(factory, other, between))
    cases = factory.seen
    notes = tuple(factory.notes)
    for pair in pairs:
        both = aligned(*in_order(*pair), tuple(cases.values()))
        sides, notes = (both.reference, both.suspect), notes + both.notes
        hit = first_divergence(*sides, cases.items(), factory.known) if both.comparable else None
        if hit is not None or both.differences:
            return Found(*sides, len(cases), hit, both.differences, notes)
    return Found(*pairs[0], len(cases), None, notes=notes)


def _pairs(
    factory: VariantFactory, other: str | None, between: tuple[str, str] | None
) -> Iterator[tuple[Variant, Variant]]:
    if between is not None:
        if other is not None or between[0] == between[1]:
            raise UsageError(
                "--between: expected two different sides, such as exported,simplified, and nothing beside them;"
                f" got {','.join(between)!r}"
            )
        yield factory.pair(*between)
        return
    other = other or DEFAULT
    if Path(other).is_dir() or other.endswith(".onnx"):
        yield factory.pair(other, "model")
        other = DEFAULT
    elif other not in BACKENDS:
        BACKENDS.entry(other)  # raises, and says which names are near
    reference = "model" if isinstance(factory.what, bundle.Bundle) else "original"
    yield factory.pair(reference, f"model@{other}")
