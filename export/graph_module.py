"""An ONNX graph as a PyTorch module, so that it has a float64 reference like any other subject."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import onnx
import torch
from torch import Tensor, nn

from attn_export.export.arrays import array
from attn_export.export.graph.index import graph_inputs
from attn_export.export.onnx.rounded_outputs import rounded
from attn_export.export.outputs import GraphOutputs
from attn_export.reparam.evaluate import transcendental
from attn_export.reparam.evaluate.onnx import OnnxEvaluator


class GraphModule(nn.Module):
    """A graph that evaluates itself in the element type of its parameters: float64 after ``double()``."""

    def __init__(self, model: onnx.ModelProto) -> None:
        super().__init__()
        self.model = model
        self.precision = nn.Parameter(torch.zeros(()), requires_grad=False)
        self._evaluators: dict[tuple[torch.dtype, transcendental.Way | None], OnnxEvaluator] = {}
        self._coarse: transcendental.Way | None = None

    @property
    def has_functions(self) -> bool:
        """Whether some node is a function that runtimes compute only to a share of its range."""
        return transcendental.found_in(self.model)

    @contextlib.contextmanager
    def coarse(self, way: transcendental.Way) -> Iterator[None]:
        """Evaluate such functions as exactly as runtimes do."""
        self._coarse = way
        try:
            yield
        finally:
            self._coarse = None

    def forward(self, *inputs: Tensor) -> GraphOutputs:
        """Evaluate node by node; outputs by name."""
        kind = self.precision.dtype, self._coarse
        if kind not in self._evaluators:
            dtype = torch.zeros((), dtype=kind[0]).numpy().dtype.type
            self._evaluators[kind] = OnnxEvaluator(self.model, dtype, coarse=self._coarse)
        feeds = {value.name: array(x) for value, x in zip(graph_inputs(self.model), inputs, strict=True)}
        found = self._evaluators[kind].run(feeds)
        if kind[0] == torch.float32:
            found = rounded(self.model, found)
        return GraphOutputs({name: torch.from_numpy(value) for name, value in found.items()})
