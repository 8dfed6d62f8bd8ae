"""Between the stages of Swin: each square of four pixels becomes one, of twice the channels."""

from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.windows import merge_patches


class PatchMerging(nn.Module):
    """Stack the four, normalise and narrow.

    Args:
        channels: of the map.
        side: of the square map.
        norm_last: narrow first and normalise what comes out, as Swin V2 does.
    """

    def __init__(self, channels: int, side: int, *, norm_last: bool = False) -> None:
        super().__init__()
        self.side, self.norm_last = side, norm_last
        self.norm = nn.LayerNorm((2 if norm_last else 4) * channels)
        self.reduction = nn.Linear(4 * channels, 2 * channels, bias=False)

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b m d"]:
        """Merge."""
        squares = merge_patches(x.reshape(-1, self.side, self.side, x.shape[2])).flatten(1, 2)
        y: Tensor = self.norm(self.reduction(squares)) if self.norm_last else self.reduction(self.norm(squares))
        return y
