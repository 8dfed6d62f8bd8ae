"""How a float32 model becomes an int8 one: by ONNX Runtime's own function as it is usually called, and by ours.

Every method takes the model and the calibration pictures and nothing else, so that another is a function more.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import onnx

from attn_export.export.quantise.quantise import quantise
from attn_export.export.quantise.quantised import FLOAT, Wish
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


def ours(model: onnx.ModelProto, feeds: Sequence[Feeds], wish: Wish) -> tuple[onnx.ModelProto, int]:
    """Quantise by this project's own function, which keeps a third of the pictures to choose on."""
    learnt = [feed for index, feed in enumerate(feeds) if index % HELD_OUT]
    made = quantise(model, learnt, feeds[::HELD_OUT], wish, lambda _: None)
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
    "ours, 40 dB asked for": lambda model, feeds: ours(model, feeds, Wish(least_snr=40.0)),
}
