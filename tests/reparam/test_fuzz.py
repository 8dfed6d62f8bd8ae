"""Random linear nets: never a wrong bit, and a fuser without its padding rule is caught by the same test."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from attn_export.reparam.algebra import compose, linconv, upsample
from tests.reparam.fuzzing import check

NETS = 2000
#: Another stretch of seeds than the one that the long run (benchmarks/fuzz.py) begins with.
FIRST = 1_000_000


#: What the long run found, each mended: a transposed convolution of zeros before the first pixel; a net that declared
#: a dynamic number of channels as a fixed one.
FOUND = (31_454, 43_280)


@pytest.mark.parametrize("seed", FOUND)
def test_what_the_long_run_found_stays_mended(seed: int) -> None:
    assert not check(seed).wrong


@pytest.mark.fuzz
def test_no_bit_is_wrong() -> None:
    verdicts = [check(FIRST + n) for n in range(NETS)]
    assert not [v for v in verdicts if v.wrong]
    assert sum(v.merges for v in verdicts) > NETS / 2, "a fuzz that collapses nothing proves nothing"
    assert sum(v.after for v in verdicts) < 0.85 * sum(v.before for v in verdicts)
    assert sum(v.checked for v in verdicts) > 1.5 * NETS


def _shifted(v: linconv.LinConv, dim: int, left: int, right: int) -> linconv.LinConv:
    """The window of ``pad`` without its conditions."""
    axis = v.axes[dim]
    wider = replace(
        axis, taps=tuple(t - axis.stride * left for t in axis.taps), extent=axis.extent + axis.stride * (left + right)
    )
    return linconv.with_axis(v, dim, wider)


def _matches(v: linconv.LinConv, value: Any) -> set[str]:
    return set()


def _careless_pad(v: linconv.LinConv, dim: int, left: int, right: int, value: Any = 0.0) -> linconv.LinConv:
    linconv._constant_matches(v, value)
    return _shifted(v, dim, left, right)


def _mixed_in_order_of_channels(lin: linconv.LinConv, op: Any, phases: int) -> linconv.LinConv:
    """A 1×1 behind an enlargement that takes the phases for channels."""
    weight = np.concatenate([op.weight.reshape(*op.weight.shape[:2], *(1,) * len(lin.axes))] * phases)
    bias = None if op.bias is None else np.tile(op.bias, phases)
    return compose.conv(lin, weight, bias, groups=op.groups * phases)


@pytest.mark.fuzz
@pytest.mark.parametrize("fault", ["window", "constant", "phases"])
def test_a_fuser_without_its_padding_rule_is_caught(monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    if fault == "window":
        monkeypatch.setattr(linconv, "pad", _careless_pad)
    elif fault == "constant":
        monkeypatch.setattr(linconv, "_constant_matches", _matches)
    else:
        monkeypatch.setattr(upsample, "_mixed", _mixed_in_order_of_channels)
    assert sum(bool(check(FIRST + n).wrong) for n in range(300)) >= 2
