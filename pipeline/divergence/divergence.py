"""Where two runs diverge: the first tensor that differs by more than correct runs do, its node, and its source."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from attn_export.export.graph.origin import Origin
from attn_export.types import JsonDict, Summarised


@dataclass(frozen=True)
class Divergence(Summarised):
    """The first tensor out of bounds, and the node that makes it.

    Attributes:
        tensor: the first that is out of bounds.
        op: operator of the node that makes it.
        node: that node's name.
        position: of that node in the graph.
        window: positions of the nodes of which one must be at fault; one, unless a stage renamed what is between.
        error: Euclidean norm of the difference there, over that of the reference.
        bound: the largest such error that is none.
        growth: relative error of what was looked at, in the order of the graph: how the error grows to the output.
        shape: of the tensor.
        runs: how many times the suspect was run.
        between: the two runs, in words.
        case: on which inputs.
        origin: where in the user's code the node comes from, where that is known.
    """

    tensor: str
    op: str
    node: str
    position: int
    window: tuple[int, ...]
    error: float
    bound: float
    growth: tuple[tuple[str, float], ...]
    shape: tuple[int, ...]
    runs: int
    between: str = ""
    case: str = ""
    origin: Origin | None = None

    def summary(self) -> str:
        """Say it in one line."""
        shape = "x".join(map(str, self.shape))
        before = len(self.window) - 1
        which = f" or one of the {before} nodes before it that have other names there" if before else ""
        where = f"{self.between}, case '{self.case}': " if self.between else ""
        source = f"; from {self.origin.summary()}" if self.origin else ""
        return (
            f"{where}first divergence at {self.op} {self.node!r}{which}, which makes {self.tensor!r} ({shape}):"
            f" relative error {self.error:.2e}, bound {self.bound:.2e}; found in {self.runs} runs{source}"
        )

    def to_dict(self) -> JsonDict:
        """Give the finding as plain data."""
        origin = self.origin
        return {
            "between": self.between,
            "case": self.case,
            "node": self.node,
            "op": self.op,
            "tensor": self.tensor,
            "shape": list(self.shape),
            "window": list(self.window),
            "error": self.error if np.isfinite(self.error) else None,
            "error_limit": self.bound,
            "growth": [{"tensor": name, "error": error if np.isfinite(error) else None} for name, error in self.growth],
            "runs": self.runs,
            "source_location": {"module": origin.module, "class": origin.kind, "file": origin.file, "line": origin.line}
            if origin
            else None,
        }
