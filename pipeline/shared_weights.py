"""One file for the weights that all mutants of a model share, so that they are not copied and written for each."""

from __future__ import annotations

from pathlib import Path

import onnx

NAME = "weights.bin"
#: Bytes from which a tensor goes to the file, and of which each begins at a multiple, so that it can be mapped.
LARGE, PAGE = 1 << 16, 4096


def shared(model: onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    """Return a copy whose large weights lie in a file in ``folder``, where it and its mutants are to be written."""
    light = onnx.ModelProto()
    light.CopyFrom(model)
    with (folder / NAME).open("wb") as file:
        for tensor in light.graph.initializer:
            if len(tensor.raw_data) >= LARGE:
                file.seek(-(-file.tell() // PAGE) * PAGE)
                place = {"location": NAME, "offset": str(file.tell()), "length": str(len(tensor.raw_data))}
                file.write(tensor.raw_data)
                tensor.ClearField("raw_data")
                tensor.data_location = onnx.TensorProto.EXTERNAL
                for key, value in place.items():
                    tensor.external_data.add(key=key, value=value)
    return light
