"""Bring a float32 ONNX file to int8 as an NPU takes it: symmetric, weights per channel, ranges from the cases."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from attn_export.types import Feeds


class _Reader:
    """What the quantiser asks for inputs."""

    def __init__(self, feeds: Sequence[Feeds]) -> None:
        self._rest = iter(feeds)

    def get_next(self) -> dict[str, object] | None:
        """Give the next inputs, or None at the end."""
        feeds = next(self._rest, None)
        return None if feeds is None else dict(feeds)


def quantize(model: Path, into: Path, feeds: Sequence[Feeds]) -> None:
    """Write ``model`` with quantised tensors (QDQ) to ``into``; it needs the package onnx.

    Raises:
        Exception: whatever the quantiser breaks on.
    """
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    logging.getLogger().setLevel(logging.ERROR)  # it recommends steps that every model of ours has behind it
    quantize_static(
        str(model),
        str(into),
        _Reader(feeds),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
        extra_options={"ActivationSymmetric": True, "WeightSymmetric": True},
    )
