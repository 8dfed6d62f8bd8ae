"""Criss-cross attention: each pixel attends to its column and its row; two passes reach the whole map.

s = [Q·K over the column, itself left out; Q·K over the row]       b h w (h + w)
y = γ Σ softmax(s) V + x                                           b c h w
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms.spec import Dim, Input, Paper, Preset, Spec


class CrissCrossAttention(nn.Module):
    """One pass with ``max(1, channels // reduction)`` channels in queries and keys.

    Raises:
        ValueError: ``reduction`` is not positive.
    """

    def __init__(self, channels: int = 32, reduction: int = 8) -> None:
        positive(channels=channels)
        super().__init__()
        if reduction < 1:
            raise ValueError(f"reduction must be positive; it is {reduction}")
        hidden = max(1, channels // reduction)
        self.query = nn.Conv2d(channels, hidden, 1)
        self.key = nn.Conv2d(channels, hidden, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Attend along both axes."""
        # Channels last, so that whole pixels are moved, and rows need no moving at all.
        pixels = x.permute(0, 2, 3, 1)
        q, k, v = (F.linear(pixels, f.weight.flatten(1), f.bias) for f in (self.query, self.key, self.value))
        height = x.shape[2]
        columns = q.transpose(1, 2) @ k.permute(0, 2, 3, 1)  # b w h h
        rows = q @ k.transpose(2, 3)  # b h w w
        # The pixel itself is in its row. Half the finite minimum leaves room for the logits that it is added to.
        place = torch.arange(height, device=x.device)
        itself = (place.unsqueeze(1) == place).to(x.dtype) * (torch.finfo(x.dtype).min / 2)
        columns = columns + itself
        weights = torch.softmax(torch.cat((columns.transpose(1, 2), rows), -1), -1)  # b h w h+w
        vertical = weights[..., :height].transpose(1, 2) @ v.transpose(1, 2)  # b w h c
        across = weights[..., height:] @ v  # b h w c
        y: Tensor = self.gamma * (vertical.transpose(1, 2) + across).permute(0, 3, 1, 2) + x
        return y


MECHANISM = Spec(
    paper=Paper("CCNet: Criss-Cross Attention for Semantic Segmentation", "Huang et al.", "ICCV 2019", "1811.11721"),
    build=CrissCrossAttention,
    tasks=("detection", "segmentation", "video"),
    inputs=(Input("x", ("b", "channels", "h", "w")),),
    dynamic=(Dim("b"), Dim("h"), Dim("w")),
    presets={
        "test": Preset({"channels": 32}, {"h": 5, "w": 7}),
        "readme": Preset({"channels": 64}, {"h": 14, "w": 14}),
    },
    checkpoint={r"^query_conv\.": "query.", r"^key_conv\.": "key.", r"^value_conv\.": "value."},
)
