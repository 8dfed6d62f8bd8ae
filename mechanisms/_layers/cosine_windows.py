"""Window attention by the cosine of queries and keys, with a bias computed from distances (Swin V2).

logits = s q kᵀ / (|q| |k|) + 16 sigmoid(M(log-spaced offset))      s = min(exp(learnt), 100), one for each head
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.heads import attend
from attn_export.mechanisms._layers.position import gather_bias, relative_index
from attn_export.mechanisms._layers.windows import WindowAttention

#: Width of the network that computes the bias, and the largest bias (paper, section 3.3).
_HIDDEN, _LARGEST = 512, 16.0


class ComputedBias(nn.Module):
    """A bias on the logits within a square window: of parameters and constants alone, which exporters fold."""

    index: Tensor
    offsets: Tensor

    def __init__(self, heads: int, window: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(2, _HIDDEN), nn.ReLU(), nn.Linear(_HIDDEN, heads, bias=False))
        steps = torch.arange(1 - window, window).float() / max(window - 1, 1) * 8
        spaced = torch.sign(steps) * torch.log2(steps.abs() + 1) / math.log2(8)
        table = torch.stack(torch.meshgrid(spaced, spaced, indexing="ij"), -1).flatten(0, 1)
        self.register_buffer("offsets", table, persistent=False)
        self.register_buffer("index", relative_index(window, window), persistent=False)

    def forward(self) -> Float[Tensor, "heads n n"]:
        """Compute the bias of every pair of places."""
        return _LARGEST * torch.sigmoid(gather_bias(self.mlp(self.offsets), self.index))


class CosineWindowAttention(WindowAttention):
    """Attention within windows by cosine; queries and values have biases, keys have none.

    Args:
        channels: of the map.
        heads: number of heads.
        window: side of a window.
        shift: how far windows are moved, down and right; 0 not at all.
        size: of the map; needed for a shift.

    Raises:
        ValueError: ``heads`` does not divide ``channels``, or ``window`` not ``size``.
    """

    def __init__(
        self, channels: int, heads: int, window: int, shift: int = 0, size: tuple[int, int] | None = None
    ) -> None:
        if size and (size[0] % window or size[1] % window):
            raise ValueError(f"window must divide size; {window} does not divide {size}")
        super().__init__(channels, heads, window, shift, size)
        self.qkv = nn.Linear(channels, 3 * channels, bias=False)
        self.q_bias, self.v_bias = nn.Parameter(torch.zeros(channels)), nn.Parameter(torch.zeros(channels))
        self.logit_scale = nn.Parameter(torch.full((heads, 1, 1), math.log(10.0)))
        self.bias = ComputedBias(heads, window)  # type: ignore[assignment]

    def _project(self, windows: Float[Tensor, "b m n c"]) -> Float[Tensor, "b m n d"]:
        bias = torch.cat((self.q_bias, torch.zeros_like(self.q_bias), self.v_bias))
        return F.linear(windows, self.qkv.weight, bias)

    def _mix(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        scale = self.logit_scale.clamp(max=math.log(100.0)).exp()
        # Where windows have masks of their own, window and head are one axis.
        scale = scale.repeat(q.shape[1] // self.heads, 1, 1)
        return attend(F.normalize(q, dim=-1) * scale, F.normalize(k, dim=-1), v, scale=1.0, bias=bias)
