"""UFO attention: unit force operated, softmax-free attention, linear in the number of tokens.

XNorm(x) = γ x / |x|                                          γ one number a head, the norm over the last axis
y        = Wo concat_h( XNorm(Q_h) · XNorm(K_hᵀ V_h) )        b nq d
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms._layers.heads import merge_heads, split_heads
from attn_export.mechanisms.spec import Dim, Input, Paper, Preset, Spec

#: The least number that float16 holds: a zero vector stays zero instead of becoming NaN, all others keep their norm.
_LEAST = 2.0**-24


class UFOAttention(nn.Module):
    """Attention of ``queries`` to ``keys`` and ``values`` through a ``d_k`` × ``d_v`` summary of them.

    Args:
        channels: of the tokens.
        heads: number of heads.
        d_k: channels of a head's queries and keys.
        d_v: channels of a head's values.
    """

    def __init__(self, channels: int = 32, heads: int = 4, d_k: int = 8, d_v: int = 8) -> None:
        positive(channels=channels, heads=heads, d_k=d_k, d_v=d_v)
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(channels, heads * d_k)
        self.key = nn.Linear(channels, heads * d_k)
        self.value = nn.Linear(channels, heads * d_v)
        self.out = nn.Linear(heads * d_v, channels)
        self.gamma = nn.Parameter(torch.randn(1, heads, 1, 1))

    def forward(
        self, queries: Float[Tensor, "b nq d"], keys: Float[Tensor, "b nk d"], values: Float[Tensor, "b nk d"]
    ) -> Float[Tensor, "b nq d"]:
        """Attend."""
        q, k, v = (split_heads(x, self.heads) for x in (self.query(queries), self.key(keys), self.value(values)))
        # The norm forgets the scale, so the mean over the tokens does for their sum, and keeps to float16's range.
        summary = (k * (1 / keys.shape[1])).transpose(2, 3) @ v
        y: Tensor = self.out(merge_heads(self._normalized(q) @ self._normalized(summary)))
        return y

    def _normalized(self, x: Tensor) -> Tensor:
        norm: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        return x * (self.gamma / norm.clamp_min(_LEAST))


MECHANISM = Spec(
    paper=Paper("UFO-ViT: High Performance Linear Vision Transformer without Softmax", "Song", "2021", "2109.14382"),
    build=UFOAttention,
    inputs=(
        Input("queries", ("b", "nq", "channels")),
        Input("keys", ("b", "nk", "channels")),
        Input("values", ("b", "nk", "channels")),
    ),
    dynamic=(Dim("b"), Dim("nq"), Dim("nk")),
    presets={
        "test": Preset({"channels": 32, "heads": 4, "d_k": 8, "d_v": 8}, {"nq": 14, "nk": 11}),
        "readme": Preset({"channels": 512, "heads": 8, "d_k": 512, "d_v": 512}, {"nq": 49, "nk": 49}),
    },
    checkpoint={r"^fc_q\.": "query.", r"^fc_k\.": "key.", r"^fc_v\.": "value.", r"^fc_o\.": "out."},
)
