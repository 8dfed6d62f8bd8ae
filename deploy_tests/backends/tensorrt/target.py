"""Build for a GPU that is not there: the only calls that TensorRT for RTX has and TensorRT has not."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from attn_export.deploy_tests.backends.tensorrt import bindings
from attn_export.deploy_tests.backends.tensorrt.request import Request
from attn_export.deploy_tests.refusal import Complaint, RefusedError

if TYPE_CHECKING:
    import tensorrt_rtx


def choose(config: Any, request: Request) -> None:
    """Build for a GPU by name, which only TensorRT for RTX can do."""
    if TYPE_CHECKING:
        import tensorrt_rtx as trt

        chosen: tensorrt_rtx.IBuilderConfig = config
    else:
        trt, chosen = bindings.load(request.maker), config
    if not request.maker.targets_by_name:
        reason = "it builds only for the GPU that is there"
        raise RefusedError(
            f"{request.maker.title} cannot build for SM{request.sm}", "start", [Complaint("", "", reason)]
        )
    known = targets(list(trt.ComputeCapability.__members__))
    if request.sm not in known:
        reason = "its targets are " + ", ".join(f"SM{sm}" for sm in known)
        hint = "SM86 is the nearest to a Jetson Orin" if request.sm == "87" else ""
        raise RefusedError(
            f"{request.maker.title} has no target SM{request.sm}", "start", [Complaint("", "", reason)], hint
        )
    chosen.num_compute_capabilities = 1
    if not chosen.set_compute_capability(trt.ComputeCapability.__members__[f"SM{request.sm}"], 0):
        raise RefusedError(f"{request.maker.title} refuses the target SM{request.sm}", "start", [])


def targets(names: Iterable[str]) -> tuple[str, ...]:
    """Pick the compute capabilities out of the names of an enumeration.

    >>> targets(["NONE", "CURRENT", "SM86", "SM120"])
    ('86', '120')
    """
    return tuple(name.removeprefix("SM") for name in names if re.fullmatch(r"SM\d+", name))
