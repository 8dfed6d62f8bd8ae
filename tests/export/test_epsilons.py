"""A small constant that the exporter drops is a breach of the contract; one that it keeps is none."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from attn_export.errors import ContractError
from attn_export.export.onnx.torch_export import export
from attn_export.export.subject import Subject
from attn_export.mechanisms.spec import Input
from attn_export.types import Dim


class Share(nn.Module):
    """Each value's share of the sum, guarded in one of several ways."""

    def __init__(self, guard: str, eps: float) -> None:
        super().__init__()
        self.guard, self.eps = guard, eps
        self.register_buffer("one", torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(x)
        total = x.sum(-1, keepdim=True)
        match self.guard:
            case "add":
                return x / (total + self.eps)
            case "clamp":
                return x / total.clamp_min(self.eps)
            case _:  # folded into a constant, rightly
                return x / (total + (self.one[:1] + self.eps))


def subject(guard: str, eps: float) -> Subject:
    return Subject("share", Share(guard, eps).eval(), (Input("x", ("b", 4)),), {"b": 2}, (Dim("b"),))


@pytest.mark.parametrize("eps", [1e-15, 1e-8])
def test_an_epsilon_that_was_dropped_is_refused(eps: float) -> None:
    with pytest.raises(ContractError, match=f"dropped the small constant {eps:g}"):
        export(subject("add", eps))


@pytest.mark.parametrize(("guard", "eps"), [("add", 1e-6), ("add", 1e-7), ("clamp", 1e-15), ("constant", 1e-6)])
def test_an_epsilon_that_is_kept_is_not(guard: str, eps: float) -> None:
    export(subject(guard, eps))
