"""The graphs of the whole catalogue keep to what every target has; each rule is seen to fail."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attn_export.export.onnx.torch_export import export
from attn_export.export.sources.catalogue import from_spec
from attn_export.export.subject import Subject
from attn_export.mechanisms import MECHANISMS
from attn_export.mechanisms.spec import Input
from attn_export.pipeline.portability import faults


class Net(nn.Module):
    """A function as a module, beside a layer norm that it may use."""

    def __init__(self, function: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.norm = nn.LayerNorm(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.norm, x)


def _by_hand(norm: nn.Module, x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()


PLANTED: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "Col2Im": lambda n, x: F.fold(n(x).reshape(1, 4, 4), (4, 4), (2, 2), stride=2),
    "DFT": lambda n, x: torch.fft.rfft(n(x)).abs(),
    "Scatter": lambda n, x: n(x).scatter(1, torch.zeros(1, 4, 4, dtype=torch.int64), x),
    "GatherND": lambda n, x: n(x)[:, torch.tensor([0, 1]), torch.tensor([1, 2])],
    "LayerNormalization": _by_hand,
    "scales a product": lambda n, x: torch.softmax(n(x) @ x.transpose(1, 2) / 2.0, -1) @ x,
    "scales": lambda n, x: torch.softmax((n(x) @ x.transpose(1, 2)) * 0.5 + x, -1) @ x,
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_fault_is_found(name: str) -> None:
    module = Net(PLANTED[name]).eval()
    made = export(Subject("net", module, (Input("x", (1, 4, 4)),), {}))
    assert any(name in fault for fault in faults(made.model, module))


def test_a_clean_graph_has_none() -> None:
    module = Net(lambda n, x: torch.softmax((n(x) * 0.5) @ x.transpose(1, 2), -1) @ x).eval()
    made = export(Subject("net", module, (Input("x", (1, 4, 4)),), {}))
    assert faults(made.model, module) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", list(MECHANISMS))
def test_the_graph_of_every_entry_travels(name: str) -> None:
    # At fixed sizes: no rule looks at them, and tracing open ones takes four times as long. A sweep's graphs have them.
    subject = replace(from_spec(name, MECHANISMS[name], "test"), dynamic=())
    assert faults(export(subject).model, subject.module) == []
