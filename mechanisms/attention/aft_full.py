"""Attention-free transformer: each channel averages the values with weights from keys and a table of positions.

q, k, v = x Wq, x Wk, x Wv               b n c each
y_t = sigmoid(q_t) * Σ_s exp(k_s + w_ts) v_s / Σ_s exp(k_s + w_ts)
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms.spec import Input, Paper, Preset, Spec


class AFTFull(nn.Module):
    """Attention of ``tokens`` positions without products of queries and keys.

    Raises:
        ValueError: ``tokens`` is not positive.
    """

    def __init__(self, channels: int = 32, tokens: int = 20) -> None:
        positive(channels=channels)
        super().__init__()
        if tokens < 1:
            raise ValueError(f"tokens must be positive; they are {tokens}")
        self.query = nn.Linear(channels, channels)
        self.key = nn.Linear(channels, channels)
        self.value = nn.Linear(channels, channels)
        self.position = nn.Parameter(torch.zeros(tokens, tokens))

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        """Average the values."""
        # exp(k + w) is exp(k) exp(w): both sums are products of matrices. Maxima come off first, and cancel.
        keys = self.key(x)
        keys = torch.exp(keys - keys.amax(1, keepdim=True))
        table = torch.exp(self.position - self.position.amax(1, keepdim=True))
        total, weight = (table @ torch.cat((keys * self.value(x), keys), 2)).chunk(2, 2)
        # Where position and key are at odds everywhere, the weights underflow together: 0 then, not 0 / 0.
        return torch.sigmoid(self.query(x)) * total / weight.clamp_min(torch.finfo(weight.dtype).tiny)


MECHANISM = Spec(
    paper=Paper("An Attention Free Transformer", "Zhai et al.", "2021", "2105.14103"),
    build=AFTFull,
    tasks=("classification", "sequence"),
    inputs=(Input("x", ("b", "tokens", "channels")),),
    presets={
        "test": Preset({"channels": 32, "tokens": 20}),
        "readme": Preset({"channels": 512, "tokens": 49}),
    },
    checkpoint={
        r"^fc_q\.": "query.",
        r"^fc_k\.": "key.",
        r"^fc_v\.": "value.",
        r"^position_biases$": "position",
    },
)
