"""What the exporter gave, together with what it was asked for."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import onnx

from attn_export.export.graph.light import HEAVY, stored
from attn_export.types import Dim, TensorSpec


@dataclass(frozen=True)
class Contract:
    """What was asked for, and is asserted on every model that claims to be the answer.

    Attributes:
        opset: of the ONNX standard.
        inputs: with the names of dimensions that may vary.
        outputs: likewise.
        dims: those dimensions, in the range that the export holds for.
    """

    opset: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    dims: tuple[Dim, ...] = ()


@dataclass(frozen=True)
class Exported:
    """An ONNX model that keeps its contract."""

    model: onnx.ModelProto
    contract: Contract

    @property
    def nodes(self) -> int:
        """Count of nodes, constants not counted: they cost nothing at run time."""
        return sum(node.op_type != "Constant" for node in self.model.graph.node)

    @property
    def operators(self) -> dict[str, int]:
        """Count of nodes by operator, the most frequent first."""
        return dict(Counter(node.op_type for node in self.model.graph.node).most_common())

    @property
    def bytes(self) -> int:
        """Size of the model as it would be written, weights included; of theirs alone beyond what a message holds."""
        return int(self.model.ByteSize()) if self.weights < HEAVY else self.weights

    @property
    def weights(self) -> int:
        """Size of the weights that lie in the model, which is known without writing it."""
        return stored(self.model)
