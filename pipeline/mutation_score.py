"""What became of injected faults: the share that was caught, and the kinds that were not.

A score is no proof. It says which kinds of faults the cases of a bundle would notice, and names those that they would
not, so that whoever fears one of these can add a case.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from attn_export import bundle
from attn_export.errors import InconclusiveError
from attn_export.types import Summarised

Verdict = Literal["killed", "survived", "equivalent", "invalid"]


@dataclass(frozen=True)
class MutantResult:
    """What became of one mutant.

    Attributes:
        name: kind and place of the fault.
        kind: kind alone.
        verdict: ``killed`` by the gate; ``survived`` it; ``equivalent`` to the model in float64; ``invalid``: the
            runtime refused it before anything could be compared.
        normalized_error: largest error in units of what float32 is allowed; infinite where nothing could be compared.
        margin: how many times below its bound a survivor's error stays.
        float64_distance: a survivor's true distance from the model, evaluated in float64, relative to the output.
        caught_by_audit: the graph audit that notices a survivor; empty where none does.
        reason: how it was decided, in words.
    """

    name: str
    kind: str
    verdict: Verdict
    normalized_error: float
    margin: float = 0.0
    float64_distance: float = 0.0
    caught_by_audit: str = ""
    reason: str = ""


@dataclass(frozen=True)
class MutationScore(Summarised):
    """What became of the mutants that were tried, out of all that could be made; ``untried`` kinds had no time left."""

    mode: str
    possible: int
    mutants: tuple[MutantResult, ...]
    duration_s: float
    untried: tuple[str, ...] = ()

    def count(self, verdict: Verdict) -> int:
        """How many mutants have this verdict."""
        return sum(result.verdict == verdict for result in self.mutants)

    @property
    def score(self) -> float:
        """Killed among those killed or survived; NaN where there is none."""
        judged = self.count("killed") + self.count("survived")
        return self.count("killed") / judged if judged else float("nan")

    @property
    def missed(self) -> tuple[str, ...]:
        """The kinds of which something survives that no graph audit sees."""
        rows = (result for result in self.mutants if result.verdict == "survived" and not result.caught_by_audit)
        return tuple(dict.fromkeys(result.kind for result in rows))

    @property
    def vacuous(self) -> tuple[str, ...]:
        """The trivial mutants that were not killed."""
        trivial = (result for result in self.mutants if result.kind in bundle.TRIVIAL)
        return tuple(result.name for result in trivial if result.verdict != "killed")

    def summary(self) -> str:
        """Say the score in one line."""
        judged = self.count("killed") + self.count("survived")
        text = f"mutation score {self.score:.0%}: {self.count('killed')} of {judged} injected faults caught"
        if seen := sum(bool(result.caught_by_audit) for result in self.mutants):
            others = self.count("survived")
            text += f", {'' if seen == others else f'{seen} of '}the other {others} by the graph audit"
        if equal := self.count("equivalent"):
            text += f", {equal} equivalent"
        if self.missed:
            text += f"; not caught: {', '.join(self.missed)}"
        left = f", {len(self.untried)} kinds left for want of time" if self.untried else ""
        return f"{text} ({len(self.mutants)} of {self.possible} tried{left}, {self.duration_s:.1f} s)"

    def to_dict(self) -> dict[str, Any]:
        """Give the score as plain data, for the manifest."""
        rows = [{k: None if v == float("inf") else v for k, v in asdict(result).items()} for result in self.mutants]
        return {
            "mode": self.mode,
            "possible": self.possible,
            "tried": len(self.mutants),
            **{verdict: self.count(verdict) for verdict in ("killed", "survived", "equivalent", "invalid")},
            "score": self.score if self.score == self.score else None,
            "vacuous": list(self.vacuous),
            "untried": list(self.untried),
            "duration_s": self.duration_s,
            "mutants": rows,
        }


def refuse_vacuous(score: MutationScore) -> None:
    """Refuse a gate that the input itself or zeros pass.

    Raises:
        InconclusiveError: it is vacuous.
    """
    if score.vacuous:
        raise InconclusiveError(
            f"the parity check is vacuous: it lets '{score.vacuous[0]}' pass, so its verdict says nothing;"
            " use weights and inputs on which the model does something (--weights, --data)"
        )
