"""A convolution and the batch norm right behind it, to one convolution with bias.

BN(W ∗ x + b)  →  (s·W) ∗ x + s·b + t        s = γ/√(σ²+ε), t = β − s·μ
"""

from __future__ import annotations

from itertools import pairwise

from torch import nn

from attn_export.reparam.rule import emit, follow, lift


class ConvBNRule:
    """Collapse every convolution followed by a batch norm in an ``nn.Sequential``."""

    def matches(self, module: nn.Module) -> bool:
        """Whether this is a sequence with such a pair; sub-classes may define another ``forward``."""
        if type(module).forward is not nn.Sequential.forward:
            return False
        return any(isinstance(a, nn.Conv2d) and isinstance(b, nn.BatchNorm2d) for a, b in pairwise(module.children()))

    def collapse(self, module: nn.Module) -> nn.Module:
        """The same sequence, each pair as one convolution; names of what stays are kept."""
        result = nn.Sequential()
        before: tuple[str, nn.Module] | None = None
        for name, child in module.named_children():
            if before and isinstance(before[1], nn.Conv2d) and isinstance(child, nn.BatchNorm2d):
                fused = emit(follow(lift(before[1]), child), before[1].weight)
                result.add_module(before[0], fused)
                before = None
                continue
            if before:
                result.add_module(*before)
            before = (name, child)
        if before:
            result.add_module(*before)
        return result.eval()


RULE = ConvBNRule()
