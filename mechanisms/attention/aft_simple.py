"""Attention-free transformer without positions: one average of the values for all, gated by each token.

q, k, v = x Wq, x Wk, x Wv               b n c each
y_t = sigmoid(q_t) * Σ_s softmax_s(k)_s v_s
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms.spec import Dim, Input, Paper, Preset, Spec


class AFTSimple(nn.Module):
    """A global average for each channel, weighted by the keys.

    Raises:
        ValueError: ``channels`` is not positive.
    """

    def __init__(self, channels: int = 32) -> None:
        super().__init__()
        if channels < 1:
            raise ValueError(f"channels must be positive; they are {channels}")
        self.query = nn.Linear(channels, channels)
        self.key = nn.Linear(channels, channels)
        self.value = nn.Linear(channels, channels)

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        """Average the values."""
        mean = (torch.softmax(self.key(x), 1) * self.value(x)).sum(1, keepdim=True)
        y: Tensor = torch.sigmoid(self.query(x)) * mean
        return y


MECHANISM = Spec(
    paper=Paper("An Attention Free Transformer", "Zhai et al.", "2021", "2105.14103"),
    build=AFTSimple,
    tasks=("classification", "sequence"),
    inputs=(Input("x", ("b", "n", "channels")),),
    dynamic=(Dim("b"), Dim("n")),
    presets={
        "test": Preset({"channels": 32}, {"n": 20}),
        "readme": Preset({"channels": 512}, {"n": 49}),
    },
    checkpoint={r"^fc_q\.": "query.", r"^fc_k\.": "key.", r"^fc_v\.": "value."},
)
