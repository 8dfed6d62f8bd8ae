"""What a node costs: estimated time, from work and bytes. Chooses what to merge, never what is exact.

    time = padded MACs / rate + bytes / bandwidth + a constant for the node      rate: dense and depthwise apart

A dense convolution of k > 1 computes the outputs of a group in vectors: three outputs cost as much as a whole vector of
``lanes``. That is why grouped convolutions of few channels do not cost what their multiply-accumulates say.

========  ==========  ===============  =========  ========  =====  =================================================
profile   dense MAC/s depthwise MAC/s  bytes/s    constant  lanes  how it was got
========  ==========  ===============  =========  ========  =====  =================================================
cpu       3.7e10      2.0e10           1.1e11     4.7e-6 s  16     fitted, see below
gpu       2e12        2e11             1e11       6e-6 s    8      order of magnitude of a Jetson Orin Nano in fp16:
                                                                   from its data sheet, not measured here
npu       1e12        5e10             1.5e10     2e-5 s    16     order of magnitude of a phone's accelerator: from
                                                                   data sheets, not measured here
flops     1           1                ∞          0         1      counts multiply-accumulates, nothing else
========  ==========  ===============  =========  ========  =====  =================================================

``cpu`` was fitted to 160 operators (dense, grouped, depthwise, sums, scalings, pooling, products; 1 to 640 channels on
128² to 4² pixels) under ONNX Runtime 1.32 on one thread of an AVX-512 server: ``benchmarks/cost_fit.py``. The
estimate is off by a factor of 1.18 at the median, 1.54 at 90 %, 3.6 at most (a sum of 4 × 4 pixels); pooling is held
for 1.4 times slower than it is. Two more runs, one of them on a loaded machine, gave every coefficient within 25 %.
The bandwidth is a cache's: the tensors of these networks fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, prod

from attn_export.errors import UnknownNameError
from attn_export.reparam import ir
from attn_export.types import Array


@dataclass(frozen=True)
class CostProfile:
    """A target's coefficients: per second, and seconds; outputs that a vector holds."""

    dense: float
    depthwise: float
    bandwidth: float
    constant: float
    lanes: int


PROFILES = {
    "cpu": CostProfile(dense=3.7e10, depthwise=2.0e10, bandwidth=1.1e11, constant=4.7e-6, lanes=16),
    "gpu": CostProfile(dense=2e12, depthwise=2e11, bandwidth=1e11, constant=6e-6, lanes=8),
    "npu": CostProfile(dense=1e12, depthwise=5e10, bandwidth=1.5e10, constant=2e-5, lanes=16),
    "flops": CostProfile(dense=1.0, depthwise=1.0, bandwidth=inf, constant=0.0, lanes=1),
}


CONVOLUTION, TRANSPOSED, PRODUCT = "convolution", "transposed convolution", "product"

#: What a constant for each channel and position costs, in passes over its tensor. Added behind a 3×3 and before a ReLU
#: (4 to 256 channels on 128² to 14² pixels, ONNX Runtime 1.32, one thread) it took 2.3 to 6.5 times one addition: the
#: convolution no longer takes the activation in, and tensors in blocks of channels are turned there and back.
MAP_PASSES = 5


@dataclass(frozen=True)
class Work:
    """What an operator does once: multiply-accumulates, whether depthwise, numbers moved, and whether it is free.

    ``width`` counts the outputs of a group where they are computed side by side in vectors, 0 elsewhere. ``passes`` is
    the number of nodes that it takes: a scale and a shift are written as two. ``kind`` tells kernels apart whose rates
    differ from shape to shape by more than the estimate says.
    """

    macs: int
    moved: int
    depthwise: bool = False
    free: bool = False
    width: int = 0
    passes: int = 1
    kind: str = ""

    def padded(self, lanes: int) -> float:
        """Multiply-accumulates with those in lanes that no output uses."""
        return self.macs * (-(-self.width // lanes) * lanes / self.width) if self.width else self.macs

    def seconds(self, profile: CostProfile) -> float:
        """Estimate the time."""
        if self.free:
            return 0.0
        rate = profile.depthwise if self.depthwise else profile.dense
        once = 4 * self.moved / profile.bandwidth + profile.constant
        return self.padded(profile.lanes) / rate + self.passes * once


def profile(name: str) -> CostProfile:
    """Look a profile up.

    Raises:
        UnknownNameError: there is none of that name.
    """
    try:
        return PROFILES[name]
    except KeyError:
        raise UnknownNameError("cost profile", name, PROFILES) from None


def vector_width(weight: Sequence[int], groups: int) -> int:
    """Count the outputs of a group that a convolution computes side by side; 0 where that does not matter.

    Depthwise kernels run over channels instead, and a 1×1 kernel is a matrix product, whose positions fill vectors.
    """
    outputs, inputs, *taps = weight
    return 0 if prod(taps) == 1 or (inputs == 1 and groups > 1) else outputs // groups


def parameters(op: ir.Op) -> int:
    """Count the numbers that an operator stores."""
    match op:
        case ir.Conv() | ir.Linear() | ir.ConvTranspose():
            return int(op.weight.size + (0 if op.bias is None else op.bias.size))
        case ir.Affine():
            return sum(int(a.size) for a in (op.factor, op.term) if a is not None)
    return 0


def map_size(term: Array | None) -> int:
    """Count the numbers of a constant that differs between positions; one for each channel is nothing."""
    return 0 if term is None or sum(n > 1 for n in term.shape) < 2 else term.size


def _keeps_order(perm: Sequence[int], sizes: Sequence[int]) -> bool:
    """Whether a transposition moves nothing but axes of length one: to a runtime it is a view."""
    moving = [p for p in perm if sizes[p] != 1]
    return moving == sorted(moving)


def work(op: ir.Op, inputs: Sequence[tuple[int, ...]], output: tuple[int, ...]) -> Work:
    """Count what an operator does on tensors of these sizes."""
    result, moved = prod(output), prod(output) + sum(prod(s) for s in inputs)
    match op:
        case ir.Conv():
            per = prod(op.weight.shape[1:])
            depthwise = op.weight.shape[1] == 1 and op.groups > 1
            return Work(
                result * per,
                moved + op.weight.size,
                depthwise,
                width=vector_width(op.weight.shape, op.groups),
                kind=CONVOLUTION,
            )
        case ir.ConvTranspose():
            macs = prod(inputs[0]) * prod(op.weight.shape[1:])
            return Work(macs, moved + op.weight.size, op.groups > 1, kind=TRANSPOSED)
        case ir.Linear():
            return Work(result * op.weight.shape[0], moved + op.weight.size, kind=PRODUCT)
        case ir.Affine():
            macs, stored = result * ((op.factor is not None) + (op.term is not None)), map_size(op.term)
            return Work(macs, moved + stored, passes=MAP_PASSES if stored else 1)
        case ir.Sum():
            return Work(result * (len(op.factors) - 1), moved)
        case ir.AvgPool():
            return Work(result * prod(op.kernel), moved, depthwise=True)
        case ir.Reshape() | ir.Flatten():
            return Work(0, 0, free=True)
        case ir.Transpose() if _keeps_order(op.perm, inputs[0]):
            return Work(0, 0, free=True)
        case ir.Slice():
            return Work(0, 2 * result)
    return Work(0, moved)


def node_work(graph: ir.Graph, node: ir.Node) -> Work | None:
    """Count what a node of the graph does; None if sizes are not known."""
    found = graph.counted.get(id(node), graph)
    if found is graph:  # not yet counted
        sizes = [graph.values[name].sizes for name in (*node.inputs, node.output)]
        known = [s for s in sizes if s is not None]
        found = work(node.op, known[:-1], known[-1]) if len(known) == len(sizes) else None
        if graph.producer.get(node.output) is node:  # held by the graph, so that its identity stays one
            graph.counted[id(node)] = found
    assert found is None or isinstance(found, Work)
    return found
