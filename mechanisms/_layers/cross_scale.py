"""Cross-scale embedding: patches of several sizes around the same centres, side by side.

x = [conv_k1(x); conv_k2(x); ...], all of stride k1      b h/k1 w/k1 d
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn


class CrossScale(nn.Module):
    """Convolutions of one stride and several kernels side by side; the larger a kernel, the fewer its channels.

    Raises:
        ValueError: a kernel and the first differ by an odd number, so that their patches have no common centre, or
            the channels do not divide.
    """

    def __init__(self, inputs: int, outputs: int, kernels: Sequence[int]) -> None:
        super().__init__()
        stride, last = kernels[0], len(kernels) - 1
        if any(k < stride or (k - stride) % 2 for k in kernels):
            raise ValueError(f"kernels must exceed the first by even numbers; they are {tuple(kernels)}")
        if outputs % 2**last:
            raise ValueError(f"{len(kernels)} kernels halve the channels {last} times; {outputs} cannot be")
        self.convolutions = nn.ModuleList(
            nn.Conv2d(inputs, outputs >> min(i + 1, last), k, stride, (k - stride) // 2) for i, k in enumerate(kernels)
        )

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b rows columns d"]:
        """Embed; channels last."""
        return torch.cat([convolution(x) for convolution in self.convolutions], 1).permute(0, 2, 3, 1)
