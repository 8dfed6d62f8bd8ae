"""Export a subject, whatever it is: the one place that tells a module from a graph."""

from __future__ import annotations

from dataclasses import replace

from attn_export.export.onnx import contract, torch_export
from attn_export.export.onnx.exported import Exported
from attn_export.export.onnx.opset import OPSET
from attn_export.export.subject import Subject


def export_subject(subject: Subject, opset: int = OPSET) -> Exported:
    """Export a subject; a graph is exported already, keeps its own opset, and its contract is read from itself.

    Raises:
        ExportError: the exporter cannot convert the module; the message is its reason.
        ContractError: what came is not valid, or not what was asked for.
    """
    if subject.graph is not None:
        return contract.check(subject.graph, replace(contract.of(subject.graph), dims=subject.dynamic))
    return torch_export.export(subject, opset)
