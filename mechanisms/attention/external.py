"""External attention: tokens attend to a small learned memory instead of to each other.

l = x Mkᵀ                                b n s
a = softmax_n(l) / Σ_s softmax_n(l)      b n s, over the tokens, then to sum one over the memory
y = a Mvᵀ                                b n c
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms.spec import Dim, Input, Paper, Preset, Spec


class ExternalAttention(nn.Module):
    """Two linear layers with a double normalisation between them.

    Args:
        channels: of the tokens.
        memory: units of the memory, ``S`` in the paper.

    Raises:
        ValueError: ``memory`` is not positive.
    """

    def __init__(self, channels: int = 32, memory: int = 64) -> None:
        positive(channels=channels)
        super().__init__()
        if memory < 1:
            raise ValueError(f"memory must be positive; it is {memory}")
        self.keys = nn.Linear(channels, memory, bias=False)
        self.values = nn.Linear(memory, channels, bias=False)

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        """Read the memory."""
        y: Tensor = self.values(doubly_normalised(self.keys(x)))
        return y


def doubly_normalised(logits: Float[Tensor, "b n s"]) -> Float[Tensor, "b n s"]:
    """Softmax over the tokens, then divide by the sum over the memory.

    p / Σ p is softmax(log p): nothing underflows to 0 / 0, so no epsilon is needed, in float16 neither.
    """
    return torch.softmax(torch.log_softmax(logits, 1), 2)


MECHANISM = Spec(
    paper=Paper(
        "Beyond Self-attention: External Attention using Two Linear Layers for Visual Tasks",
        "Guo et al.",
        "TPAMI 2022",
        "2105.02358",
    ),
    build=ExternalAttention,
    tasks=("classification", "detection", "segmentation"),
    inputs=(Input("x", ("b", "n", "channels")),),
    dynamic=(Dim("b"), Dim("n")),
    presets={
        "test": Preset({"channels": 32, "memory": 8}, {"n": 20}),
        "readme": Preset({"channels": 512, "memory": 8}, {"n": 49}),
    },
    checkpoint={r"^mk\.": "keys.", r"^mv\.": "values."},
)
