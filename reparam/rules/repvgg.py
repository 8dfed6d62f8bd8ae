"""RepVGG: three parallel branches, 3×3, 1×1 and identity, each with a batch norm, to one 3×3 convolution.

relu( BN(W₃ ∗ x) + BN(W₁ ∗ x) + BN(x) )  →  relu( W ∗ x + b )
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from attn_export.mechanisms.rep.repvgg import RepVGGBlock
from attn_export.reparam.algebra import Convolution, add, identity
from attn_export.reparam.rule import emit, follow, lift


class RepVGGRule:
    """Collapse ``RepVGGBlock``."""

    def matches(self, module: nn.Module) -> bool:
        """Whether this is a RepVGG block."""
        return isinstance(module, RepVGGBlock)

    def collapse(self, module: nn.Module) -> nn.Module:
        """One 3×3 convolution with bias, then ReLU."""
        assert isinstance(module, RepVGGBlock)
        total: Convolution | None = None
        for branch in _branches(module):
            total = branch if total is None else add(total, branch)
        assert total is not None
        return nn.Sequential(emit(total, module.dense.conv.weight), nn.ReLU())


def _branches(block: RepVGGBlock) -> Iterator[Convolution]:
    for part in (block.dense, block.pointwise):
        yield follow(lift(part.conv), part.bn)
    if block.identity is not None:
        yield follow(identity(block.identity.num_features, block.dense.conv.groups), block.identity)


RULE = RepVGGRule()
