"""A block of the Shuffle Transformer: windows of neighbours or spread over the map, and what connects them.

x = x + W A(BN x);  x = x + D ∗ BN x;  x = x + W2 relu6(W1 BN x)       b c h w
"""

from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.windows import WindowAttention


class SpreadWindows(WindowAttention):
    """Attention within windows of a map ``b h w c``; ``spread`` takes the pixels of a window from all over it."""

    def __init__(self, channels: int, heads: int, window: int, *, spread: bool) -> None:
        super().__init__(channels, heads, window)
        self.qkv = nn.Linear(channels, 3 * channels, bias=False)
        self.side, self.spread = window, spread

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        """Attend."""
        if not self.spread:
            return super().forward(x)
        h, w = x.shape[1] // self.side, x.shape[2] // self.side
        return _regrouped(super().forward(_regrouped(x, self.side, h, self.side, w)), h, self.side, w, self.side)


def _regrouped(x: Float[Tensor, "b h w c"], rows: int, rest: int, columns: int, others: int) -> Tensor:
    """Read ``rows`` × ``rest`` rows as ``rest`` × ``rows``, and columns likewise; two axes change places at a time."""
    _, h, w, c = x.shape
    x = x.reshape(-1, rows, rest, w * c).transpose(1, 2).reshape(-1, columns, others, c)
    return x.transpose(1, 2).reshape(-1, h, w, c)


class ShuffleBlock(nn.Module):
    """Attention within windows, a connection between them, an MLP.

    Args:
        channels: of the map.
        heads: number of heads.
        window: side of the windows; odd.
        mlp_ratio: width of the MLP over the channels.
        spread: whether windows are spread over the map.
        bias: of the connection.

    Raises:
        ValueError: ``window`` is even, or ``heads`` does not divide ``channels``.
    """

    def __init__(
        self,
        channels: int = 16,
        heads: int = 2,
        window: int = 3,
        mlp_ratio: float = 2.0,
        spread: bool = True,
        bias: bool = False,
    ) -> None:
        super().__init__()
        if window % 2 == 0:
            raise ValueError(f"window must be odd; got {window}")
        hidden = round(channels * mlp_ratio)
        self.norm1, self.norm2, self.norm3 = (nn.BatchNorm2d(channels) for _ in range(3))
        self.attention = SpreadWindows(channels, heads, window, spread=spread)
        self.local = nn.Conv2d(channels, channels, window, padding=window // 2, groups=channels, bias=bias)
        self.mlp = nn.Sequential(nn.Conv2d(channels, hidden, 1), nn.ReLU6(), nn.Conv2d(hidden, channels, 1))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Mix."""
        x = x + self.attention(self.norm1(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        x = x + self.local(self.norm2(x))
        y: Tensor = x + self.mlp(self.norm3(x))
        return y
