"""Focal modulation: a query times the gated sum of contexts that grow from a pixel's neighbours to the whole map.

q, z_0, g = W x                                            c, c and L + 1 channels
z_l = gelu(dw_l(z_(l-1))),  z_(L+1) = gelu(mean(z_L))      b c h w, kernels that grow with l; b c 1 1
y = Wo (q * Wh Σ_l g_l z_l)                                b h w c
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import not_negative, positive
from attn_export.mechanisms.spec import Dim, Input, Paper, Preset, Spec


class FocalModulation(nn.Module):
    """Contexts are gathered first and queried by one product: no attention map.

    Args:
        channels: of the map, which has them last.
        levels: of context, besides the one of the whole map.
        window: side of the first kernel.
        factor: how much larger each next kernel is.
        bias: of the projection to query, context and gates, and of the one behind the contexts.
        normalise: divide the sum of contexts by their number.
        post_norm: a layer norm before the last projection.
        epsilon: of that norm; the authors' code has 1e-5, timm 1e-6.

    Raises:
        ValueError: ``levels`` is not positive, or a kernel is even.
    """

    def __init__(
        self,
        channels: int = 32,
        levels: int = 2,
        window: int = 3,
        factor: int = 2,
        bias: bool = True,
        normalise: bool = False,
        post_norm: bool = False,
        epsilon: float = 1e-5,
    ) -> None:
        positive(channels=channels, window=window)
        not_negative(factor=factor)
        super().__init__()
        kernels = [window + factor * level for level in range(levels)]
        if levels < 1 or any(kernel < 1 or kernel % 2 == 0 for kernel in kernels):
            raise ValueError(f"levels must be positive and every kernel odd; the kernels are {kernels}")
        self.channels, self.levels, self.normalise = channels, levels, normalise
        self.split = nn.Linear(channels, 2 * channels + levels + 1, bias=bias)
        self.contexts = nn.ModuleList(
            nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels, bias=False)
            for kernel in kernels
        )
        self.modulate = nn.Conv2d(channels, channels, 1, bias=bias)
        self.norm = nn.LayerNorm(channels, epsilon) if post_norm else nn.Identity()
        self.project = nn.Linear(channels, channels)

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        """Modulate each pixel by its contexts."""
        query, rest = self.split(x).split([self.channels, self.channels + self.levels + 1], -1)
        context, gates = rest.permute(0, 3, 1, 2).split([self.channels, self.levels + 1], 1)
        *own, last = gates.chunk(self.levels + 1, 1)
        gathered: list[Tensor] = []
        for convolution, gate in zip(self.contexts, own, strict=True):
            context = F.gelu(convolution(context))
            gathered.append(context * gate)
        gathered.append(F.gelu(context.mean((2, 3), keepdim=True)) * last)
        total = sum(gathered[1:], gathered[0])
        if self.normalise:
            total = total / (self.levels + 1)
        y: Tensor = self.project(self.norm(query * self.modulate(total).permute(0, 2, 3, 1)))
        return y


MECHANISM = Spec(
    paper=Paper("Focal Modulation Networks", "Yang et al.", "NeurIPS 2022", "2203.11926"),
    build=FocalModulation,
    tasks=("classification", "detection", "segmentation"),
    inputs=(Input("x", ("b", "h", "w", "channels")),),
    dynamic=(Dim("b"), Dim("h"), Dim("w")),
    presets={
        "test": Preset({"channels": 16}, {"h": 6, "w": 7}),
        "readme": Preset({"channels": 192}, {"h": 14, "w": 14}),
    },
    variants={
        "normalised": Preset({"channels": 8, "levels": 3, "normalise": True, "post_norm": True}, {"h": 6, "w": 7}),
    },
)
