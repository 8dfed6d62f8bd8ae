"""In which precision a graph computes: what it says itself, and what correct runs of it are held to.

A graph of float32 is held to the error of float32. One that rounds further inside is held to a signal-to-noise ratio:
runtimes round half-precision sums at different places, and a code next to a boundary falls to either side.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx
from onnx import TensorProto

from attn_export import bundle
from attn_export.export.graph.index import GraphIndex

#: Operators that round a tensor to the codes of a quantised type while the model runs. Weights that were stored as
#: codes alone are numbers like others.
ROUNDING = frozenset({"QuantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul"})
#: What a quantised graph is held to against its own float64 meaning, in dB: every code of an 8-bit tensor off by one
#: is about 30 dB, and a few layers add up.
QUANTISED_DB = 20.0
#: Operators that only carry numbers: behind a weight stored in half precision one of them makes it float32.
_CARRIERS = frozenset({"Cast", "Constant", "Identity"})
_HALVES = {TensorProto.FLOAT16: "float16", TensorProto.BFLOAT16: "bfloat16"}


@dataclass(frozen=True)
class PrecisionClass:
    """A precision with the least signal-to-noise ratio of a correct run, in dB; float32 has none, and is held to k."""

    name: str = "float32"
    snr: float | None = None

    @property
    def quantised(self) -> bool:
        """Whether tensors are rounded to codes."""
        return self.snr == QUANTISED_DB

    def note(self) -> str:
        """Say it, where it is not what everybody expects."""
        if self.snr is None:
            return ""
        return f"the graph computes in {self.name}: it is held to {self.snr:g} dB against its own float64 meaning"


def of(model: onnx.ModelProto) -> PrecisionClass:
    """Find the coarsest precision that a graph computes in."""
    if any(node.op_type in ROUNDING for node in model.graph.node):
        return PrecisionClass("int8", QUANTISED_DB)
    index = GraphIndex(model)
    kinds = {
        index.element_type(name) for node in index.nodes if node.op_type not in _CARRIERS for name in node.output[:1]
    }
    for kind, name in reversed(_HALVES.items()):
        if kind in kinds:
            return PrecisionClass(name, bundle.SNR[name])
    return PrecisionClass()
