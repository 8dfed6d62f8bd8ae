"""What a node costs: estimated time, from work and bytes. Chooses what to merge, never what is exact.

    time = MACs / rate + bytes / bandwidth + a constant for the node        rate: dense and depthwise apart

========  ==========  ==============  =========  ========  ====================================================
profile   dense MAC/s depthwise MAC/s  bytes/s    constant  how it was got
========  ==========  ==============  =========  ========  ====================================================
cpu       2.5e10      6e9             8e9        3e-6 s    order of magnitude of one thread with ONNX
                                                           Runtime: estimated, not fitted
gpu       2e12        2e11            1e11       6e-6 s    order of magnitude of a Jetson Orin Nano in fp16: from
                                                           its data sheet, not measured here
npu       1e12        5e10            1.5e10     2e-5 s    order of magnitude of a phone's accelerator: from data
                                                           sheets, not measured here
flops     1           1               ∞          0         counts multiply-accumulates, nothing else
========  ==========  ==============  =========  ========  ====================================================
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, prod

from attn_export.errors import UnknownNameError
from attn_export.reparam import ir


@dataclass(frozen=True)
class Profile:
    """A target's coefficients: per second, and seconds."""

    dense: float
    depthwise: float
    bandwidth: float
    constant: float


PROFILES = {
    "cpu": Profile(dense=2.5e10, depthwise=6e9, bandwidth=8e9, constant=3e-6),
    "gpu": Profile(dense=2e12, depthwise=2e11, bandwidth=1e11, constant=6e-6),
    "npu": Profile(dense=1e12, depthwise=5e10, bandwidth=1.5e10, constant=2e-5),
    "flops": Profile(dense=1.0, depthwise=1.0, bandwidth=inf, constant=0.0),
}


@dataclass(frozen=True)
class Work:
    """What an operator does once: multiply-accumulates, whether depthwise, numbers moved, and whether it is free."""

    macs: int
    moved: int
    depthwise: bool = False
    free: bool = False

    def seconds(self, profile: Profile) -> float:
        """Estimate the time."""
        if self.free:
            return 0.0
        rate = profile.depthwise if self.depthwise else profile.dense
        return self.macs / rate + 4 * self.moved / profile.bandwidth + profile.constant


def profile(name: str) -> Profile:
    """Look a profile up.

    Raises:
        UnknownNameError: there is none of that name.
    """
    try:
        return PROFILES[name]
    except KeyError:
        raise UnknownNameError("cost profile", name, PROFILES) from None


def parameters(op: ir.Op) -> int:
    """How many numbers an operator stores."""
    match op:
        case ir.Conv() | ir.Linear() | ir.ConvTranspose():
            return int(op.weight.size + (0 if op.bias is None else op.bias.size))
        case ir.Affine():
            return sum(int(a.size) for a in (op.factor, op.term) if a is not None)
    return 0


def work(op: ir.Op, inputs: Sequence[tuple[int, ...]], output: tuple[int, ...]) -> Work:
    """Count what an operator does on tensors of these sizes."""
    result, moved = prod(output), prod(output) + sum(prod(s) for s in inputs)
    match op:
        case ir.Conv():
            per = prod(op.weight.shape[1:])
            return Work(result * per, moved + op.weight.size, op.weight.shape[1] == 1 and op.groups > 1)
        case ir.ConvTranspose():
            return Work(prod(inputs[0]) * prod(op.weight.shape[1:]), moved + op.weight.size, op.groups > 1)
        case ir.Linear():
            return Work(result * op.weight.shape[0], moved + op.weight.size)
        case ir.Affine():
            return Work(result * ((op.factor is not None) + (op.term is not None)), moved)
        case ir.Sum():
            return Work(result * (len(op.factors) - 1), moved)
        case ir.AvgPool():
            return Work(result * prod(op.kernel), moved, depthwise=True)
        case ir.Reshape():
            return Work(0, 0, free=True)
        case ir.Slice():
            return Work(0, 2 * result)
    return Work(0, moved)
