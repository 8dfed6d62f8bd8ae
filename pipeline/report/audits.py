"""What stands beside the verdict in a report: the graph audits, and what other rules say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from attn_export import bundle

#: The figure that shows how near each rule came, and whether the smallest or the largest is the worst.
_FIGURES = {
    "allclose 1e-3": ("max_abs", max, "largest difference"),
    "allclose 1e-5": ("max_abs", max, "largest difference"),
    "cosine > 0.997": ("cosine", min, "least cosine"),
    "PSNR >= 30 dB": ("psnr_db", min, "least PSNR in dB"),
    "torch's verify": ("max_abs", max, "largest difference"),
    "top-1 equal": ("top1", min, "least share of equal rows"),
}
#: The audits of constants and attributes, in the order in which they are shown.
_AUDITS = ("constants", "attributes", "outside_fused_sites")


@dataclass(frozen=True)
class OtherRule:
    """What one of the usual rules says of the same outputs: how many of the comparisons pass, and the worst figure."""

    rule: str
    passed: int
    compared: int
    figure: str
    worst: float | None

    @property
    def answer(self) -> str:
        """Whether the rule would let the model pass."""
        return "passes" if self.passed == self.compared else "fails"


def other_rules(run: Mapping[str, Any]) -> list[OtherRule]:
    """List what each usual rule says of a run; nothing where that was not recorded."""
    rows = [
        row for row in (run.get("parity") or {}).get("comparisons", []) if row.get("other_rules") or row.get("failure")
    ]
    known = next((row["other_rules"] for row in rows if row.get("other_rules")), ())
    found = []
    for rule in known:
        key, worst, name = _FIGURES.get(rule, ("", max, ""))
        figures = [row["metrics"][key] for row in rows if row.get("metrics") and row["metrics"].get(key) is not None]
        passed = sum(
            bool((row.get("other_rules") or {}).get(rule)) for row in rows
        )  # what could not be compared passes none
        found.append(OtherRule(rule, passed, len(rows), name, worst(figures) if figures else None))
    return found


def audits(manifest: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Give name, answer and figures of each audit, as the manifest recorded them."""
    recorded = manifest.get("audits") or {}
    rows = []
    for name in _AUDITS:
        if not (audit := recorded.get(name)):
            continue
        left, good = len(audit["unmatched"]), not audit["findings"]
        text = f"{audit['checked']} compared, {len(audit['findings'])} differ"
        text += (
            "" if audit["ok"] == good else f", and the record says that {'all' if audit['ok'] else 'not all'} is well"
        )
        text += f", {left} written by a stage, so there is no original to compare with" if left else ""
        rows.append((name.replace("_", " "), "passed" if audit["ok"] and good else "failed", text))
    layers = recorded.get("layers") or {}
    if layers.get("worst"):
        worst = max(layers["worst"], key=lambda row: float(row["error_ulp"]))
        limit = min(layers["error_ulp_limit"], bundle.LOCAL)
        text = (
            f"{layers['checked']} layers in float64, each on the runtime's own inputs; worst {worst['op']}"
            f" {worst['node']}: {worst['error_ulp']:.3g} ulp (limit {limit:g})"
        )
        # Correct graphs come near this limit, so that what lies beyond it proves nothing either way.
        answer = "passed" if worst["error_ulp"] <= limit else "inconclusive"
        rows.append(("each layer by itself", answer, text))
    return rows


def sampling(mutation: Mapping[str, Any]) -> str:
    """Say which faults were injected."""
    mutants: Sequence[Mapping[str, Any]] = mutation.get("mutants") or ()
    kinds = {mutant["kind"] for mutant in mutants if "kind" in mutant}
    tried, possible = len(mutants), mutation.get("possible", len(mutants))
    if tried == possible:
        return f"All {possible} faults that can be injected were, of {len(kinds)} kinds."
    return (
        f"{tried} of the {possible} possible faults were injected: at least one of each of the {len(kinds)} kinds that"
        " apply here, from the middle of the graph outwards, until the time was up; `--mutants full` injects all of"
        " them."
    )
