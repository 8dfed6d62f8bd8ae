"""One file for the weights of a model, so that parts and mutants of it need no copies of them."""

from __future__ import annotations

from pathlib import Path

import onnx

from attn_export.export.graph.light import size_of, without_weights

NAME = "weights.bin"
#: Bytes from which a tensor goes to the file, and of which each begins at a multiple, so that it can be mapped.
LARGE, PAGE = 1 << 16, 4096


def shared(model: onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    """Return a copy whose large weights lie in a file in ``folder``, where it and its mutants are to be written."""
    light = without_weights(model)
    with (folder / NAME).open("wb") as file:
        for tensor in model.graph.initializer:
            if not tensor.HasField("raw_data") or size_of(tensor) < LARGE:
                light.graph.initializer.append(tensor)
                continue
            raw = tensor.raw_data  # each time it is asked for it is copied
            file.seek(-(-file.tell() // PAGE) * PAGE)
            place = {"location": NAME, "offset": str(file.tell()), "length": str(len(raw))}
            file.write(raw)
            apart = light.graph.initializer.add(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
            apart.data_location = onnx.TensorProto.EXTERNAL
            for key, value in place.items():
                apart.external_data.add(key=key, value=value)
    return light
