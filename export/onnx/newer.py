"""A model brought to a later set of operators, where something needs one: the meaning stays."""

from __future__ import annotations

from dataclasses import replace

from onnx import version_converter

from attn_export.errors import ExportError
from attn_export.export.onnx.exported import Exported
from attn_export.untrusted.text import first_line


def at_least(exported: Exported, opset: int) -> Exported:
    """Give the model in ``opset``, or as it is where it is in that or a later one.

    Raises:
        ExportError: it cannot be converted.
    """
    was = exported.contract.opset
    if was >= opset:
        return exported
    try:
        model = version_converter.convert_version(exported.model, opset)
    except Exception as error:  # the converter's errors share no public base
        raise ExportError(
            f"expected opset {opset} or later, got {was}, which could not be converted ({first_line(error)});"
            f" export the file again with opset {opset}"
        ) from error
    return Exported(model, replace(exported.contract, opset=opset))
