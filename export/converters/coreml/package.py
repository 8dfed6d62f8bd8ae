"""A written ``.mlpackage``: its files, alike for alike models, and the structure of what is in it."""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from attn_export.export.converters.coreml.program import Port, Structure

#: Where the model lies in its folder, and the folder of its weights.
MODEL, WEIGHTS, LISTING = "Data/com.apple.CoreML/model.mlmodel", "Data/com.apple.CoreML/weights", "Manifest.json"


def files(specification: Any, folder: Path) -> dict[str, bytes]:
    """Give the files of a package, the model first, by their names in it.

    The specification says the day, and its bytes are in no order; the listing identifies parts by numbers that are
    drawn anew each time. Here bytes follow from what they mean.
    """
    specification.description.metadata.userDefined.pop("com.github.apple.coremltools.conversion_date", None)
    listing = json.loads((folder / LISTING).read_text(encoding="utf-8"))
    for old, entry in listing["itemInfoEntries"].items():
        new = str(uuid.uuid5(uuid.NAMESPACE_OID, entry["path"]))
        listing = json.loads(json.dumps(listing).replace(old, new))
    found = {MODEL: specification.SerializeToString(deterministic=True)}
    found |= {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted((folder / WEIGHTS).rglob("*.bin"))
    }
    return {**found, LISTING: json.dumps(listing, indent=4, sort_keys=True).encode()}


def names(specification: Any) -> tuple[list[str], list[str]]:
    """Name inputs and outputs as the package does."""
    description = specification.description
    return [str(port.name) for port in description.input], [str(port.name) for port in description.output]


def _port(port: Any) -> Port:
    array = port.type.multiArrayType
    kind = array.ArrayDataType.Name(array.dataType)
    return kind.lower(), tuple(int(size) for size in array.shape)


def structure(specification: Any, folder: Path) -> Structure:
    """Read what a package holds, from its files."""
    from coremltools.converters.mil.frontend.milproto import load

    read = load.load(specification, specification.specificationVersion, str(folder / WEIGHTS))
    convolutions, matrices, weights = [], [], []
    for function in read.functions.values():
        for op in function.operations:
            count = _multiplications(op)
            if op.op_type in ("conv", "conv_transpose"):
                convolutions.append(count)
            elif op.op_type in ("linear", "matmul"):
                matrices.append(count)
            elif op.op_type == "const" and isinstance(op.outputs[0].val, np.ndarray):
                weights.append(np.ascontiguousarray(op.outputs[0].val))
    return Structure(
        tuple(map(_port, specification.description.input)),
        tuple(map(_port, specification.description.output)),
        tuple(sorted(convolutions)),
        tuple(sorted(matrices)),
        tuple(weights),
    )


def _multiplications(op: Any) -> int:
    sizes: Mapping[str, tuple[int, ...]] = {name: tuple(var.shape) for name, var in op.inputs.items() if _is_var(var)}
    if op.op_type in ("conv", "conv_transpose"):
        own = op.outputs[0].shape if op.op_type == "conv" else sizes["x"]
        return int(math.prod(own) * math.prod(sizes["weight"][1:]))
    if op.op_type in ("linear", "matmul"):
        crossed = op.op_type == "matmul" and op.transpose_x is not None and bool(op.transpose_x.val)
        return int(math.prod(op.outputs[0].shape) * sizes["x"][-2 if crossed else -1])
    return 0


def _is_var(value: Any) -> bool:
    return hasattr(value, "shape") and value.shape is not None
