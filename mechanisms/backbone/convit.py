"""ConViT: attention that starts as a convolution and learns by a gate how much of that to keep. Logits.

A = (1 - g) softmax(q kᵀ / sqrt(d)) + g softmax(W [dx, dy, dx² + dy²])      g = sigmoid of a number a head
x = x + W' A v;  x = x + MLP(LN x)                                          the class token joins in the last blocks
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms._layers.heads import merge_heads, split_heads
from attn_export.mechanisms._layers.position import offsets
from attn_export.mechanisms._layers.prenorm import PreNormBlock
from attn_export.mechanisms._layers.token_attention import TokenAttention
from attn_export.mechanisms._layers.vit import Patches
from attn_export.mechanisms.spec import Input, Paper, Preset, Spec


class GatedPositionalAttention(nn.Module):
    """Attention by content and by position, mixed by a gate for each head.

    Args:
        channels: of the tokens.
        heads: pieces that the channels are cut into.
        side: of the square map that the tokens are.
    """

    distances: Tensor

    def __init__(self, channels: int, heads: int, side: int) -> None:
        super().__init__()
        self.heads = heads
        self.qk = nn.Linear(channels, 2 * channels, bias=False)
        self.v = nn.Linear(channels, channels, bias=False)
        self.proj = nn.Linear(channels, channels)
        self.pos_proj = nn.Linear(3, heads)
        self.gating_param = nn.Parameter(torch.ones(heads))
        rows, columns = -offsets(side, side).float().movedim(-1, 0)
        table = torch.stack((columns, rows, rows.square() + columns.square()), -1)
        self.register_buffer("distances", table, persistent=False)

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        """Attend."""
        q, k = (split_heads(part, self.heads) for part in self.qk(x).chunk(2, -1))
        content = torch.softmax((q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1), -1)
        gate = torch.sigmoid(self.gating_param)[:, None, None]
        # Of parameters and constants alone: exporters fold it. Both maps have rows of sum 1, and so has their mixture.
        place = torch.softmax(self.pos_proj(self.distances).permute(2, 0, 1), -1) * gate
        y: Tensor = self.proj(merge_heads((content * (1 - gate) + place) @ split_heads(self.v(x), self.heads)))
        return y


class ConViT(Patches):
    """A classifier of square images; the defaults are ConViT-Ti.

    Args:
        size: of the image.
        patch: of the squares it is cut into.
        channels: of the tokens.
        heads: of the attention.
        local: blocks with positions, before the class token joins.
        depth: all blocks.
        classes: outputs.

    Raises:
        ValueError: ``patch`` does not divide ``size``, or ``heads`` not ``channels``.
    """

    def __init__(
        self,
        size: int = 224,
        patch: int = 16,
        channels: int = 192,
        heads: int = 4,
        local: int = 10,
        depth: int = 12,
        classes: int = 1000,
    ) -> None:
        positive(heads=heads, local=local, depth=depth, classes=classes)
        super().__init__(size, patch, channels)
        side = size // patch
        self.local = nn.Sequential(
            *(PreNormBlock(channels, GatedPositionalAttention(channels, heads, side), 4.0, 1e-6) for _ in range(local))
        )
        rest = (TokenAttention(channels, heads, bias=False) for _ in range(depth - local))
        self.blocks = nn.Sequential(*(PreNormBlock(channels, attention, 4.0, 1e-6) for attention in rest))
        self.norm = nn.LayerNorm(channels, 1e-6)
        self.head = nn.Linear(channels, classes)

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b classes"]:
        """Classify."""
        x = self.local(self.patches(image) + self.pos_embed)
        x = self.blocks(torch.cat((self.cls_token.expand(x.shape[0], -1, -1), x), 1))
        y: Tensor = self.head(self.norm(x)[:, 0])
        return y


def _in_two(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Count the blocks behind those with positions from 0."""
    blocks = {int(name.split(".")[1]) for name in state if name.startswith("blocks.")}
    local = {int(name.split(".")[1]) for name in state if name.endswith("attn.gating_param")}
    first = min(blocks - local, default=0)
    named = {}
    for name, value in state.items():
        start, _, rest = name.partition(".")
        number, _, part = rest.partition(".")
        if start != "blocks":
            named[name] = value
        elif int(number) in local:
            named[f"local.{number}.{part}"] = value
        else:
            named[f"blocks.{int(number) - first}.{part}"] = value
    return named


MECHANISM = Spec(
    paper=Paper(
        "ConViT: Improving Vision Transformers with Soft Convolutional Inductive Biases",
        "d'Ascoli et al.",
        "ICML 2021",
        "2103.10697",
    ),
    build=ConViT,
    inputs=(Input("image", ("b", 3, "size", "size")),),
    presets={
        "test": Preset({"size": 64, "channels": 12, "local": 2, "depth": 3, "classes": 10}),
        "readme": Preset({"size": 224}),
        "small": Preset({"size": 224, "channels": 432, "heads": 9}),
    },
    convert=_in_two,
    checkpoint={
        r"^patch_embed\.proj\.": "embed.",
        r"\.attn\.": ".attention.",
        r"\.mlp\.fc1\.": ".mlp.0.",
        r"\.mlp\.fc2\.": ".mlp.2.",
    },
)
