"""Write an ONNX model to disk."""

from __future__ import annotations

from pathlib import Path

import onnx

from attn_export.export.graph.light import stored

#: A protobuf message cannot exceed 2 GB; weights go to a file of their own well before that.
EXTERNAL = 1_500_000_000


def save(model: onnx.ModelProto, path: Path) -> None:
    """Write ``model``; weights beside it as ``<name>.data`` where they are too large for one message."""
    # Summed, not asked of protobuf, which measures a message by making it and cannot make one beyond 2 GB.
    if stored(model) <= EXTERNAL:
        path.write_bytes(model.SerializeToString(deterministic=True))
        return
    copy = onnx.ModelProto()
    copy.CopyFrom(model)  # saving with external data empties the tensors of the model it is given
    onnx.save(copy, path, save_as_external_data=True, all_tensors_to_one_file=True, location=f"{path.name}.data")
