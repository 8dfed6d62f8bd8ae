"""The DFT by matrix products against the library's own."""

from __future__ import annotations

import pytest
import torch

from attn_export.mechanisms._layers.dft import RealDFT2d


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 2), (2, 1), (5, 7), (8, 8), (6, 9), (9, 6)])
def test_filters_as_rfft2_and_irfft2_do(height: int, width: int, channels_last: bool) -> None:
    torch.manual_seed(0)
    dft = RealDFT2d(height, width, channels_last).double()
    x = torch.randn(2, 3, height, width, dtype=torch.float64)
    weight = torch.randn(3, height, width // 2 + 1, dtype=torch.complex128)
    spectrum = torch.fft.rfft2(x, norm="ortho")
    expected = torch.fft.irfft2(spectrum * weight, s=(height, width), norm="ortho")
    if channels_last:
        x, weight, spectrum, expected = (t.movedim(-3, -1) for t in (x, weight, spectrum, expected))
    real, imaginary = dft(x)
    assert (torch.complex(real, imaginary) - spectrum).abs().max() <= 1e-13
    assert (dft.filter(x, weight.real, weight.imag) - expected).abs().max() <= 1e-13


def test_constants_are_rounded_once_from_float64() -> None:
    once = RealDFT2d(5, 7)
    back = RealDFT2d(5, 7).half().double()
    assert torch.equal(back.down, RealDFT2d(5, 7).double().down)
    assert torch.equal(back.float().down, once.down)
    assert not once.state_dict()


def test_sizes_must_be_positive() -> None:
    with pytest.raises(ValueError, match="positive"):
        RealDFT2d(0, 4)
