"""Layer norm over the channels of a map, as the one operator that runtimes have for it, between two transpositions."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class ChannelNorm(nn.LayerNorm):
    """Normalise each pixel over its channels; ``epsilon`` is that of the ConvNeXt family."""

    def __init__(self, channels: int, epsilon: float = 1e-6) -> None:
        super().__init__(channels, epsilon)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Normalise."""
        y = F.layer_norm(x.permute(0, 2, 3, 1), self.normalized_shape, self.weight, self.bias, self.eps)
        return y.permute(0, 3, 1, 2)
