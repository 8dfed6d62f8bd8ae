"""Multi-head scaled dot-product attention: each query averages the values whose keys it resembles.

q, k, v = Q Wq, K Wk, V Wv               b h nq dk, b h nk dk, b h nk dv
a       = softmax(w * q kᵀ / sqrt(dk))   b h nq nk, hidden pairs left out
y       = (a v) Wo                       b nq c
"""

from jaxtyping import Bool, Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms._layers.heads import attend, merge_heads, split_heads
from attn_export.mechanisms.spec import Dim, Input, Paper, Preset, Spec


class SelfAttention(nn.Module):
    """Attention of queries to keys, which in self attention are the same tokens.

    Args:
        channels: of the tokens.
        heads: how many attentions run side by side.
        d_k: of queries and keys in one head; ``channels // heads`` unless given.
        d_v: of the values in one head; ``channels // heads`` unless given.

    Raises:
        ValueError: a width or the number of heads is not positive, or ``heads`` does not divide ``channels`` where
            it must.
    """

    def __init__(self, channels: int = 32, heads: int = 4, d_k: int | None = None, d_v: int | None = None) -> None:
        positive(channels=channels, d_k=d_k, d_v=d_v)
        super().__init__()
        if heads < 1 or (channels % heads and None in (d_k, d_v)):
            raise ValueError(f"heads must divide channels, or both widths be given; {heads} heads, {channels} channels")
        key = channels // heads if d_k is None else d_k
        value = channels // heads if d_v is None else d_v
        if key < 1 or value < 1:
            raise ValueError(f"the widths of a head must be positive; they are {key} and {value}")
        self.heads = heads
        self.query = nn.Linear(channels, heads * key)
        self.key = nn.Linear(channels, heads * key)
        self.value = nn.Linear(channels, heads * value)
        self.project = nn.Linear(heads * value, channels)

    def forward(
        self,
        queries: Float[Tensor, "b nq c"],
        keys: Float[Tensor, "b nk c"],
        values: Float[Tensor, "b nk c"],
        mask: Bool[Tensor, "b h nq nk"] | None = None,
        weights: Float[Tensor, "b h nq nk"] | None = None,
    ) -> Float[Tensor, "b nq c"]:
        """Attend; ``mask`` is True where a key is hidden, ``weights`` multiply the logits before."""
        q, k, v = (
            split_heads(layer(tokens), self.heads)
            for layer, tokens in ((self.query, queries), (self.key, keys), (self.value, values))
        )
        y: Tensor = self.project(merge_heads(attend(q, k, v, mask=mask, weights=weights)))
        return y


MECHANISM = Spec(
    paper=Paper("Attention Is All You Need", "Vaswani et al.", "NIPS 2017", "1706.03762"),
    build=SelfAttention,
    tasks=("sequence",),
    inputs=(
        Input("queries", ("b", "nq", "channels")),
        Input("keys", ("b", "nk", "channels")),
        Input("values", ("b", "nk", "channels")),
    ),
    dynamic=(Dim("b"), Dim("nq"), Dim("nk")),
    presets={
        "test": Preset(
            {"channels": 32, "heads": 4, "d_k": 8, "d_v": 12},
            {"nq": 10, "nk": 14},
        ),
        "readme": Preset(
            {"channels": 512, "heads": 8, "d_k": 512, "d_v": 512},
            {"nq": 49, "nk": 49},
        ),
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
        "weighted": Preset(
            {"channels": 32, "heads": 4},
            {"nq": 10, "nk": 14},
            inputs=(
                Input("queries", ("b", "nq", "channels")),
                Input("keys", ("b", "nk", "channels")),
                Input("values", ("b", "nk", "channels")),
                Input("mask", ("b", "heads", "nq", "nk"), "bool"),
                Input("weights", ("b", "heads", "nq", "nk")),
            ),
        ),
    },
    checkpoint={r"^fc_q\.": "query.", r"^fc_k\.": "key.", r"^fc_v\.": "value.", r"^fc_o\.": "project."},
)
