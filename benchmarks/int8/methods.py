"""How a float32 model becomes an int8 one: by ONNX Runtime's own function as it is usually called, by NNCF, by ours.

Every method takes the model and the calibration pictures and nothing else, so that another is a function more.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from attn_export.export.quantise.quantise import quantise
from attn_export.export.quantise.quantised import FLOAT, Wish
from attn_export.pipeline.clock import PairClock
from attn_export.types import Feeds

#: Gives the model, and how many of its layers stayed in float.
Method = Callable[[onnx.ModelProto, Sequence[Feeds]], tuple[onnx.ModelProto, int]]
#: Of our methods' pictures, the share that choices are made on.
HELD_OUT = 3


def usual(model: onnx.ModelProto, feeds: Sequence[Feeds], *, unsigned: bool, per_channel: bool) -> onnx.ModelProto:
    """Quantise by ``onnxruntime.quantization.quantize_static``: QDQ, symmetric weights, min-max, biases in float."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        """What the function asks for inputs."""

        def __init__(self) -> None:
            self.left = iter(feeds)

        def get_next(self) -> Feeds | None:
            """Give the next, or None."""
            return next(self.left, None)

    with tempfile.TemporaryDirectory() as folder:
        source, into = Path(folder, "float.onnx"), Path(folder, "int8.onnx")
        onnx.save(model, source)
        quantize_static(
            str(source),
            str(into),
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=per_channel,
            activation_type=QuantType.QUInt8 if unsigned else QuantType.QInt8,
            weight_type=QuantType.QInt8,
            extra_options={"ActivationSymmetric": not unsigned, "WeightSymmetric": True, "QuantizeBias": False},
        )
        return onnx.load(into)


def nncf(python: Path) -> Method:
    """Quantise by NNCF, with the interpreter of an environment that has it."""

    def made(model: onnx.ModelProto, feeds: Sequence[Feeds]) -> tuple[onnx.ModelProto, int]:
        with tempfile.TemporaryDirectory() as folder:
            source, cases, into = (Path(folder, name) for name in ("float.onnx", "cases.npz", "int8.onnx"))
            onnx.save(model, source)
            arrays: dict[str, Any] = {name: np.stack([feed[name] for feed in feeds]) for name in feeds[0]}
            np.savez(cases, **arrays)
            script = Path(__file__).with_name("nncf_quantise.py")
            subprocess.run(
                [python, script, source, cases, into], check=True, capture_output=True, timeout=900, cwd=folder
            )
            return onnx.load(into), 0

    return made


def ours(
    model: onnx.ModelProto, feeds: Sequence[Feeds], wish: Wish, *, timed: bool = False
) -> tuple[onnx.ModelProto, int]:
    """Quantise by this project's own function, which keeps a third of the pictures to choose on.

    ``timed``: layers that are no faster in int8 on this machine stay in float32.
    """
    learnt = [feed for index, feed in enumerate(feeds) if index % HELD_OUT]
    with tempfile.TemporaryDirectory() as folder:
        clock = PairClock(feeds[0], Path(folder)) if timed else None
        made = quantise(model, learnt, feeds[::HELD_OUT], wish, lambda _: None, clock)
    return made.model, sum(site.form == FLOAT for site in made.sites)


def _usual(*, unsigned: bool, per_channel: bool) -> Method:
    return lambda model, feeds: (usual(model, feeds, unsigned=unsigned, per_channel=per_channel), 0)


#: By the name in the table.
METHODS: Mapping[str, Method] = {
    "quantize_static, int8 per channel": _usual(unsigned=False, per_channel=True),
    "quantize_static, uint8 per channel": _usual(unsigned=True, per_channel=True),
    "quantize_static, uint8 per tensor": _usual(unsigned=True, per_channel=False),
    "ours": lambda model, feeds: ours(model, feeds, Wish()),
    "ours, per tensor": lambda model, feeds: ours(model, feeds, Wish(per_channel=False)),
    "ours, none slower": lambda model, feeds: ours(model, feeds, Wish(), timed=True),
    "ours, 40 dB asked for": lambda model, feeds: ours(model, feeds, Wish(least_snr=40.0)),
}
#: The method that is shown on what was not fused, too, and what it is called there.
USUAL = "quantize_static, uint8 per channel"
NOT_FUSED = f"not fused: {USUAL}"
#: The name in the table of what another environment does.
NNCF = "NNCF"
#: Of the rows of a network.
ORDER = (
    "float32, fused",
    "float32, not fused",
    *(name for name in METHODS if not name.startswith("ours")),
    NNCF,
    *(name for name in METHODS if name.startswith("ours")),
    NOT_FUSED,
)
