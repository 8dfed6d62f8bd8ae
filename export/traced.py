"""Evaluate a PyTorch module tensor by tensor, by the names that the exporter gives them: the reference inside it.

The module is traced as for export, and its program is run in float64 with every element type that it names widened
too. That a trace computes what the module does is checked, not believed: ``agrees`` holds it against the eager run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from attn_export.errors import ExportError
from attn_export.export.arrays import array
from attn_export.export.copies import copied
from attn_export.export.float64_run import NARROW, doubled, in_float64
from attn_export.export.graph.origin import Origin, located
from attn_export.export.onnx.opset import OPSET
from attn_export.export.onnx.torch_export import traced
from attn_export.export.outputs import evaluate
from attn_export.export.subject import Subject
from attn_export.types import Array


class Traced:
    """A subject's traced program, ready to be evaluated in float64 or float32.

    Raises:
        ExportError, ContractError: the module cannot be traced.
    """

    def __init__(self, subject: Subject, opset: int = OPSET) -> None:
        self.subject = subject
        self.program = traced(subject, opset)
        self.takes = [item.name for item in subject.inputs]
        eager = evaluate(copied(subject.module), subject.example())
        leaves = [str(name) for name in self.program.graph_signature.user_outputs]
        #: From a name in the graph to the program's: outputs alone have others.
        self.renamed = dict(zip(eager, leaves, strict=True))
        self.names = frozenset(node.name for node in self.program.graph.nodes) | frozenset(self.renamed)

    def visit(
        self, feeds: Mapping[str, Array], wanted: Iterable[str], dtype: torch.dtype = torch.float64
    ) -> Iterator[tuple[str, Array]]:
        """Yield the wanted tensors.

        Raises:
            ExportError: the program does not run on these inputs, or has no such tensor.
        """
        names = list(wanted)
        run = _Run(self.program, dtype, {self.renamed.get(name, name) for name in names})
        try:
            with torch.no_grad():
                run.run(*self._arguments(feeds, dtype))
        except Exception as error:  # whatever an operator raises
            raise ExportError(f"the trace of {self.subject.name} does not run in {dtype}: {error}") from error
        for name in names:
            source = self.renamed.get(name, name)
            if source not in run.found:
                raise ExportError(f"the trace of {self.subject.name} has no tensor {name!r}")
            yield name, run.found[source]

    def origins(self) -> dict[str, Origin]:
        """Where each tensor was made."""
        found = {}
        for node in self.program.graph.nodes:
            stack = list((node.meta.get("nn_module_stack") or {}).values())
            if stack and (trace := node.meta.get("stack_trace")):
                module, kind = stack[-1]
                found[node.name] = located(str(module), kind if isinstance(kind, str) else kind.__name__, trace)
        return found | {name: found[source] for name, source in self.renamed.items() if source in found}

    def agrees(self, feeds: Mapping[str, Array]) -> float:
        """How far the trace lies from the eager module, both in float64: the worst relative error of an output."""
        inputs = {name: torch.from_numpy(np.asarray(feeds[name])) for name in self.takes}
        float64 = {name: _cast(value, torch.float64) for name, value in inputs.items()}
        worst = 0.0
        with in_float64():
            expected = evaluate(doubled(self.subject.module), float64)
        for name, actual in self.visit(feeds, expected):
            reference = array(expected[name])
            if actual.shape != reference.shape:
                return float("inf")
            size = float(np.linalg.norm(reference.astype(np.float64))) or 1.0
            error = float(np.linalg.norm(actual.astype(np.float64) - reference.astype(np.float64))) / size
            worst = max(worst, error if np.isfinite(error) else float("inf"))
        return worst

    def _arguments(self, feeds: Mapping[str, Array], dtype: torch.dtype) -> list[Any]:
        """List what the program takes, in its order: parameters, buffers and constants first."""
        signature, held = self.program.graph_signature, {**self.program.constants, **self.program.state_dict}
        lifted: dict[str, str] = {
            **signature.inputs_to_parameters,
            **signature.inputs_to_buffers,
            **signature.inputs_to_lifted_tensor_constants,
        }
        given = iter(self.takes)
        holders = [node.name for node in self.program.graph.nodes if node.op == "placeholder"]
        return [
            _cast(held[lifted[name]] if name in lifted else torch.from_numpy(np.asarray(feeds[next(given)])), dtype)
            for name in holders
        ]


class _Run(fx.Interpreter):
    """A run in another precision that keeps the named tensors alone."""

    def __init__(self, program: torch.export.ExportedProgram, dtype: torch.dtype, wanted: set[str]) -> None:
        super().__init__(program.graph_module)
        self.dtype, self.wanted = dtype, wanted
        self.found: dict[str, Array] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Run one node; keep its result where it is wanted."""
        value = super().run_node(n)
        if n.name in self.wanted and isinstance(value, Tensor):
            self.found[n.name] = array(value.detach().contiguous())
        return value

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Call an operator; a narrow type that it names is the precision of this run."""
        args, kwargs = fx.node.map_aggregate((args, dict(kwargs)), self._precision)
        return super().call_function(target, args, kwargs)

    def _precision(self, value: Any) -> Any:
        return self.dtype if isinstance(value, torch.dtype) and value in NARROW else value


def _cast(value: Tensor, dtype: torch.dtype) -> Tensor:
    return value.to(dtype) if value.is_floating_point() else value
