"""gMLP: an MLP whose hidden half is gated by a linear layer across tokens, residual.

u, v = gelu(W1 · LN(x))           b n f  each
y = x + W2 · (u * (W_n · LN(v) + b))      b n c    W_n: n × n, across tokens
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import not_negative, positive
from attn_export.mechanisms.spec import Dim, Input, Paper, Preset, Source, Spec


class SpatialGatingUnit(nn.Module):
    """Gate one half of the features by the other, mixed across tokens.

    Args:
        features: of a half.
        tokens: number of tokens.
    """

    def __init__(self, features: int, tokens: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(features)
        self.across = nn.Linear(tokens, tokens)
        nn.init.zeros_(self.across.weight)
        nn.init.ones_(self.across.bias)  # at first the gate lets everything through

    def forward(self, x: Float[Tensor, "b n f2"]) -> Float[Tensor, "b n f"]:
        """Gate."""
        u, v = x.chunk(2, -1)
        y: Tensor = u * self.across(self.norm(v).transpose(1, 2)).transpose(1, 2)
        return y


class GMLPBlock(nn.Module):
    """One layer."""

    def __init__(self, channels: int, features: int, tokens: int, epsilon: float = 1e-5) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, epsilon)
        self.widen = nn.Linear(channels, 2 * features)
        self.gate = SpatialGatingUnit(features, tokens)
        self.narrow = nn.Linear(features, channels)

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        """Widen, gate, narrow."""
        y: Tensor = x + self.narrow(self.gate(F.gelu(self.widen(self.norm(x)))))
        return y


class GMLP(nn.Module):
    """A language model: embedding, layers, layer norm, linear. Logits for each token.

    Args:
        vocabulary: number of token ids; 0 for inputs that are embedded already, and outputs that are features.
        tokens: length of the sequence.
        channels: features of a token.
        features: of each half of the gated MLP.
        depth: number of layers.
        softmax: give probabilities instead of logits, as External-Attention-pytorch does.
        epsilon: of the norms outside of the gates; timm's weights were trained with 1e-6.
    """

    def __init__(
        self,
        vocabulary: int = 20,
        tokens: int = 12,
        channels: int = 16,
        features: int = 24,
        depth: int = 2,
        softmax: bool = False,
        epsilon: float = 1e-5,
    ) -> None:
        not_negative(vocabulary=vocabulary)
        positive(tokens=tokens, channels=channels, features=features, depth=depth)
        super().__init__()
        self.embed = nn.Embedding(vocabulary, channels) if vocabulary else nn.Identity()
        self.blocks = nn.Sequential(*(GMLPBlock(channels, features, tokens, epsilon) for _ in range(depth)))
        self.norm = nn.LayerNorm(channels, epsilon)
        self.head = nn.Linear(channels, vocabulary) if vocabulary else nn.Identity()
        self.softmax = softmax

    def forward(self, x: Int[Tensor, "b n"] | Float[Tensor, "b n c"]) -> Float[Tensor, "b n o"]:
        """Give logits for each token."""
        y: Tensor = self.head(self.norm(self.blocks(self.embed(x))))
        return torch.softmax(y, -1) if self.softmax else y


def unnumbered(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename layers that the original numbers inside their names: ``gmlp.1.fn.fc1_1`` is ``blocks.1.widen``."""
    names = {"ln1": "norm", "fc1": "widen", "sgu": "gate", "fc2": "narrow"}
    renamed = {}
    for key, value in state.items():
        parts = key.split(".")
        if parts[0] == "gmlp":
            parts = ["blocks", parts[1], names[parts[3].split("_")[0]], *parts[4:]]
        renamed[".".join(parts)] = value
    return renamed


MECHANISM = Spec(
    paper=Paper("Pay Attention to MLPs", "Liu et al.", "NeurIPS 2021", "2105.08050"),
    build=GMLP,
    tasks=("classification", "sequence"),
    inputs=(Input("x", ("b", "tokens"), "int64", "vocabulary"),),
    dynamic=(Dim("b"),),
    presets={
        "test": Preset({"vocabulary": 20, "tokens": 12}),
        "readme": Preset({"vocabulary": 10000, "tokens": 49, "channels": 512, "features": 1024, "depth": 6}),
    },
    variants={
        "features": Preset(
            {"vocabulary": 0, "tokens": 12, "channels": 16}, inputs=(Input("x", ("b", "tokens", "channels")),)
        ),
        "probabilities": Preset({"vocabulary": 20, "tokens": 12, "softmax": True}),
    },
    sources={
        "external-attention": Source(
            "External-Attention-pytorch, which gives probabilities",
            shown_by=(r"^gmlp\.0\.", r"^to_logits\.1\."),
            arguments={"softmax": True},
        ),
    },
    convert=unnumbered,
    checkpoint={
        r"^embedding\.": "embed.",
        r"^(.*\bgate\.)ln\.": r"\1norm.",
        r"^(.*\bgate\.)proj\.": r"\1across.",
        r"^ln\.": "norm.",
        r"^proj\.": "across.",
        r"^to_logits\.0\.": "norm.",
        r"^to_logits\.1\.": "head.",
    },
)
