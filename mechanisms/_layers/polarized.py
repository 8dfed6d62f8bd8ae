"""The two gates of polarized self-attention, each with its 1×1 convolutions moved to where there are no maps.

Both pool their values with weights that sum to one, so a 1×1 convolution before the pooling equals the same one
after it: ``c² / 2`` products for a batch item in place of ``c² / 2`` for a pixel.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class PolarizedChannelGate(nn.Module):
    """One number in (0, 1) for each channel, from an attention pooling over the pixels.

    Raises:
        ValueError: ``channels`` is odd.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        if channels % 2:
            raise ValueError(f"channels are halved and must be even; they are {channels}")
        self.query = nn.Conv2d(channels, 1, 1)
        self.value = nn.Linear(channels, channels // 2)
        self.expand = nn.Linear(channels // 2, channels)
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c 1 1"]:
        """Return the gate."""
        weights = torch.softmax(self.query(x).flatten(2), -1)
        pooled = weights @ x.flatten(2).transpose(1, 2)  # b 1 c
        gate = torch.sigmoid(self.norm(self.expand(self.value(pooled))))
        return gate.transpose(1, 2).unsqueeze(-1)


class PolarizedSpatialGate(nn.Module):
    """One number in (0, 1) for each pixel, from a channel attention with the mean as its query.

    Raises:
        ValueError: ``channels`` is odd.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        if channels % 2:
            raise ValueError(f"channels are halved and must be even; they are {channels}")
        self.query = nn.Linear(channels, channels // 2)
        self.value = nn.Linear(channels, channels // 2)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 1 h w"]:
        """Return the gate."""
        weights = torch.softmax(self.query(x.mean((2, 3))), -1).unsqueeze(1)  # b 1 c/2
        mix, shift = weights @ self.value.weight, weights @ self.value.bias.unsqueeze(-1)  # b 1 c, b 1 1
        gate = torch.sigmoid(mix @ x.flatten(2) + shift)
        return gate.reshape(-1, 1, *x.shape[2:])
