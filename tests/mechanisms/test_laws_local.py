"""Local windows without im2col, and what is built on them."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from attn_export.export.weights.randomize import randomize
from attn_export.mechanisms._layers.local import local_sum, shifted
from attn_export.mechanisms.attention.halo import HaloAttention, RelativeLogits
from attn_export.mechanisms.attention.outlook import OutlookAttention


@settings(deadline=None, max_examples=40)
@given(
    kernel=st.integers(1, 5),
    padding=st.integers(0, 3),
    stride=st.integers(1, 3),
    dilation=st.integers(1, 2),
    size=st.tuples(st.integers(9, 13), st.integers(9, 13)),
)
def test_shifted_copies_are_the_librarys_unfold(
    kernel: int, padding: int, stride: int, dilation: int, size: tuple[int, int]
) -> None:
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    ours = torch.stack(shifted(x, kernel, padding, stride, dilation), 2)
    assert torch.equal(ours.flatten(3).flatten(1, 2), F.unfold(x, kernel, dilation, padding, stride))


@settings(deadline=None, max_examples=40)
@given(
    kernel=st.integers(1, 5),
    padding=st.integers(0, 3),
    stride=st.integers(1, 3),
    size=st.tuples(st.integers(5, 9), st.integers(5, 9)),
)
def test_local_sum_weighs_the_windows_of_unfold(kernel: int, padding: int, stride: int, size: tuple[int, int]) -> None:
    x = torch.randn(2, 3, 4, *size, dtype=torch.float64)  # b g d h w
    windows = torch.stack(shifted(x.flatten(1, 2), kernel, padding, stride), 2).unflatten(1, (3, 4))  # b g d k h w
    weights = torch.randn(2, 3, *windows.shape[4:], kernel, kernel, dtype=torch.float64)
    expected = (windows * weights.flatten(4).permute(0, 1, 4, 2, 3).unsqueeze(2)).sum(3)
    ours = local_sum(weights.flatten(4).flatten(0, 1), x.flatten(0, 1).permute(0, 2, 3, 1), kernel, stride, padding)
    assert (ours.permute(0, 3, 1, 2).unflatten(0, (2, 3)) - expected).abs().max() <= 1e-13 * max(
        1.0, float(expected.abs().max())
    )


@pytest.mark.parametrize(
    ("heads", "kernel", "stride", "size"),
    [(1, 3, 1, (5, 7)), (2, 3, 2, (7, 6)), (2, 3, 2, (6, 7)), (4, 5, 1, (4, 9)), (1, 5, 3, (8, 10)), (2, 3, 3, (7, 8))],
)
def test_outlook_is_unfold_multiply_fold(heads: int, kernel: int, stride: int, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    module = OutlookAttention(8, heads, kernel, stride).double().eval()
    randomize(module)
    x = torch.randn(2, *size, 8, dtype=torch.float64)
    geometry = {"kernel_size": kernel, "padding": kernel // 2, "stride": stride}
    windows = F.unfold(module.value(x).permute(0, 3, 1, 2), **geometry).reshape(2, heads, 8 // heads, kernel**2, -1)
    weights = module.attention(x).reshape(2, windows.shape[-1], heads, kernel**2, kernel**2)
    assert (weights.sum(-1) - 1).abs().max() < 1e-12
    said = torch.einsum("bngij,bgdjn->bgdin", weights, windows).reshape(2, -1, windows.shape[-1])
    expected = module.project(F.fold(said, size, **geometry).permute(0, 2, 3, 1))
    assert (module(x) - expected).abs().max() <= 1e-12 * expected.abs().max()


@pytest.mark.parametrize(
    ("arguments", "match"),
    [({"heads": 3}, "divide"), ({"kernel_size": 4}, "odd"), ({"stride": 4}, "stride"), ({"heads": 0}, "divide")],
)
def test_outlook_refuses(arguments: dict[str, int], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        OutlookAttention(**arguments)


def test_relative_logits_are_products_with_the_offsets() -> None:
    torch.manual_seed(0)
    module = RelativeLogits(2, 4, 3).double()
    q = torch.randn(5, 4, 3, dtype=torch.float64)
    logits = module(q).reshape(5, 2, 2, 4, 4)
    for i, j, u, v in itertools.product(range(2), range(2), range(4), range(4)):
        table = module.rel_height[3 + u - i] + module.rel_width[3 + v - j]
        assert (logits[:, i, j, u, v] - q[:, 2 * i + j] @ table).abs().max() < 1e-14


@pytest.mark.parametrize(("block", "halo", "size"), [(2, 1, (4, 6)), (2, 3, (6, 4)), (3, 1, (3, 6)), (2, 0, (2, 4))])
def test_halo_attention_pixel_by_pixel(block: int, halo: int, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    module = HaloAttention(6, block, halo, heads=2, head_channels=3).double()
    x = torch.randn(2, 6, *size, dtype=torch.float64)
    last = x.permute(0, 2, 3, 1)
    q, (k, v) = module.query(last) / 3**0.5, module.key_value(last).chunk(2, -1)
    mixed = torch.zeros(2, *size, 6, dtype=torch.float64)
    origin = block + 2 * halo - 1
    for b, i, j, head in itertools.product(range(2), range(size[0]), range(size[1]), range(2)):
        d = slice(3 * head, 3 * head + 3)
        top, left = i // block * block, j // block * block
        seen = [
            (u, w)
            for u in range(max(0, top - halo), min(size[0], top + block + halo))
            for w in range(max(0, left - halo), min(size[1], left + block + halo))
        ]
        # Offsets are counted from the window's first pixel, for a query from the block's.
        logits = [
            q[b, i, j, d]
            @ (
                k[b, u, w, d]
                + module.position.rel_height[origin + u - (top - halo) - (i - top)]
                + module.position.rel_width[origin + w - (left - halo) - (j - left)]
            )
            for u, w in seen
        ]
        weights = torch.softmax(torch.stack(logits), 0)
        mixed[b, i, j, d] = weights @ torch.stack([v[b, u, w, d] for u, w in seen])
    expected = module.project(mixed).permute(0, 3, 1, 2)
    assert (module(x) - expected).abs().max() < 1e-13


@pytest.mark.parametrize("arguments", [{"block": 0}, {"halo": -1}, {"heads": 0}, {"head_channels": 0}])
def test_halo_refuses(arguments: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        HaloAttention(**arguments)
