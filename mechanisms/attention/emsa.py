"""Efficient multi-head attention: keys and values from a smaller map, and heads that talk to each other.

x' = LN(depthwise conv(x), stride s)     b n/s² c, with s = 1 the tokens themselves
q, k, v = x Wq, x' Wk, x' Wv             b h n dk, b h n/s² dk, b h n/s² dv
a  = IN(softmax(W q kᵀ / sqrt(dk)))      b h n n/s², W a 1×1 convolution over the heads
y  = (a v) Wo                            b n c
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms._layers.heads import merge_heads, split_heads
from attn_export.mechanisms.spec import Dim, Input, Paper, Preset, Spec


class EfficientMultiHeadSelfAttention(nn.Module):
    """Attention on the tokens of a map of fixed size.

    Args:
        channels: of the tokens.
        heads: how many attentions run side by side.
        d_k: channels of queries and keys in one head; ``channels // heads`` unless given.
        d_v: channels of the values in one head; ``channels // heads`` unless given.
        height: of the map.
        width: of the map.
        ratio: how much smaller, on each side, the map of keys and values is.
        transform: mix the heads before the softmax and normalise each head's weights after it.

    Raises:
        ValueError: ``heads`` does not divide ``channels`` where it must, or a number is not positive.
    """

    def __init__(
        self,
        channels: int = 32,
        heads: int = 4,
        d_k: int | None = None,
        d_v: int | None = None,
        height: int = 8,
        width: int = 8,
        ratio: int = 2,
        transform: bool = True,
    ) -> None:
        positive(channels=channels)
        super().__init__()
        if heads < 1 or (channels % heads and None in (d_k, d_v)):
            raise ValueError(f"heads must divide channels, or both widths be given; {heads} heads, {channels} channels")
        key = channels // heads if d_k is None else d_k
        value = channels // heads if d_v is None else d_v
        if min(height, width, ratio, key, value) < 1:
            raise ValueError("height, width, ratio and the widths of a head must be positive")
        self.heads, self.size, self.ratio = heads, (height, width), ratio
        self.scale = key**-0.5
        self.query = nn.Linear(channels, heads * key)
        self.key = nn.Linear(channels, heads * key)
        self.value = nn.Linear(channels, heads * value)
        self.project = nn.Linear(heads * value, channels)
        if ratio > 1:
            self.reduce = nn.Conv2d(channels, channels, ratio + 1, ratio, ratio // 2, groups=channels)
            self.norm = nn.LayerNorm(channels)
        self.mix = nn.Conv2d(heads, heads, 1) if transform else None
        self.even = nn.InstanceNorm2d(heads)

    def forward(
        self,
        x: Float[Tensor, "b n c"],
        keys: Float[Tensor, "b nk c"] | None = None,
        values: Float[Tensor, "b nk c"] | None = None,
    ) -> Float[Tensor, "b n c"]:
        """Attend; other keys and values than ``x`` can be given where nothing is reduced.

        Raises:
            ValueError: keys or values come with a ratio above 1, where they would have to be a map as well.
        """
        if self.ratio > 1:
            if keys is not None or values is not None:
                raise ValueError("with a ratio above 1, keys and values come from x; give no others")
            keys = values = self.norm(
                self.reduce(torch.unflatten(x.transpose(1, 2), 2, self.size)).flatten(2).transpose(1, 2)
            )
        keys = x if keys is None else keys
        values = keys if values is None else values
        q, k = split_heads(self.query(x), self.heads), split_heads(self.key(keys), self.heads)
        weights = self.weights(q, k)
        y: Tensor = self.project(merge_heads(weights @ split_heads(self.value(values), self.heads)))
        return y

    def weights(self, q: Float[Tensor, "b h n d"], k: Float[Tensor, "b h nk d"]) -> Float[Tensor, "b h n nk"]:
        """Return the weights; mixed and normalised ones no longer sum to one."""
        logits = (q * self.scale) @ k.transpose(2, 3)
        if self.mix is None:
            return torch.softmax(logits, -1)
        y: Tensor = self.even(torch.softmax(self.mix(logits), -1))
        return y


MECHANISM = Spec(
    paper=Paper(
        "ResT: An Efficient Transformer for Visual Recognition", "Zhang and Yang", "NeurIPS 2021", "2105.13677"
    ),
    build=EfficientMultiHeadSelfAttention,
    tasks=("classification", "detection"),
    inputs=(Input("x", ("b", "n", "channels")),),
    presets={
        "test": Preset({"channels": 32, "heads": 4, "height": 8, "width": 6}, {"n": 48}),
        "readme": Preset(
            {"channels": 512, "heads": 8, "d_k": 512, "d_v": 512, "height": 8, "width": 8, "ratio": 2}, {"n": 64}
        ),
    },
    variants={
        "ratio1": Preset(
            {"channels": 32, "heads": 4, "height": 4, "width": 4, "ratio": 1},
            {"n": 16, "nk": 20},
            inputs=(
                Input("x", ("b", "n", "channels")),
                Input("keys", ("b", "nk", "channels")),
                Input("values", ("b", "nk", "channels")),
            ),
            dynamic=(Dim("b"), Dim("n", min=2), Dim("nk", min=2)),
        ),
        "plain": Preset({"channels": 32, "heads": 4, "height": 8, "width": 6, "transform": False}, {"n": 48}),
    },
    checkpoint={
        r"^fc_q\.": "query.",
        r"^fc_k\.": "key.",
        r"^fc_v\.": "value.",
        r"^fc_o\.": "project.",
        r"^sr_conv\.": "reduce.",
        r"^sr_ln\.": "norm.",
        r"^transform\.conv\.": "mix.",
    },
)
