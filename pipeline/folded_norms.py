"""Batch norms that PyTorch's exporter folded itself: why there may be nothing left to fuse."""

from __future__ import annotations

from torch import nn

from attn_export.export.onnx.exported import Exported


def folded_norms(module: nn.Module, exported: Exported) -> str:
    """Say how many of a module's batch norms are no node of its graph any more; nothing where all are still there."""
    count = sum(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in module.modules())
    folded = count - exported.operators.get("BatchNormalization", 0)
    return f"the exporter itself folded {folded} of {count} batch norms" if folded > 0 else ""
