"""What a bundle records of its making: the manifest's and the report's content as plain data."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import onnx

from attn_export import __version__, bundle
from attn_export.bundle import versions
from attn_export.deploy_tests.backends import DEFAULT
from attn_export.deploy_tests.identity import identify
from attn_export.deploy_tests.latency.comparison import LatencyComparison
from attn_export.deploy_tests.latency.measure import Latency
from attn_export.deploy_tests.machine import environment
from attn_export.deploy_tests.measurement import Measurement
from attn_export.deploy_tests.parity.compare import SNR, TOLERANCE, Parity
from attn_export.export.audit.findings import Audit
from attn_export.export.audit.layers import LOCAL, Local
from attn_export.export.converters import Converted
from attn_export.export.onnx.exported import Contract, Exported
from attn_export.export.precision.classes import PrecisionClass
from attn_export.export.subject import Subject
from attn_export.reparam.result import Fusion
from attn_export.types import Dim

#: Layers that are recorded of the layer-local check, the worst first.
WORST = 5


@dataclass(frozen=True)
class StageResult:
    """One stage's result: nodes, bytes, parity of what it gave, and its latency where that was measured.

    Of a stage that makes several artifacts ``parity`` is the worst one's, and ``parities`` has each by its name.
    """

    name: str
    nodes: int | None
    bytes: int | None
    parity: Parity
    latency: Latency | None = None
    model: Path | None = None
    parities: Mapping[str, Parity] = field(default_factory=dict)

    def summary(self) -> str:
        """Say how far it is from the reference, in a line of progress."""
        if self.parity.centred:
            kept = self.parity.centred[0]
            asked = "" if kept.limit_db is None else f" (limit {kept.limit_db:g} dB)"
            return f"centred SNR {kept.least.median_db:.1f} dB{asked}"
        if self.parity.snr_db_limit is not None:
            return f"SNR {self.parity.worst.snr_db:.1f} dB (limit {self.parity.snr_db_limit:g} dB)"
        error, limit = self.parity.worst.normalized_error, self.parity.normalized_limit
        return f"error {error:.2f}x the float32 noise floor (limit {limit:g}x)"

    def to_dict(self) -> dict[str, Any]:
        """Give the manifest's record of it."""
        worst, kept = self.parity.worst, self.parity.centred
        ratio = kept[0].least.median_db if kept else worst.snr_db
        return {
            "name": self.name,
            "nodes": self.nodes,
            "bytes": self.bytes,
            "sha256": bundle.sha256(self.model) if self.model else None,
            "normalized_error": None if worst.failure or kept else worst.normalized_error,
            "snr_db": ratio if abs(ratio) < float("inf") else None,
        }


def tolerance(precision: str, snr: float | None = None) -> dict[str, Any]:
    """Give the gate of a precision: k for float32, below that a signal-to-noise ratio: its class's, or the user's own.

    Raises:
        ValueError: the precision has no class, and no ratio is given.
    """
    rule = "error <= normalized_limit * max(float32_error, 8 * 2**-24 * norm(reference))"
    limits = {"normalized_limit": TOLERANCE, "rule": rule}
    if precision == "float32":
        return limits
    least = SNR.get(precision) if snr is None else snr
    if least is None:
        raise ValueError(f"{precision} is held to what its user says: how many dB?")
    return {**limits, "snr_db_limit": least, "rule": f"signal-to-noise ratio >= {least:g} dB"}


def artifact(folder: Path, precision: PrecisionClass) -> dict[str, Any]:
    """Give the manifest's record of the ONNX file that the main job has written, with the weights beside it."""
    return {
        "name": bundle.MAIN,
        "kind": "onnx",
        "files": sorted(file.name for file in folder.glob(f"{bundle.MODEL}*")),
        "precision": precision.name,
        "target": "",
        "produced_by": f"attn-export {__version__}",
        "tolerance": tolerance(precision.name, precision.snr),
    }


def converted(made: Converted, model: PrecisionClass) -> dict[str, Any]:
    """Give the manifest's record of the model in another format, where ``model`` is what the model computes in."""
    precision = made.held(model)
    return {
        "name": made.name,
        "kind": made.kind,
        "files": list(made.files),
        "precision": precision.name,
        "target": made.target,
        "produced_by": made.produced_by,
        "tolerance": tolerance(precision.name, precision.snr),
        "narrowed_dims": [asdict(dim) for dim in made.narrowed_dims],
        "checked": made.checked,
    }


def fusion(made: Fusion[onnx.ModelProto], cost: str, keep: Sequence[str], repair: bool) -> dict[str, Any]:
    """Give what was fused, what was not and why, and the certificate."""
    return {
        "cost": cost,
        "keep": list(keep),
        "repair": repair,
        "sites": [asdict(site) for site in made.sites],
        "not_fused": [
            {"site": no.name, "reason": no.reason, "remedy": no.remedy, "kind": no.kind} for no in made.refusals
        ],
        "certificate": {
            "worst_error": made.certificate.worst,
            "error_limit": made.certificate.bound,
            "skipped_reason": made.certificate.left_out,
        },
    }


def audits(found: Mapping[str, Audit], layers: Sequence[Local]) -> dict[str, Any]:
    """Give what was audited bit by bit, and the layers that were computed worst."""
    most = sys.float_info.max  # in JSON there is no infinity, as of a layer of another shape
    worst = [{**asdict(layer), "error_ulp": min(layer.error, most)} for layer in layers[:WORST]]
    return {
        **{name: audit.to_dict() for name, audit in found.items()},
        "layers": {
            "error_ulp_limit": LOCAL,
            "checked": len(layers),
            "worst": [{name: value for name, value in row.items() if name != "error"} for row in worst],
        },
    }


def manifest(
    subject: Subject, final: Exported, steps: Sequence[StageResult], more: Mapping[str, Any]
) -> dict[str, Any]:
    """Give the manifest but for its version, cases and hashes, which ``bundle.write_manifest`` adds."""
    contract = final.contract
    return {
        "opset": contract.opset,
        "ir_version": final.model.ir_version,
        "inputs": [asdict(port) for port in contract.inputs],
        "outputs": [asdict(port) for port in contract.outputs],
        "dynamic_dims": [asdict(dim) for dim in _named(subject, contract)],
        "stages": [step.to_dict() for step in steps],
        "operators": final.operators,
        "environment": environment.describe(),
        **more,
    }


def _named(subject: Subject, contract: Contract) -> list[Dim]:
    """Give the dimensions the names that they have in the model's own shapes: those of a file are its own."""
    names = {
        ours: its
        for item, port in zip(subject.inputs, contract.inputs, strict=True)
        for ours, its in zip(item.shape, port.shape, strict=True)
        if isinstance(ours, str) and isinstance(its, str)
    }
    return [replace(dim, name=names.get(dim.name, dim.name)) for dim in subject.dynamic]


def report(
    parity: Parity,
    measured: Measurement | None,
    contest: LatencyComparison | None,
    others: Mapping[str, tuple[str, Parity]] | None = None,
) -> dict[str, Any]:
    """Give the report of this machine's run; of ``others``, artifact by artifact, the backend and the parity."""
    run: dict[str, Any] = {
        **identify(DEFAULT).to_dict(),
        "artifact": bundle.MAIN,
        "environment": environment.describe(),
        "latency": None,
        **(measured.plain if measured else {}),
        "parity": parity.to_dict(),
        "comparison": contest.to_dict("fused", "original") if contest else None,
    }
    more = [
        {
            **identify(backend).to_dict(),
            "artifact": name,
            "environment": environment.describe(),
            "parity": proven.to_dict(),
        }
        for name, (backend, proven) in (others or {}).items()
    ]
    return {versions.KEY: bundle.SCHEMA_VERSION, "runs": [run, *more]}
