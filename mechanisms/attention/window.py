"""Window attention: pixels attend within the windows of a map, moved by half a window in every other block (Swin).

x = windows of the map, rolled by ``shift``             b m n c, m windows of n pixels
y = Wo softmax(Q Kᵀ / sqrt(d) + B + M) V                B a table of relative positions; M hides what the roll joined
"""

from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms._layers.windows import WindowAttention
from attn_export.mechanisms.spec import Dim, Input, Paper, Preset, Spec


class ShiftedWindowAttention(WindowAttention):
    """Attention within windows, on maps with channels last.

    Args:
        channels: of the map.
        heads: number of heads.
        window: side of a window, or its height and width.
        shift: how far windows are moved; 0 not at all.
        size: height and width of the map, which a shift needs.

    Raises:
        ValueError: ``heads`` does not divide ``channels``, or the shift is too large, or lacks ``size`` or a ``size``
            that ``window`` divides.
    """

    def __init__(
        self,
        channels: int = 32,
        heads: int = 4,
        window: int | tuple[int, int] = 4,
        shift: int = 0,
        size: tuple[int, int] | None = None,
    ) -> None:
        positive(channels=channels, heads=heads)
        sides = (window, window) if isinstance(window, int) else window
        if size and (size[0] % sides[0] or size[1] % sides[1]):
            raise ValueError(f"window must divide size; {sides} does not divide {size}")
        super().__init__(channels, heads, window, shift, size)

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        """Attend."""
        return super().forward(x)


class WindowTokens(ShiftedWindowAttention):
    """The same on windows that are cut already."""

    def forward(self, x: Float[Tensor, "m n c"]) -> Float[Tensor, "m n c"]:
        """Attend within each window."""
        return super().forward(x.reshape(-1, *self.window, x.shape[2])).flatten(1, 2)


class SwinBlock(nn.Module):
    """Window attention and MLP with their norms, on the pixels of a map of ``size`` as tokens."""

    def __init__(
        self, channels: int, size: tuple[int, int], heads: int, window: int, shift: int = 0, mlp_ratio: float = 4.0
    ) -> None:
        super().__init__()
        hidden = round(channels * mlp_ratio)
        self.size = size
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.attention = ShiftedWindowAttention(channels, heads, window, shift, size)
        self.mlp = nn.Sequential(nn.Linear(channels, hidden), nn.GELU(), nn.Linear(hidden, channels))

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        """Mix pixels, then channels."""
        x = x + self.attention(self.norm1(x).reshape(-1, *self.size, x.shape[2])).flatten(1, 2)
        y: Tensor = x + self.mlp(self.norm2(x))
        return y


MECHANISM = Spec(
    paper=Paper(
        "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows",
        "Liu et al.",
        "ICCV 2021",
        "2103.14030",
    ),
    build=ShiftedWindowAttention,
    tasks=("classification", "detection", "segmentation"),
    inputs=(Input("x", ("b", "h", "w", "channels")),),
    dynamic=(Dim("b"), Dim("h", step=4, min=4), Dim("w", step=4, min=4)),
    presets={
        "test": Preset({"channels": 16}, {"h": 8, "w": 12}),
        "readme": Preset(
            {"channels": 96, "heads": 3, "window": 7},
            {"h": 56, "w": 56},
            dynamic=(Dim("b"), Dim("h", step=7, min=7), Dim("w", step=7, min=7)),
        ),
    },
    variants={
        "shifted": Preset(
            {"channels": 16, "heads": 2, "shift": 2, "size": (8, 12)}, {"h": 8, "w": 12}, dynamic=(Dim("b"),)
        ),
    },
    checkpoint={
        r"^attn\.": "attention.",
        r"^mlp\.fc1\.": "mlp.0.",
        r"^mlp\.fc2\.": "mlp.2.",
        r"relative_position_index$": None,
        r"attn_mask$": None,
        r"relative_position_bias_table$": "bias.table",
        r"proj\.": "out.",
    },
)
