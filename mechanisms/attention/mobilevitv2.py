"""Separable self-attention (MobileViTv2): one context vector for all tokens, linear in their number.

a = softmax_n(Wi x)                          b 1 n
c = Σ_n a (Wk x)                             b 1 d
y = Wo (relu(Wv x) * c)                      b n d
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms.spec import Dim, Input, Paper, Preset, Source, Spec


class SeparableSelfAttention(nn.Module):
    """Attention of one latent token to all, given back to each of them by multiplication.

    Args:
        channels: of the tokens.
        relu: on the values, as in the paper; External-Attention-pytorch has none.
    """

    def __init__(self, channels: int = 32, relu: bool = True) -> None:
        positive(channels=channels)
        super().__init__()
        self.score = nn.Linear(channels, 1)
        self.key = nn.Linear(channels, channels)
        self.value = nn.Linear(channels, channels)
        self.out = nn.Linear(channels, channels)
        self.relu = relu

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """Attend."""
        weights = torch.softmax(self.score(x).transpose(1, 2), -1)
        # The weights sum to one, so the key projection may follow the pooling: one row for a batch item, not n.
        context = self.key(weights @ x)
        values = self.value(x)
        out: Tensor = self.out((torch.relu(values) if self.relu else values) * context)
        return out


MECHANISM = Spec(
    paper=Paper(
        "Separable Self-attention for Mobile Vision Transformers", "Mehta and Rastegari", "TMLR 2023", "2206.02680"
    ),
    build=SeparableSelfAttention,
    tasks=("classification", "detection", "segmentation"),
    inputs=(Input("x", ("b", "n", "channels")),),
    dynamic=(Dim("b"), Dim("n")),
    presets={
        "test": Preset({"channels": 32}, {"n": 20}),
        "readme": Preset({"channels": 512}, {"n": 49}),
    },
    sources={
        "external-attention": Source(
            "External-Attention-pytorch, without the ReLU on the values",
            shown_by=(r"^fc_i\.", r"^fc_v\."),
            arguments={"relu": False},
        ),
    },
    checkpoint={r"^fc_i\.": "score.", r"^fc_k\.": "key.", r"^fc_v\.": "value.", r"^fc_o\.": "out."},
)
