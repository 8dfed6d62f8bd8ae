"""A transformer block on the pixels of a map of fixed size, with relative positions.

x = P pool(x) + W softmax(q k / sqrt(d) + w_(i - j)) v,  q, k, v of pool(LN x)      pool and P only where it halves
x = x + W2 gelu(W1 LN x)                                                            b c h w
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.heads import attend, merge_heads, split_heads
from attn_export.mechanisms._layers.position import RelativeBias


class TransformerBlock(nn.Module):
    """Attention among all pixels of a map of fixed size, then a network for each; ``down`` halves the map first.

    Raises:
        ValueError: ``head_channels`` does not divide ``outputs``.
    """

    def __init__(
        self, inputs: int, outputs: int, size: tuple[int, int], down: bool, expansion: int, head_channels: int
    ) -> None:
        super().__init__()
        if outputs % head_channels:
            raise ValueError(f"head_channels must divide channels; {head_channels} does not divide {outputs}")
        self.down, self.heads = down, outputs // head_channels
        self.shortcut = nn.Linear(inputs, outputs) if down else nn.Identity()
        self.norm = nn.LayerNorm(inputs)
        self.qkv = nn.Linear(inputs, 3 * outputs)
        self.bias = RelativeBias(self.heads, *size)
        self.project = nn.Linear(outputs, outputs)
        self.network = nn.Sequential(
            nn.LayerNorm(outputs),
            nn.Linear(outputs, expansion * outputs),
            nn.GELU(),
            nn.Linear(expansion * outputs, outputs),
        )

    def forward(self, x: Float[Tensor, "b ci h w"]) -> Float[Tensor, "b co i j"]:
        """Attend and add."""
        normed = self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        if self.down:
            x, normed = F.max_pool2d(x, 2), F.max_pool2d(normed, 2)
        height, width = x.shape[2:]
        tokens, normed = (t.flatten(2).transpose(1, 2) for t in (x, normed))
        q, k, v = (split_heads(t, self.heads) for t in self.qkv(normed).chunk(3, -1))
        tokens = self.shortcut(tokens) + self.project(merge_heads(attend(q, k, v, bias=self.bias())))
        tokens = tokens + self.network(tokens)
        y: Tensor = tokens.transpose(1, 2).reshape(-1, tokens.shape[2], height, width)
        return y
