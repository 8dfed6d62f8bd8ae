"""Gates over channels and pixels: slow forms written from the formulas, and the range of the gates."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from attn_export.mechanisms.attention.eca import EfficientChannelAttention, derived_kernel_size
from attn_export.mechanisms.attention.triplet import TripletAttention
from attn_export.mechanisms.awaken import awaken


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def randn(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


def ready(module: torch.nn.Module) -> torch.nn.Module:
    awaken(module)
    return module.double().eval()


@pytest.mark.parametrize(
    ("channels", "size"), [(1, 1), (8, 3), (32, 3), (64, 3), (128, 5), (256, 5), (512, 5), (2048, 7)]
)
def test_eca_derives_its_kernel_from_the_channels(channels: int, size: int) -> None:
    assert derived_kernel_size(channels) == size
    assert EfficientChannelAttention(channels).conv.kernel_size == (size,)


def test_eca_slides_over_the_channels() -> None:
    module = ready(EfficientChannelAttention(8, 5))
    x = randn(2, 8, 3, 4)
    means, weight = x.mean((2, 3)), module.conv.weight[0, 0]
    for channel in range(8):
        near = [(t, channel + t - 2) for t in range(5) if 0 <= channel + t - 2 < 8]
        gate = torch.sigmoid(torch.stack([weight[t] * means[:, c] for t, c in near]).sum(0))
        assert (module(x)[:, channel] - x[:, channel] * gate[:, None, None]).abs().max() < 1e-13


def test_triplet_gates_lie_between_zero_and_one() -> None:
    module = ready(TripletAttention())
    gate = module(torch.ones(2, 5, 6, 7, dtype=torch.float64))
    assert (gate > 0).all()
    assert (gate < 1).all()


def test_triplet_without_the_front_does_not_care_which_axis_is_called_rows() -> None:
    module = ready(TripletAttention(spatial=False))
    twin = ready(TripletAttention(spatial=False))
    twin.above.load_state_dict({k: v.mT if v.ndim == 4 else v for k, v in module.side.state_dict().items()})
    twin.side.load_state_dict({k: v.mT if v.ndim == 4 else v for k, v in module.above.state_dict().items()})
    x = randn(2, 5, 6, 7)
    assert (twin(x.transpose(2, 3)).transpose(2, 3) - module(x)).abs().max() < 1e-13


@pytest.mark.parametrize("size", [2, 0, 65])
def test_eca_refuses(size: int) -> None:
    with pytest.raises(ValueError, match="odd"):
        EfficientChannelAttention(32, size)


def test_triplet_refuses() -> None:
    with pytest.raises(ValueError, match="odd"):
        TripletAttention(6)
