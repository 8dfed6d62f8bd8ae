"""Large kernel attention: gate a map with a large convolution, taken apart into two small ones and a pointwise one.

g = W · dw_dilated(dw(x))                    b c h w; K × K out of (2d - 1) × (2d - 1) and ⌈K/d⌉ × ⌈K/d⌉ dilated by d
y = x * g                                    b c h w
y = x + W2 · (u * g(u)),  u = gelu(W1 · x)   with ``block``
"""

from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms.spec import Dim, Input, Paper, Preset, Spec


class LargeKernelAttention(nn.Module):
    """A gate with a large receptive field, depth-wise but for its last layer.

    Args:
        channels: of the map.
        kernel_size: side of the square that the two convolutions approximate.
        dilation: of the second convolution.
        block: put it between two pointwise layers and add the input, as the Visual Attention Network does.

    Raises:
        ValueError: ``dilation`` is not positive, or the dilated kernel would have an even side.
    """

    def __init__(self, channels: int = 32, kernel_size: int = 21, dilation: int = 3, block: bool = False) -> None:
        positive(channels=channels)
        super().__init__()
        if dilation < 1:
            raise ValueError(f"dilation must be positive; it is {dilation}")
        near, far = 2 * dilation - 1, -(-kernel_size // dilation)
        if far < 1 or far % 2 == 0:
            raise ValueError(f"kernel_size / dilation, rounded up, must be odd; {kernel_size} / {dilation} gives {far}")
        self.near = nn.Conv2d(channels, channels, near, padding=near // 2, groups=channels)
        self.far = nn.Conv2d(channels, channels, far, padding=dilation * (far // 2), groups=channels, dilation=dilation)
        self.mix = nn.Conv2d(channels, channels, 1)
        self.enter = nn.Conv2d(channels, channels, 1) if block else None
        self.leave = nn.Conv2d(channels, channels, 1) if block else None
        self.gelu = nn.GELU()

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Gate each pixel by what lies around it."""
        u: Tensor = x if self.enter is None else self.gelu(self.enter(x))
        gated: Tensor = u * self.mix(self.far(self.near(u)))
        return gated if self.leave is None else x + self.leave(gated)


MECHANISM = Spec(
    paper=Paper("Visual Attention Network", "Guo et al.", "CVMJ 2023", "2202.09741"),
    build=LargeKernelAttention,
    tasks=("classification", "detection", "segmentation"),
    inputs=(Input("x", ("b", "channels", "h", "w")),),
    dynamic=(Dim("b"), Dim("h"), Dim("w")),
    presets={
        "test": Preset({"channels": 8}, {"h": 9, "w": 11}),
        "readme": Preset({"channels": 64}, {"h": 56, "w": 56}),
    },
    variants={
        "block": Preset({"channels": 8, "block": True}, {"h": 9, "w": 11}),
    },
)
