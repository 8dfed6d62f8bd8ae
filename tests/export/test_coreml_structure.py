"""What of a program is compared with a file that nothing runs: ports, operators with weights, and weights as bits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from attn_export.errors import ExportError
from attn_export.export.converters.coreml.converter import compared
from attn_export.export.converters.coreml.program import Structure, structure, without_aliases
from attn_export.process.silence import silenced


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.up = nn.Conv2d(4, 6, 3, groups=2), nn.ConvTranspose2d(6, 4, 2)
        self.head = nn.Linear(4, 5, bias=False)
        self.table, self.scale = nn.Parameter(torch.randn(3, 7)), nn.Parameter(torch.randn(7))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.up(self.conv(x))
        tokens = y.flatten(2).transpose(1, 2)
        unseen = (self.table @ self.table.T).sum()  # depends on no input
        return self.head(tokens) + unseen, (tokens.mT @ tokens).argmax(-1)


def traced(module: nn.Module, x: Tensor) -> ExportedProgram:
    with silenced():
        return torch.export.export(module.eval(), (x,)).run_decompositions({})


@pytest.fixture(scope="module")
def whole() -> Structure:
    return structure(traced(Net(), torch.randn(1, 4, 5, 5)))


def test_what_depends_on_an_input_is_counted(whole: Structure) -> None:
    assert whole.inputs == (("float32", (1, 4, 5, 5)),)
    assert whole.outputs == (("float32", (1, 16, 5)), ("int64", (1, 4)))
    # A number that goes into a transposed convolution, and one that comes out of the other.
    assert whole.convolutions == tuple(sorted((6 * 9 * (2 * 9), 6 * 9 * (4 * 4))))
    assert whole.matrices == tuple(sorted((16 * 5 * 4, 4 * 4 * 16)))
    shapes = sorted(weight.shape for weight in whole.weights)
    assert len(shapes) == 5
    assert {(6, 2, 3, 3), (6,), (6, 4, 2, 2), (4,)} <= set(shapes)


def test_a_file_that_is_the_program_passes(whole: Structure) -> None:
    assert "its operators with weights (4) and its weights, bit for bit (5)" in compared(whole, file_of(whole))
    lying = replace(file_of(whole), weights=tuple(one.swapaxes(-1, -2).copy() for one in whole.weights if one.ndim > 1))
    lying = replace(lying, weights=(*lying.weights, *(one for one in whole.weights if one.ndim == 1)))
    assert compared(whole, lying)


def file_of(program: Structure) -> Structure:
    """What a right file of a program holds: it has no integers of 64 bits, and more constants."""
    outputs = tuple(("int32" if kind == "int64" else kind, shape) for kind, shape in program.outputs)
    return replace(program, outputs=outputs, weights=(*program.weights, np.zeros(3, np.float32)))


def off(values: np.ndarray) -> np.ndarray:
    return np.nextafter(values, np.float32(9))


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (lambda one: replace(one, inputs=(("float32", (1, 5, 5, 4)),)), "expected the inputs"),
        (lambda one: replace(one, outputs=one.outputs[::-1]), "expected the outputs"),
        (lambda one: replace(one, convolutions=one.convolutions[1:]), r"expected the convolutions.*\(2\), got .*\(1\)"),
        (lambda one: replace(one, matrices=(one.matrices[0], 7)), "expected the products of matrices"),
        (lambda one: replace(one, weights=one.weights[1:]), "of 5 weights 1 are not in it bit for bit"),
        (lambda one: replace(one, weights=tuple(map(off, one.weights))), "of 5 weights 5 are not"),
    ],
)
def test_what_is_not_the_program_is_refused(fault: object, said: str, whole: Structure) -> None:
    with pytest.raises(ExportError, match=said):
        compared(whole, fault(file_of(whole)))  # type: ignore[operator]


class Named(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.aten.alias(x + 1) * 2


def test_second_names_are_taken_out_and_the_program_is_the_same() -> None:
    x = torch.randn(3)
    program = traced(Named(), x)
    assert any("alias" in str(node.target) for node in program.graph.nodes)
    plain = without_aliases(program)
    assert not any("alias" in str(node.target) for node in plain.graph.nodes)
    with silenced():
        assert torch.equal(plain.module()(x), (x + 1) * 2)
