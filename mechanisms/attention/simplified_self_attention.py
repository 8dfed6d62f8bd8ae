"""Multi-head attention on the tokens as they are: no projection but the last.

q, k, v = Q, K, V cut into heads         b h n d, d = c / h
y       = softmax(q kᵀ / sqrt(d)) v Wo   b nq c
"""

from jaxtyping import Bool, Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms._layers.heads import attend, merge_heads, split_heads
from attn_export.mechanisms.spec import Dim, Input, Paper, Preset, Spec


class SimplifiedSelfAttention(nn.Module):
    """Attention without projections of queries, keys and values.

    Raises:
        ValueError: ``heads`` does not divide ``channels``.
    """

    def __init__(self, channels: int = 32, heads: int = 4) -> None:
        positive(channels=channels)
        super().__init__()
        if heads < 1 or channels % heads:
            raise ValueError(f"heads must divide channels; {heads} does not divide {channels}")
        self.heads = heads
        self.project = nn.Linear(channels, channels)

    def forward(
        self,
        queries: Float[Tensor, "b nq c"],
        keys: Float[Tensor, "b nk c"],
        values: Float[Tensor, "b nk c"],
        mask: Bool[Tensor, "b h nq nk"] | None = None,
        weights: Float[Tensor, "b h nq nk"] | None = None,
    ) -> Float[Tensor, "b nq c"]:
        """Attend; ``mask`` is True where a key is hidden, ``weights`` multiply the logits before."""
        q, k, v = (split_heads(tokens, self.heads) for tokens in (queries, keys, values))
        y: Tensor = self.project(merge_heads(attend(q, k, v, mask=mask, weights=weights)))
        return y


MECHANISM = Spec(
    paper=Paper("Attention Is All You Need", "Vaswani et al.", "NIPS 2017", "1706.03762"),
    build=SimplifiedSelfAttention,
    inputs=(
        Input("queries", ("b", "nq", "channels")),
        Input("keys", ("b", "nk", "channels")),
        Input("values", ("b", "nk", "channels")),
    ),
    dynamic=(Dim("b"), Dim("nq"), Dim("nk")),
    presets={
        "test": Preset({"channels": 32, "heads": 4}, {"nq": 10, "nk": 14}),
        "readme": Preset({"channels": 512, "heads": 8}, {"nq": 49, "nk": 49}),
    },
    variants={
        "masked": Preset(
            {"channels": 32, "heads": 4},
            {"nq": 10, "nk": 14},
            inputs=(
                Input("queries", ("b", "nq", "channels")),
                Input("keys", ("b", "nk", "channels")),
                Input("values", ("b", "nk", "channels")),
                Input("mask", ("b", "heads", "nq", "nk"), "bool"),
            ),
        ),
    },
    checkpoint={r"^fc_o\.": "project."},
)
