"""Evidence E1: NVIDIA's parser and builder accepted this very graph for a named GPU; nothing was run."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from attn_export.deploy_tests.backends.tensorrt import bindings, supervise
from attn_export.deploy_tests.backends.tensorrt.plan import EnginePlan, read_log
from attn_export.deploy_tests.backends.tensorrt.request import Request
from attn_export.deploy_tests.compiling.evidence import graph_hash
from attn_export.errors import BackendError, BackendMissingError
from attn_export.types import ShapeRange

#: Built for where nothing else is asked: the nearest target to a Jetson Orin.
SM = "86"
#: What each level of evidence says, and nothing above it may be said.
LEVELS = {
    "E0": "every call our backend makes exists, with these parameters, in the named official wheels",
    "E1": "NVIDIA's parser and builder accepted this very graph (sha256) for SM xx,"
    " and the fused plan shows what we say",
    "E2": "measured on a named GPU, raw outputs and samples in the bundle",
}


@dataclass(frozen=True)
class CompileEvidence:
    """A build that succeeded without a GPU.

    Attributes:
        product: which product built.
        version: its version.
        sm: compute capability it built for.
        sha256: of the ONNX file and the weights beside it.
        plan: layers, kernels, element types, provenance and memory.
        engine_bytes: size of the engine.
        engine_sha256: its hash; builds on one machine repeat to the byte where this is equal.
        build_s: time the build took.
        flags: shapes, TF32, workspace.
        warnings: what the builder warned of.
    """

    product: str
    version: str
    sm: str
    sha256: str
    plan: EnginePlan
    engine_bytes: int
    engine_sha256: str
    build_s: float
    flags: Mapping[str, Any]
    warnings: tuple[str, ...]

    level = "E1"
    #: Nothing here simulates a GPU.
    simulated = ()

    def summary(self) -> str:
        """Say the claim, in the only words it may be made in."""
        return claim(self.product, self.version, self.sm)

    def details(self) -> str:
        """Count the kernels of the plan by element type, and those among them that are fused attention."""
        kinds = ", ".join(f"{count} {kind}" for kind, count in self.plan.dtypes.items())
        return f"{len(self.plan.kernels)} kernels ({kinds}), {len(self.plan.attention)} fused attention"

    def to_dict(self) -> dict[str, Any]:
        """Give the evidence as plain data, for a report."""
        raw = {**asdict(self), "flags": dict(self.flags), "plan": self.plan.to_dict()}
        return {"level": self.level, "claim": self.summary(), "meaning": meaning(self.sm), "executed": False, **raw}


def claim(product: str, version: str, sm: str) -> str:
    """Say what was shown.

    >>> claim("TensorRT for RTX", "1.7.1.116", "86")
    'builds under TensorRT for RTX 1.7.1 (SM86), not run'
    """
    return f"builds under {product} {'.'.join(version.split('.')[:3])} (SM{sm}), not run"


def meaning(sm: str) -> str:
    """Say what level E1 means, for one GPU.

    >>> meaning("86")[:72]
    "NVIDIA's parser and builder accepted this very graph (sha256) for SM 86,"
    """
    return LEVELS["E1"].replace("SM xx", f"SM {sm}")


def missing() -> str | None:
    """Say what to install before ``compile_only`` can work, or None; no GPU and no driver is needed."""
    return bindings.missing(bindings.RTX)


def compile_only(
    model: Path,
    sm: str = SM,
    *,
    shapes: Mapping[str, ShapeRange] | None = None,
    tf32: bool = False,
    workspace: int | None = None,
    limit: float = 600.0,
) -> CompileEvidence:
    """Parse and build ``model`` with TensorRT for RTX for ``sm``, in a subprocess, and read the fused plan.

    Raises:
        BackendMissingError: TensorRT for RTX is not installed.
        RefusedError: it refuses the graph; ``complaints`` name the ONNX nodes.
        BackendError: the build exceeded ``limit`` seconds, its process died, or its log shows no plan.
    """
    if why := missing():
        raise BackendMissingError(why)
    request = Request(bindings.RTX.module, model, sm.upper().removeprefix("SM"), shapes or {}, tf32, workspace)
    graph = graph_hash(model) if model.is_file() else ""
    built = supervise.build(request, limit=limit)
    try:
        plan = read_log(built.log)
    except ValueError as error:
        raise BackendError(f"{request.maker.title} {built.version} built {model}, but {error}") from error
    return CompileEvidence(
        request.maker.title,
        built.version,
        request.sm,
        graph,
        plan,
        len(built.plan),
        hashlib.sha256(built.plan).hexdigest(),
        built.seconds,
        request.flags(),
        built.warnings,
    )
