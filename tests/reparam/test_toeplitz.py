"""RepMLP's merge: convolutions beside a matrix over the map become part of it, and nothing else does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from attn_export.mechanisms.mlp.repmlp import RepMLP
from attn_export.reparam import fuse_module, ir
from attn_export.reparam.algebra import border_map, linconv, toeplitz
from attn_export.reparam.algebra.layout import Atom, Layout
from attn_export.reparam.algebra.state import State
from attn_export.reparam.evaluate import ir as execute
from tests.reparam.blocks import wake
from tests.reparam.test_blocks import left

_CASES: list[dict[str, Any]] = [
    {},
    {"groups": 1, "kernels": (3,)},
    {"groups": 2, "kernels": (1, 3, 5, 7)},
    {"out_channels": 12, "size": (5, 4), "part": (5, 4), "kernels": (1, 3)},
    {"out_channels": 4, "size": (6, 8), "part": (3, 4), "kernels": (1, 3)},
]


@pytest.mark.parametrize("case", _CASES, ids=str)
def test_all_branches_become_one_matrix(case: dict[str, Any]) -> None:
    torch.manual_seed(0)
    module = wake(RepMLP(8, **case))
    fusion = fuse_module(module, (torch.randn(2, 8, *case.get("size", (8, 8))),))
    around = module.looks_around
    assert left(fusion.model) == (1, 2 if around else 0, int(bool(around)), 0)
    assert fusion.certificate.worst <= 1e-13
    assert all(site.structure for site in fusion.sites)


def test_agrees_with_the_merge_of_the_paper() -> None:
    """Its recipe: the matrix of a convolution is what the convolution makes of the identity."""
    torch.manual_seed(0)
    module = wake(RepMLP(4, 4, size=(3, 4), part=(3, 4), groups=1, kernels=(1, 3))).double()
    assert isinstance(module, RepMLP)
    with torch.no_grad():
        eye = torch.eye(48, dtype=torch.float64).reshape(48, 4, 3, 4)
        zero = torch.zeros(1, 4, 3, 4, dtype=torch.float64)
        bias = module(zero).reshape(-1)
        matrix = (module(eye).reshape(48, -1) - bias).T
    fused = fuse_module(module, (torch.randn(2, 4, 3, 4),)).model
    (layer,) = (part for part in fused.modules() if isinstance(part, nn.Conv2d))
    assert layer.bias is not None
    assert (layer.weight.reshape(48, 48) - matrix).abs().max() <= 1e-10 * matrix.abs().max()
    assert (layer.bias - bias).abs().max() <= 1e-10 * bias.abs().max()


class Alone(nn.Module):
    """Convolutions with no matrix beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Two in a row."""
        return self.b(self.a(x))


def test_no_matrix_is_made_where_there_is_none() -> None:
    fusion = fuse_module(wake(Alone()), (torch.randn(2, 4, 4, 4),))
    assert left(fusion.model) == (2, 0, 0, 0)


def test_beside_a_matrix_too_large_the_convolutions_become_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toeplitz, "MOST", 100)
    torch.manual_seed(0)
    fusion = fuse_module(wake(RepMLP(8)), (torch.randn(2, 8, 8, 8),))
    assert left(fusion.model)[0] == 2
    assert fusion.certificate.worst <= 1e-13


def test_a_bias_before_the_convolution_reaches_the_border_as_the_convolution_makes_it() -> None:
    """What a map of constants becomes differs at the border, where the padding shows zeros."""
    rng = np.random.default_rng(0)
    op = ir.Conv(rng.standard_normal((6, 2, 3, 2)), rng.standard_normal(6), (2, 1), (1, 2), 2, ((1, 0), (2, 1)))
    root_layout = Layout(((Atom("b", 0, 2),), (Atom("c", 0, 4),), (Atom("c", 0, 5),), (Atom("c", 0, 4),)))
    shifted = linconv.shift(linconv.scale(linconv.identity(80, ()), rng.uniform(0.5, 2, 80)), rng.standard_normal(80))
    made = toeplitz.conv(op, State(shifted, root_layout)).lin
    x = torch.from_numpy(rng.standard_normal((2, 80)))
    inner = x * torch.from_numpy(shifted.kernel().reshape(-1)) + torch.from_numpy(shifted.bias)
    wanted = execute.apply(op, [inner.reshape(2, 4, 5, 4)]).flatten(1).numpy()
    got = np.einsum("oi,boi->bo", made.kernel(), x.numpy()[:, made.src[made.grp]]) + made.bias
    assert np.abs(got - wanted).max() <= 1e-13 * np.abs(wanted).max()
    assert (made.bias_magnitude >= np.abs(made.bias) - 1e-12).all(), "the sum of magnitudes bounds the sum"


def test_large_kernels_are_built_anew_and_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    module, x = wake(RepMLP(8)), torch.randn(2, 8, 8, 8)
    weights = []
    for most in (1 << 25, 0):
        monkeypatch.setattr(border_map, "MOST_KEPT", most)
        weights.append(list(fuse_module(module, (x,)).model.state_dict().values()))
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


@pytest.mark.parametrize(("most", "times"), [(3, 2), (4, 1)])
def test_an_array_is_kept_unless_it_is_large(monkeypatch: pytest.MonkeyPatch, most: int, times: int) -> None:
    monkeypatch.setattr(border_map, "MOST_KEPT", most)
    built = []
    lazy = border_map.Lazy(lambda: built.append(0) or np.zeros(4))  # type: ignore[func-returns-value]
    assert lazy().size == lazy().size == 4
    assert len(built) == times
