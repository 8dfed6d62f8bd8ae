"""What a fusion is: the new model, what was collapsed, what was not and why, and the proof that it is the same."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, TypeVar

from attn_export.types import Summarised

M = TypeVar("M")

#: A fused model agrees with the original in float64 to this, relative to the largest magnitude of each output.
CERTIFICATE_BOUND = 1e-12


@dataclass(frozen=True)
class Precision:
    """Error of a site's kernels in low precision, relative, worst output channel: branches rounded, then collapsed
    (before) against collapsed, then rounded (after).
    """

    int8_before: float
    int8_after: float
    fp16_before: float
    fp16_after: float


@dataclass(frozen=True)
class Site:
    """One place that was collapsed: where, which pattern, and what it cost before and after.

    ``before`` and ``after`` name operators in execution order; ``macs`` are multiply-accumulates for one example
    input, ``parameters`` counts of stored numbers. ``notes`` says what it relied on: "static" sizes, a coincidence of
    "value"s, "rounding" of a constant. ``structure`` tells whether fused and un-fused agree in every bit under dyadic
    weights (None: not tried), ``error`` the worst relative error in float64 with the real ones.
    """

    name: str
    pattern: str
    before: tuple[str, ...]
    after: tuple[str, ...]
    macs_before: int = 0
    macs_after: int = 0
    parameters_before: int = 0
    parameters_after: int = 0
    notes: tuple[str, ...] = ()
    structure: bool | None = None
    error: float | None = None
    precision: Precision | None = None


@dataclass(frozen=True)
class Refusal:
    """One place that was left alone: the condition that failed, and what would make it legal or worth it.

    ``kind`` sorts them: ``not exact``, ``does not pay``, ``shared``, ``kept``, ``rolled back``.
    """

    name: str
    reason: str
    remedy: str = ""
    kind: str = "not exact"

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}{f'; {self.remedy}' if self.remedy else ''}"


@dataclass(frozen=True)
class Certificate:
    """Fused against original, both in float64, by the largest error over everything (never a mean).

    ``errors`` holds one relative error for each input that was tried; where ``left_out`` says why the whole was not
    run, one for each site, on inputs of its own. NaN or infinity makes it fail.
    """

    errors: tuple[float, ...]
    bound: float = CERTIFICATE_BOUND
    left_out: str = ""

    @property
    def worst(self) -> float:
        """The largest error; NaN if any is NaN."""
        return max(self.errors, key=lambda e: (e != e, e), default=float("nan"))

    @property
    def ok(self) -> bool:
        """Whether something was tried and every error lies within the bound."""
        return bool(self.errors) and all(error <= self.bound for error in self.errors)


@dataclass(frozen=True)
class Fusion(Summarised, Generic[M]):
    """A fused model (module or graph) with the account of what was done to it."""

    model: M
    sites: tuple[Site, ...]
    certificate: Certificate
    refusals: tuple[Refusal, ...] = field(default=())

    def summary(self) -> str:
        """Say how much was fused, how far that is from the original, and how much was not."""
        certificate = self.certificate
        return (
            f"{len(self.sites)} regions fused, worst error {certificate.worst:.1e} in float64"
            f" (limit {certificate.bound:g}); {len(self.refusals)} not fused"
        )

    @property
    def rolled_back(self) -> tuple[Refusal, ...]:
        """The sites whose certificate failed."""
        return tuple(refusal for refusal in self.refusals if refusal.kind == "rolled back")
