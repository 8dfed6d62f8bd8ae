"""Below float32 the gate is a signal-to-noise ratio."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from attn_export.bundle import Case
from attn_export.deploy_tests.parity.compare import SNR, Parity, prove
from attn_export.types import TensorSpec

TRUTH = np.random.default_rng(0).standard_normal((2, 500))
CASE = Case("one", {}, {"y": TRUTH}, {"y": 0.0})


def judge(came: NDArray[Any], snr: float | None) -> Parity:
    return prove(lambda _: {"y": came}, [CASE], [TensorSpec("y", str(came.dtype), (2, 500))], backend="test", snr=snr)


def bfloat16(values: NDArray[Any]) -> NDArray[Any]:
    whole = values.astype(np.float32).view(np.uint32)
    return ((whole + 0x8000) & 0xFFFF0000).view(np.float32)


@pytest.mark.parametrize("kind", SNR)
def test_rounding_to_a_precision_passes_its_class(kind: str) -> None:
    came = {"float32": TRUTH.astype(np.float32), "float16": TRUTH.astype(np.float16), "bfloat16": bfloat16(TRUTH)}[kind]
    parity = judge(came, SNR[kind])
    assert parity.ok
    assert "signal-to-noise ratio" in parity.summary()
    assert parity.to_dict()["snr_db_limit"] == SNR[kind]


def test_a_coarser_precision_fails_a_finer_class_and_k() -> None:
    half = TRUTH.astype(np.float16)
    assert not judge(half, SNR["float32"]).ok
    assert "limit 110 dB" in judge(half, SNR["float32"]).summary()
    assert not judge(half, None).ok
    noise = TRUTH + 0.02 * np.random.default_rng(1).standard_normal(TRUTH.shape)
    assert not judge(noise.astype(np.float16), SNR["float16"]).ok
    assert judge(noise.astype(np.float32), SNR["bfloat16"]).ok


def test_nan_and_shapes_fail_whatever_the_ratio() -> None:
    broken = TRUTH.astype(np.float16)
    broken[0, 0] = np.nan
    assert not judge(broken, -1000.0).ok
    assert not judge(TRUTH.astype(np.float16)[:1], -1000.0).ok
    assert not prove(lambda _: {}, [], [], backend="test", snr=0).ok
