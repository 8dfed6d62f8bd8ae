"""An ONNX graph as a PyTorch module, so that it has a float64 reference like any other subject."""

from __future__ import annotations

import onnx
import torch
from torch import Tensor, nn

from attn_export.export.graph.index import graph_inputs
from attn_export.export.reference import GraphOutputs
from attn_export.reparam.evaluate.onnx import OnnxEvaluator


class GraphModule(nn.Module):
    """A graph that evaluates itself in the element type of its parameters: float64 after ``double()``."""

    def __init__(self, model: onnx.ModelProto) -> None:
        super().__init__()
        self.model = model
        self.precision = nn.Parameter(torch.zeros(()), requires_grad=False)
        self._evaluators: dict[torch.dtype, OnnxEvaluator] = {}

    def forward(self, *inputs: Tensor) -> GraphOutputs:
        """Evaluate node by node; outputs by name."""
        kind = self.precision.dtype
        if kind not in self._evaluators:
            self._evaluators[kind] = OnnxEvaluator(self.model, torch.zeros((), dtype=kind).numpy().dtype.type)
        feeds = {value.name: x.numpy() for value, x in zip(graph_inputs(self.model), inputs, strict=True)}
        return GraphOutputs(
            {name: torch.from_numpy(value) for name, value in self._evaluators[kind].run(feeds).items()}
        )
