"""Window attention by the cosine of queries and keys, with a bias computed from distances (Swin V2).

logits = s q kᵀ / (|q| |k|) + 16 sigmoid(M(log-spaced offset))      s = min(exp(learnt), 100), one for each head
       = s q kᵀ / (|q| |k|) + M(sign(offset) log(1 + |offset|))     in the first edition of the paper
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
#: That width in the implementation of the first edition whose weights are published (timm's ``swinv2_cr``).
_FIRST_HIDDEN = 384


class ComputedBias(nn.Module):
    """A bias on the logits within a square window: of parameters and constants alone, which exporters fold.

    Args:
        heads: number of heads.
        window: side of the window.
        first: offsets are not divided by the window, nor is the bias bounded, as in the paper's first edition.
    """

    index: Tensor
    offsets: Tensor

    def __init__(self, heads: int, window: int, *, first: bool = False) -> None:
        super().__init__()
        self.first, hidden = first, _FIRST_HIDDEN if first else _HIDDEN
        self.mlp = nn.Sequential(nn.Linear(2, hidden), nn.ReLU(), nn.Linear(hidden, heads, bias=first))
        steps = torch.arange(1 - window, window).float()
        if first:
            spaced = torch.sign(steps) * torch.log(steps.abs() + 1)
        else:
            steps = steps / max(window - 1, 1) * 8
            spaced = torch.sign(steps) * torch.log2(steps.abs() + 1) / math.log2(8)
        table = torch.stack(torch.meshgrid(spaced, spaced, indexing="ij"), -1).flatten(0, 1)
        self.register_buffer("offsets", table, persistent=False)
        self.register_buffer("index", relative_index(window, window), persistent=False)

    def forward(self) -> Float[Tensor, "heads n n"]:
        """Compute the bias of every pair of places."""
        bias = gather_bias(self.mlp(self.offsets), self.index)
        return bias if self.first else _LARGEST * torch.sigmoid(bias)


class CosineWindowAttention(WindowAttention):
    """Attention within windows by cosine; queries and values have biases, keys none but in the first edition.

    Args:
        channels: of the map.
        heads: number of heads.
        window: side of a window.
        shift: how far windows are moved, down and right; 0 not at all.
        size: of the map; needed for a shift.
        first: as the paper's first edition has it.

    Raises:
        ValueError: ``heads`` does not divide ``channels``, or ``window`` not ``size``.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        window: int,
        shift: int = 0,
        size: tuple[int, int] | None = None,
        *,
        first: bool = False,
    ) -> None:
        if size and (size[0] % window or size[1] % window):
            raise ValueError(f"window must divide size; {window} does not divide {size}")
        super().__init__(channels, heads, window, shift, size)
        self.qkv = nn.Linear(channels, 3 * channels, bias=first)
        self.q_bias, self.v_bias = (None if first else nn.Parameter(torch.zeros(channels)) for _ in range(2))
        self.logit_scale = nn.Parameter(torch.full((heads, 1, 1), math.log(10.0)))
        self.bias = ComputedBias(heads, window, first=first)  # type: ignore[assignment]

    def _project(self, windows: Float[Tensor, "b m n c"]) -> Float[Tensor, "b m n d"]:
        if self.q_bias is None or self.v_bias is None:
            return super()._project(windows)
        bias = torch.cat((self.q_bias, torch.zeros_like(self.q_bias), self.v_bias))
        return F.linear(windows, self.qkv.weight, bias)

    def _mix(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        scale = self.logit_scale.clamp(max=math.log(100.0)).exp()
        # Where windows have masks of their own, window and head are one axis.
        scale = scale.repeat(q.shape[1] // self.heads, 1, 1)
        return attend(F.normalize(q, dim=-1) * scale, F.normalize(k, dim=-1), v, scale=1.0, bias=bias)
