"""Pad once what is padded alike several times: branches with a circular or reflected padding of their own.

x ─► pad ─► conv a ─┐                     ┌─► conv a ─┐
x ─► pad ─► conv b ─┴─► +      x ─► pad ─┴─► conv b ─┴─► +
"""

from __future__ import annotations

import torch
from torch import fx


def pad_once(module: fx.GraphModule) -> None:
    """Let every padding that an earlier one equals give that one's result."""
    known: dict[str, fx.Node] = {}
    for node in list(module.graph.nodes):
        if node.target is torch.ops.aten.pad.default:
            first = known.setdefault(repr((node.args, node.kwargs)), node)
            if first is not node:
                node.replace_all_uses_with(first)
                module.graph.erase_node(node)
    module.recompile()
