"""Find the line of the user's code at which tracing fixed a size that was to vary."""

from __future__ import annotations

import sys
from typing import Any
from unittest.mock import patch

import sympy  # type: ignore[import-untyped]
import torch
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from attn_export.export import code_lines


def line(module: torch.nn.Module, positional: tuple[Any, ...], keywords: dict[str, Any], shapes: Any) -> str:
    """Trace once more, and say at which line a size became a number; nothing where none did.

    PyTorch says which size it was, and not where: so what it calls when it fixes one is watched.
    """
    found: list[str] = []
    fix = ShapeEnv._set_replacement

    def watched(self: ShapeEnv, symbol: sympy.Symbol, value: sympy.Expr, message: str) -> None:
        if value.is_number and not found:
            found.append(code_lines.of_frame(sys._getframe()))
        fix(self, symbol, value, message)

    with patch.object(ShapeEnv, "_set_replacement", watched):
        try:
            torch.export.export(module, positional, keywords, dynamic_shapes=shapes, strict=False)
        except Exception:  # it was traced before: what it says of sizes now is known
            return next(filter(None, found), "")
    return next(filter(None, found), "")
