"""Write an ONNX model to disk."""

from __future__ import annotations

from pathlib import Path

import onnx

#: A protobuf message cannot exceed 2 GB; weights go to a file of their own well before that.
EXTERNAL = 1_500_000_000


def save(model: onnx.ModelProto, path: Path) -> None:
    """Write ``model``; weights beside it as ``<name>.data`` where they are too large for one message."""
    if model.ByteSize() <= EXTERNAL:
        path.write_bytes(model.SerializeToString(deterministic=True))
        return
    copy = onnx.ModelProto()
    copy.CopyFrom(model)  # saving with external data empties the tensors of the model it is given
    onnx.save(copy, path, save_as_external_data=True, all_tensors_to_one_file=True, location=f"{path.name}.data")
