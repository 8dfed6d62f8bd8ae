"""Parallel multi-scale attention: self attention, convolutions along the tokens and a point-wise network, added.

v = x Wv                                 b n h dv, shared by attention and convolutions
A = attention(x Wq, x Wk, v) Wo          b n c
C = Σ_k softmax(α)_k P_k D_k v           b n c, D_k depth-wise with kernel k, P_k point-wise
F = W2 relu(W1 x)                        b n c
y = A + C + F
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms._layers.heads import attend, merge_heads, split_heads
from attn_export.mechanisms.spec import Dim, Input, Paper, Preset, Source, Spec


class DepthSeparable(nn.Module):
    """A convolution along the tokens for each channel, then one across the channels.

    Raises:
        ValueError: ``kernel`` is even or not positive.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__()
        if kernel < 1 or kernel % 2 == 0:
            raise ValueError(f"kernels must be odd; one is {kernel}")
        self.depth = nn.Conv1d(inputs, inputs, kernel, padding=kernel // 2, groups=inputs) if kernel > 1 else None
        self.point = nn.Conv1d(inputs, outputs, 1)

    def forward(self, v: Float[Tensor, "b ci n"]) -> Float[Tensor, "b co n"]:
        """Convolve."""
        y: Tensor = self.point(v if self.depth is None else self.depth(v))
        return y


class MultiScaleAttention(nn.Module):
    """Attention, convolution and a point-wise network side by side.

    Args:
        channels: of the tokens.
        heads: how many attentions run side by side.
        d_k: channels of queries and keys in one head; ``channels // heads`` unless given.
        d_v: channels of the values in one head; ``channels // heads`` unless given.
        kernels: of the convolutions.
        hidden: units of the point-wise network; 0 leaves it out, as External-Attention-pytorch does.

    Raises:
        ValueError: ``heads`` does not divide ``channels`` where it must, a width is not positive, a kernel is even.
    """

    def __init__(
        self,
        channels: int = 32,
        heads: int = 4,
        d_k: int | None = None,
        d_v: int | None = None,
        kernels: tuple[int, ...] = (1, 3, 5),
        hidden: int = 128,
    ) -> None:
        positive(channels=channels)
        super().__init__()
        if heads < 1 or (channels % heads and None in (d_k, d_v)):
            raise ValueError(f"heads must divide channels, or both widths be given; {heads} heads, {channels} channels")
        key = channels // heads if d_k is None else d_k
        value = channels // heads if d_v is None else d_v
        if key < 1 or value < 1 or hidden < 0 or not kernels:
            raise ValueError("the widths of a head must be positive, hidden not negative, and there must be a kernel")
        self.heads = heads
        self.query = nn.Linear(channels, heads * key)
        self.key = nn.Linear(channels, heads * key)
        self.value = nn.Linear(channels, heads * value)
        self.project = nn.Linear(heads * value, channels)
        self.convs = nn.ModuleDict({str(k): DepthSeparable(heads * value, channels, k) for k in kernels})
        self.alpha = nn.Parameter(torch.ones(len(kernels)))
        layers = (nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels)) if hidden else ()
        self.network = nn.Sequential(*layers) if layers else None

    def forward(
        self,
        x: Float[Tensor, "b n c"],
        keys: Float[Tensor, "b n c"] | None = None,
        values: Float[Tensor, "b n c"] | None = None,
    ) -> Float[Tensor, "b n c"]:
        """Add the branches; keys and values are ``x`` unless given, and then as many tokens."""
        keys = x if keys is None else keys
        v = self.value(keys if values is None else values)
        q, k = split_heads(self.query(x), self.heads), split_heads(self.key(keys), self.heads)
        y: Tensor = self.project(merge_heads(attend(q, k, split_heads(v, self.heads))))
        rows, shares = v.transpose(1, 2), torch.softmax(self.alpha, 0).chunk(len(self.convs))
        local = [conv(rows) * share for conv, share in zip(self.convs.values(), shares, strict=True)]
        mixed = local[0]
        for one in local[1:]:
            mixed = mixed + one
        y = y + mixed.transpose(1, 2)
        return y if self.network is None else y + self.network(x)


MECHANISM = Spec(
    paper=Paper(
        "MUSE: Parallel Multi-Scale Attention for Sequence to Sequence Learning", "Zhao et al.", "2019", "1911.09483"
    ),
    build=MultiScaleAttention,
    tasks=("sequence",),
    inputs=(Input("x", ("b", "n", "channels")),),
    dynamic=(Dim("b"), Dim("n")),
    presets={
        "test": Preset({"channels": 32, "heads": 4, "hidden": 48}, {"n": 14}),
        "readme": Preset({"channels": 512, "heads": 8, "d_k": 512, "d_v": 512, "hidden": 0}, {"n": 49}),
    },
    variants={
        "three_inputs": Preset(
            {"channels": 32, "heads": 4, "hidden": 0},
            {"n": 14},
            inputs=(
                Input("x", ("b", "n", "channels")),
                Input("keys", ("b", "n", "channels")),
                Input("values", ("b", "n", "channels")),
            ),
        ),
    },
    sources={
        "external-attention": Source(
            "External-Attention-pytorch, without the feed-forward branch",
            shown_by=(r"^dy_paras$", r"^conv1\."),
            arguments={"hidden": 0},
        ),
    },
    checkpoint={
        r"^fc_q\.": "query.",
        r"^fc_k\.": "key.",
        r"^fc_v\.": "value.",
        r"^fc_o\.": "project.",
        r"^conv(\d)\.(depth|point)(wise)?_conv\.": r"convs.\1.\2.",
        r"^dy_paras$": "alpha",
    },
)
