"""Squeeze-and-excitation with biases, as mobile networks have it: a sigmoid gate for each channel, or a hard one."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class ChannelGate(nn.Module):
    """Scale each channel by a gate in 0 to 1 that is computed from all channel means."""

    def __init__(self, channels: int, hidden: int, *, hard: bool = False) -> None:
        super().__init__()
        self.conv_reduce = nn.Conv2d(channels, hidden, 1)
        self.conv_expand = nn.Conv2d(hidden, channels, 1)
        self.hard = hard

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Scale."""
        logits = self.conv_expand(torch.relu(self.conv_reduce(x.mean((2, 3), keepdim=True))))
        return x * (F.hardsigmoid(logits) if self.hard else torch.sigmoid(logits))
