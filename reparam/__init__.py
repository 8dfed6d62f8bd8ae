"""FUSE: structural re-parameterisation as algebra, module to module and graph to graph, with a certificate.

``fuse_module`` and ``fuse_graph`` are found here by name; PyTorch and ONNX are imported when one of them is asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attn_export.reparam.fuse_onnx import fuse_graph
    from attn_export.reparam.fuse_torch import fuse_module

__all__ = ["fuse_graph", "fuse_module"]
_MODULES = {"fuse_graph": "fuse_onnx", "fuse_module": "fuse_torch"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
