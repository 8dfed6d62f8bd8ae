"""Contextual transformer block: keys in context weigh the values around each pixel; a gate mixes both contexts.

k1 = relu(BN(conv_k x))                                     b c h w, static context
a  = GN(W2 relu(BN(W1 [x; k1])))                            b c/s k² h w, one window for s channels
k2 = silu(BN(Σ_i a_i * shift_i(BN(Wv x))))                  b c h w, dynamic context
g  = softmax_2(W4 relu(BN(W3 mean_hw(k1 + k2))))            b c 2
y  = g_0 * k2 + g_1 * k1                                    b c h w
"""

import functools

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms._layers.local import shifted
from attn_export.mechanisms.spec import Dim, Input, Paper, Preset, Spec


class ContextualTransformer(nn.Module):
    """A drop-in for a k × k convolution.

    Args:
        channels: of the map.
        kernel: side of the windows.
        groups: of the convolution that gives the static context.
        share: channels that are weighted alike; channel ``c`` goes with window ``c % (channels // share)``.

    Raises:
        ValueError: ``kernel`` is even, or ``groups``, ``share`` or 2 does not divide ``channels``.
    """

    def __init__(self, channels: int = 32, kernel: int = 3, groups: int = 4, share: int = 8) -> None:
        positive(channels=channels, kernel=kernel, groups=groups, share=share)
        super().__init__()
        if kernel % 2 == 0:
            raise ValueError(f"kernel must be odd, or windows have no centre; it is {kernel}")
        for name, divisor in (("groups", groups), ("share", share), ("two", 2)):
            if channels % divisor:
                raise ValueError(f"{name} must divide channels; {divisor} does not divide {channels}")
        self.kernel, self.share, self.windows = kernel, share, channels // share
        self.key = nn.Sequential(
            nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=groups, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
        )
        self.value = nn.Sequential(nn.Conv2d(channels, channels, 1, bias=False), nn.BatchNorm2d(channels))
        self.weigh = nn.Sequential(
            nn.Conv2d(2 * channels, channels // 2, 1, bias=False),
            nn.BatchNorm2d(channels // 2),
            nn.ReLU(),
            nn.Conv2d(channels // 2, self.windows * kernel**2, 1),
            nn.GroupNorm(self.windows, self.windows * kernel**2),
        )
        self.norm = nn.BatchNorm2d(channels)
        hidden = max(channels // 2, 32)
        self.gate = nn.Sequential(
            nn.Conv2d(channels, hidden, 1), nn.BatchNorm2d(hidden), nn.ReLU(), nn.Conv2d(hidden, 2 * channels, 1)
        )

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Add the two contexts of every pixel."""
        static = self.key(x)
        dynamic = F.silu(self.norm(self._aggregated(self.value(x), self.weigh(torch.cat((x, static), 1)))))
        logits = self.gate((static + dynamic).mean((2, 3), keepdim=True))
        first, second = torch.softmax(logits.reshape(-1, x.shape[1], 2, 1), 2).chunk(2, 2)
        y: Tensor = dynamic * first + static * second
        return y

    def _aggregated(self, values: Tensor, weights: Tensor) -> Tensor:
        # Pixels are one axis: compilers for phones take four.
        pixels, size = values.shape[2] * values.shape[3], self.kernel**2
        local = weights.reshape(-1, 1, self.windows * size, pixels)
        moved = (part.reshape(-1, self.share, self.windows, pixels) for part in shifted(values, self.kernel))
        terms = [part * local[:, :, i::size] for i, part in enumerate(moved)]
        return functools.reduce(torch.add, terms).reshape(-1, *values.shape[1:])


MECHANISM = Spec(
    paper=Paper("Contextual Transformer Networks for Visual Recognition", "Li et al.", "TPAMI 2022", "2107.12292"),
    build=ContextualTransformer,
    tasks=("classification", "detection"),
    inputs=(Input("x", ("b", "channels", "h", "w")),),
    dynamic=(Dim("b"), Dim("h"), Dim("w")),
    presets={
        "test": Preset({"channels": 32, "kernel": 3}, {"h": 7, "w": 9}),
        "readme": Preset({"channels": 512, "kernel": 3}, {"h": 7, "w": 7}),
    },
    variants={"kernel5": Preset({"channels": 16, "kernel": 5, "groups": 2, "share": 4}, {"h": 7, "w": 9})},
)
