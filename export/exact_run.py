"""Run a subject in float64: the module itself, or where only that does not run in float64, the graph of its trace.

A module that asks for float32 in words (``assert x.dtype == torch.float32``) runs for its user, and is not to blame.
What stands in is held to the module in float32 first: a trace that left something out is no reference.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from attn_export.errors import ConversionError, SubjectError
from attn_export.export.arrays import arrays
from attn_export.export.float64_run import double_inputs, doubled, in_float64
from attn_export.export.outputs import evaluate
from attn_export.export.subject import Subject
from attn_export.export.traced import Traced

#: Relative error up to which two float32 runs of one function may differ.
AGREES = 1e-4


class ExactRun:
    """The float64 run of one subject; ``said`` is told, once, where it is its trace's."""

    def __init__(self, subject: Subject, plain: nn.Module, said: Callable[[str], None]) -> None:
        self.subject, self.plain, self._said = subject, plain, said
        self.module = doubled(subject.module)
        self._traced: Traced | None = None

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run in float64.

        Raises:
            SubjectError: forward does not run, or does not in float64, and neither does its trace.
        """
        if self._traced is not None:
            return self._by_trace(self._traced, inputs)
        try:
            with in_float64() if self.subject.graph is None else contextlib.nullcontext():
                return evaluate(self.module, double_inputs(inputs), "our float64 run of")
        except SubjectError as error:
            evaluate(self.plain, inputs)  # where the user's own run fails as well, that is what to say
            if self.subject.graph is not None:
                raise
            return self._fallen_back(inputs, error)

    def _fallen_back(self, inputs: Mapping[str, Tensor], error: SubjectError) -> dict[str, Tensor]:
        try:
            traced = Traced(self.subject)
            found = self._by_trace(traced, inputs)
        except (ConversionError, SubjectError) as other:
            raise SubjectError(f"{error} (it runs in float32; its trace is no way out either: {other})") from error
        self._traced = traced
        self._said(f"the reference is the traced graph in float64, as forward itself runs in float32 only: {error}")
        return found

    def _by_trace(self, traced: Traced, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run the trace in float64, once it has given in float32 what the module does."""
        feeds = arrays(inputs)
        kinds = {item.name: item.dtype for item in self.subject.inputs}
        plain = {name: value.to(getattr(torch, kinds[name])) for name, value in inputs.items()}
        expected = evaluate(self.plain, plain)
        try:
            for name, value in traced.visit(feeds, expected, torch.float32):
                if not _agree(torch.from_numpy(value).to(expected[name].dtype), expected[name]):
                    raise SubjectError(f"the trace of {self.subject.name} is not the module: {name!r} differs")
            return {name: torch.from_numpy(value) for name, value in traced.visit(feeds, expected)}
        except ConversionError as error:
            raise SubjectError(f"the trace of {self.subject.name} does not run on these inputs: {error}") from error


def _agree(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape or not one.is_floating_point():
        return one.shape == other.shape and bool((one == other).all())
    apart, size = (torch.linalg.vector_norm(v.double().nan_to_num()) for v in (one - other, other))
    return float(apart) <= AGREES * float(size)
