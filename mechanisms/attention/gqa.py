"""Grouped-query attention: several heads of queries share one head of keys and values.

q = Wq x                                         b h n d, h heads
k, v = Wk x, Wv x                                b g n d, g divides h; g = h is multi-head, g = 1 multi-query
y = Wo softmax(q kᵀ / sqrt(d)) v                 b n c, head i of q with head i // (h / g) of k and v
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms._layers.heads import attend, merge_heads, split_heads
from attn_export.mechanisms.attention.rope import RotaryEmbedding
from attn_export.mechanisms.spec import Dim, Input, Paper, Preset, Spec


class GroupedQueryAttention(nn.Module):
    """Self-attention with fewer heads of keys and values than of queries.

    Args:
        channels: of the tokens.
        heads: of queries.
        kv_heads: of keys and values.
        d_head: channels of a head; ``channels // heads`` unless given.
        rotary: turn queries and keys by their positions (RoPE).
        causal: hide later tokens from earlier ones.
        length: the largest number of tokens that ``rotary`` and ``causal`` hold constants for.
        bias: of the projections.

    Raises:
        ValueError: ``kv_heads`` does not divide ``heads``, or ``heads`` does not divide ``channels`` and ``d_head`` is
            not given.
    """

    hidden: Tensor

    def __init__(
        self,
        channels: int = 32,
        heads: int = 4,
        kv_heads: int = 2,
        d_head: int | None = None,
        rotary: bool = False,
        causal: bool = False,
        length: int = 64,
        bias: bool = False,
    ) -> None:
        positive(channels=channels)
        super().__init__()
        if kv_heads < 1 or heads < 1 or heads % kv_heads:
            raise ValueError(f"kv_heads must divide heads; {kv_heads} does not divide {heads}")
        if d_head is None and channels % heads:
            raise ValueError(f"heads must divide channels unless d_head is given; {heads} does not divide {channels}")
        size = channels // heads if d_head is None else d_head
        self.heads, self.kv_heads, self.group, self.causal = heads, kv_heads, heads // kv_heads, causal
        self.query = nn.Linear(channels, heads * size, bias)
        self.key, self.value = nn.Linear(channels, kv_heads * size, bias), nn.Linear(channels, kv_heads * size, bias)
        self.rotary = RotaryEmbedding(size, length) if rotary else nn.Identity()
        self.out = nn.Linear(heads * size, channels, bias)
        if causal:
            self.register_buffer("hidden", torch.ones(length, length, dtype=torch.bool).triu(1), persistent=False)

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        """Attend.

        Raises:
            ValueError: there are more tokens than ``length``, where ``rotary`` or ``causal`` needs it.
        """
        if self.causal and x.shape[1] > self.hidden.shape[0]:
            most = self.hidden.shape[0]
            raise ValueError(f"expected at most {most} tokens, got {x.shape[1]}; build it with a larger length")
        q = self.rotary(split_heads(self.query(x), self.heads))
        k = self.rotary(split_heads(self.key(x), self.kv_heads))
        v = split_heads(self.value(x), self.kv_heads)
        # The queries that share keys become more rows of one product: no key or value is copied.
        n, size = q.shape[2:]
        rows = q.reshape(-1, self.kv_heads, self.group * n, size)
        mask = self.hidden[:n, :n].repeat(self.group, 1) if self.causal else None
        mixed = attend(rows, k, v, mask=mask).reshape(-1, self.heads, n, size)
        y: Tensor = self.out(merge_heads(mixed))
        return y


MECHANISM = Spec(
    paper=Paper(
        "GQA: Training Generalized Multi-Query Transformer Models from Multi-Head Checkpoints",
        "Ainslie et al.",
        "EMNLP 2023",
        "2305.13245",
    ),
    build=GroupedQueryAttention,
    tasks=("sequence",),
    inputs=(Input("x", ("b", "n", "channels")),),
    dynamic=(Dim("b"), Dim("n")),
    presets={
        "test": Preset({"channels": 16}, {"n": 7}),
        "readme": Preset({"channels": 512, "heads": 8, "kv_heads": 2}, {"n": 196}),
    },
    variants={
        "rotary": Preset({"channels": 16, "rotary": True}, {"n": 7}, dynamic=(Dim("b"), Dim("n", max=64))),
        "causal": Preset(
            {"channels": 16, "rotary": True, "causal": True, "bias": True},
            {"n": 7},
            dynamic=(Dim("b"), Dim("n", max=64)),
        ),
        "multi_query": Preset({"channels": 16, "kv_heads": 1, "d_head": 6}, {"n": 7}),
        "multi_head": Preset({"channels": 16, "kv_heads": 4}, {"n": 7}),
    },
)
