"""What stands beside the verdict in a report: the audits and layers of the second tier, and what other rules say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from attn_export import bundle

#: The figure that shows how near each classic rule came, and whether the smallest or the largest is the worst.
_FIGURES = {
    "allclose 1e-3": ("max_abs", max, "largest difference"),
    "allclose 1e-5": ("max_abs", max, "largest difference"),
    "cosine > 0.997": ("cosine", min, "least cosine"),
    "PSNR >= 30 dB": ("psnr_db", min, "least PSNR in dB"),
    "torch's verify": ("max_abs", max, "largest difference"),
    "top-1 equal": ("top1", min, "least share of equal rows"),
}


@dataclass(frozen=True)
class Classic:
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


def classic(run: Mapping[str, Any]) -> list[Classic]:
    """What each usual rule says of a run; empty where that was not recorded."""
    rows = [row for row in (run.get("parity") or {}).get("comparisons", []) if row.get("classic") or row.get("fault")]
    known = next((row["classic"] for row in rows if row.get("classic")), ())
    found = []
    for rule in known:
        key, worst, name = _FIGURES.get(rule, ("", max, ""))
        figures = [row["figures"][key] for row in rows if row.get("figures") and row["figures"].get(key) is not None]
        passed = sum(bool((row.get("classic") or {}).get(rule)) for row in rows)  # what has a fault passes none
        found.append(Classic(rule, passed, len(rows), name, worst(figures) if figures else None))
    return found


def second_tier(manifest: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Name, answer and figures of each check of the second tier, as the manifest recorded them."""
    tier = manifest.get("second_tier") or {}
    rows = []
    for name, audit in (tier.get("audits") or {}).items():
        left, good = len(audit["unaccounted"]), not audit["findings"]
        text = f"{audit['checked']} compared, {len(audit['findings'])} differ"
        text += (
            "" if audit["ok"] == good else f", and the record says that {'all' if audit['ok'] else 'not all'} is well"
        )
        text += f", {left} computed or rewritten by a stage and not compared" if left else ""
        rows.append((f"audit, {name}", "passed" if audit["ok"] and good else "failed", text))
    layers = tier.get("layers") or {}
    if layers.get("worst"):
        worst, bound = max(layers["worst"], key=lambda row: float(row["error"])), min(layers["bound"], bundle.LOCAL)
        text = (
            f"{layers['checked']} layers in float64 on the runtime's own inputs; worst {worst['op']} {worst['node']}:"
            f" {worst['error']:.3g} roundings of its natural size, bound {bound:g}"
        )
        # Correct graphs come near this bound, so that what lies beyond it proves nothing either way.
        answer = "passed" if worst["error"] <= bound else "inconclusive"
        rows.append(("every layer by itself", answer, text))
    return rows


def sampling(mutants: Mapping[str, Any]) -> str:
    """Which faults were planted, in a sentence."""
    fates: Sequence[Mapping[str, Any]] = mutants.get("fates") or ()
    kinds = {fate["kind"] for fate in fates if "kind" in fate}
    tried, possible = len(fates), mutants.get("possible", len(fates))
    if tried == possible:
        return f"All {possible} faults that can be planted were, of {len(kinds)} kinds."
    return (
        f"{tried} of the {possible} faults that can be planted were: at least one of each of the {len(kinds)} kinds"
        " that apply here, the middle of the graph first, then its quarters and eighths, until the time was up;"
        " `--mutants full` plants all."
    )
