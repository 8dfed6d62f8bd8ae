"""A linear map without bias and the batch norm behind it, on tokens: one linear map when deployed."""

from jaxtyping import Float
from torch import Tensor, nn


class LinearBN(nn.Module):
    """Linear map, batch norm over all tokens of all images."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs, bias=False)
        self.bn = nn.BatchNorm1d(outputs)

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n o"]:
        """Map and normalise."""
        y: Tensor = self.linear(x)
        normed: Tensor = self.bn(y.flatten(0, 1))
        return normed.reshape(y.shape)
