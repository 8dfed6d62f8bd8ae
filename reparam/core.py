"""Plan and prove: what both entry points do between reading a model and writing it.

It knows the small graph only, neither PyTorch's graphs nor ONNX's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from attn_export.reparam import account, ir
from attn_export.reparam.planning.plan import FusionPlan, Merge, Planner
from attn_export.reparam.proof import certify
from attn_export.reparam.result import CERTIFICATE_BOUND, Refusal, Site

#: Plans that are made one after the other, each without the sites that failed in the one before.
_MOST_PLANS = 64


@dataclass(frozen=True)
class Planned:
    """A plan every site of which is proven, with the proofs and what was refused."""

    plan: FusionPlan
    proofs: tuple[certify.Proof, ...]
    refusals: tuple[Refusal, ...]

    @property
    def bound(self) -> float:
        """What the whole may differ by: more where a site relies on a constant that is right up to rounding only."""
        return certify.ROUNDED_BOUND if any(p.rounded for p in self.proofs) else CERTIFICATE_BOUND

    def sites(self, original: ir.Graph, *, quantization_error: bool) -> tuple[Site, ...]:
        """Describe every merge, where asked for with what low precision loses in it."""
        return tuple(
            account.site(original, self.plan.graph, merge, proof, quantization_error=quantization_error)
            for merge, proof in zip(self.plan.merges, self.proofs, strict=True)
        )


def plan_and_prove(graph: ir.Graph, planner: Planner, bound: float = CERTIFICATE_BOUND) -> Planned:
    """Plan, prove every site, and plan again without those that fail."""
    failed: list[Refusal] = []
    for _ in range(_MOST_PLANS):
        with np.errstate(over="ignore", invalid="ignore"):  # what grows beyond float64 is refused by what it gives
            plan = planner.run(graph)
            proofs = [certify.prove(graph, merge, planner.profile) for merge in plan.merges]
        wrong = [(m, p) for m, p in zip(plan.merges, proofs, strict=True) if not p.ok(bound)]
        if not wrong:
            break
        for merge, proof in wrong:
            bits = "bits differ under dyadic weights"
            failed.append(rolled_back(merge, bits if proof.structure is False else f"it is off by {proof.error:.2g}"))
            planner.banned |= {(merge.root, target) for target in merge.targets}
    else:  # whatever it tries fails: nothing is changed
        plan, proofs = FusionPlan(graph, []), []
    return Planned(plan, tuple(proofs), (*failed, *account.refusals(plan, planner)))


def rolled_back(merge: Merge, what: str) -> Refusal:
    """Say of a merge that it was undone, and why."""
    return Refusal(
        account.site_name(merge.origins, merge.targets[-1]),
        f"rolled back: its certificate failed ({what})",
        "report the model: an exact rule should not fail",
        "rolled back",
    )
