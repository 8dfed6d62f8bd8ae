"""What a bundle records of its making: the manifest's and the report's content as plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx

from attn_export import bundle
from attn_export.deploy_tests.latency.comparison import LatencyComparison
from attn_export.deploy_tests.latency.measure import Latency
from attn_export.deploy_tests.machine import environment
from attn_export.deploy_tests.measurement import Measurement
from attn_export.deploy_tests.parity.compare import SNR, TOLERANCE, Parity
from attn_export.export.audit.findings import Audit
from attn_export.export.audit.layers import LOCAL, Local
from attn_export.export.onnx.exported import Exported
from attn_export.export.subject import Subject
from attn_export.reparam.result import Fusion

#: Layers that are recorded of the layer-local check, the worst first.
WORST = 5


@dataclass(frozen=True)
class StageResult:
    """One stage's result: nodes, bytes, parity of what it gave, and its latency where that was measured."""

    name: str
    nodes: int | None
    bytes: int | None
    parity: Parity
    latency: Latency | None = None
    model: Path | None = None

    def summary(self) -> str:
        """Say how far it is from the reference, in a line of progress."""
        if self.parity.snr is not None:
            return f"SNR {self.parity.worst.snr:.1f} dB (limit {self.parity.snr:g} dB)"
        return f"error {self.parity.worst.k:.2f}x the float32 noise floor (limit {self.parity.tolerance:g}x)"

    def to_dict(self) -> dict[str, Any]:
        """For the manifest."""
        return {
            "name": self.name,
            "nodes": self.nodes,
            "bytes": self.bytes,
            "sha256": bundle.sha256(self.model) if self.model else None,
            "worst_k": None if self.parity.worst.fault else self.parity.worst.k,
            "worst_snr": self.parity.worst.snr if abs(self.parity.worst.snr) < float("inf") else None,
        }


def tolerance(precision: str, snr: float | None = None) -> dict[str, Any]:
    """The gate of a precision: k for float32, below that a signal-to-noise ratio: its class's, or the user's own.

    Raises:
        ValueError: the precision has no class, and no ratio is given.
    """
    rule = {"k": TOLERANCE, "rule": "error <= k * max(yardstick, 8 * 2**-24 * norm(truth))"}
    if precision == "float32":
        return rule
    least = SNR.get(precision) if snr is None else snr
    if least is None:
        raise ValueError(f"{precision} is held to what its user says: how many dB?")
    return {**rule, "snr": least, "rule": f"signal-to-noise ratio >= {least:g} dB"}


def fusion(made: Fusion[onnx.ModelProto], cost: str, keep: Sequence[str], repair: bool) -> dict[str, Any]:
    """Sites, refusals and certificate."""
    return {
        "cost": cost,
        "keep": list(keep),
        "repair": repair,
        "sites": [asdict(site) for site in made.sites],
        "refusals": [asdict(refusal) for refusal in made.refusals],
        "certificate": {
            "worst": made.certificate.worst,
            "bound": made.certificate.bound,
            "left_out": made.certificate.left_out,
        },
    }


def second_tier(audits: Mapping[str, Audit], layers: Sequence[Local]) -> dict[str, Any]:
    """What was audited bit by bit, and the layers that were computed worst."""
    return {
        "audits": {name: found.to_dict() for name, found in audits.items()},
        "layers": {
            "bound": LOCAL,
            "checked": len(layers),
            "worst": [asdict(layer) for layer in layers[:WORST]],
        },
    }


def manifest(
    subject: Subject, final: Exported, steps: Sequence[StageResult], more: Mapping[str, Any]
) -> dict[str, Any]:
    """The manifest but for schema, cases and hashes, which ``bundle.write_manifest`` adds."""
    contract = final.contract
    return {
        "opset": contract.opset,
        "ir_version": final.model.ir_version,
        "inputs": [asdict(port) for port in contract.inputs],
        "outputs": [asdict(port) for port in contract.outputs],
        "varying": [asdict(dim) for dim in subject.dynamic],
        "stages": [step.to_dict() for step in steps],
        "operators": final.operators,
        "environment": environment.describe(),
        **more,
    }


def report(parity: Parity, measured: Measurement | None, contest: LatencyComparison | None) -> dict[str, Any]:
    """The report of this machine's run."""
    run: dict[str, Any] = {
        "backend": parity.backend,
        "environment": environment.describe(),
        "latency": None,
        **(measured.plain if measured else {}),
        "parity": parity.to_dict(),
        "fused_against_unfused": contest.to_dict() if contest else None,
    }
    return {"runs": [run]}
