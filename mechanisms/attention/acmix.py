"""ACmix: attention in local windows and a convolution made of shifts, both from the same queries, keys and values.

q, k, v = Wq x, Wk x, Wv x                                              b (g d) h w
a       = softmax_i(q · (k_i + P p - P p_i) / sqrt(d)),  Σ_i a_i v_i     i over the window, p in [-1, 1]²
f       = F [q; k; v]  over the heads                                   b (d k²) h w
y       = α Σ_i a_i v_i + β conv_k(f)                                   conv_k starts as one shift for each of k²
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms._layers.local import local_sum
from attn_export.mechanisms.spec import Dim, Input, Paper, Preset, Spec


class ACmix(nn.Module):
    """A drop-in for a convolution; beyond its border the map is mirrored for the attention.

    Args:
        channels: of the map.
        out_channels: of the result; None is ``channels``.
        heads: number of heads.
        window: side of the attention's windows.
        kernel: side of the convolution.
        stride: of both paths.

    Raises:
        ValueError: ``window`` or ``kernel`` is even, or ``heads`` does not divide ``out_channels``.
    """

    def __init__(
        self,
        channels: int = 16,
        out_channels: int | None = None,
        heads: int = 4,
        window: int = 7,
        kernel: int = 3,
        stride: int = 1,
    ) -> None:
        positive(channels=channels, heads=heads, window=window, kernel=kernel, stride=stride)
        super().__init__()
        outputs = out_channels or channels
        if window % 2 == 0 or kernel % 2 == 0:
            raise ValueError(f"window and kernel must be odd, or they have no centre; they are {window} and {kernel}")
        if outputs % heads:
            raise ValueError(f"heads must divide out_channels; {heads} does not divide {outputs}")
        self.heads, self.depth, self.window, self.stride = heads, outputs // heads, window, stride
        self.qkv = nn.Conv2d(channels, 3 * outputs, 1)
        self.position = nn.Linear(2, self.depth, bias=False)
        self.mix = nn.Conv2d(3 * heads, kernel**2, 1, bias=False)
        self.shift = nn.Conv2d(kernel**2 * self.depth, outputs, kernel, stride, kernel // 2, groups=self.depth)
        with torch.no_grad():
            self.shift.weight.copy_(torch.eye(kernel**2).reshape(1, kernel**2, kernel, kernel))
            nn.init.zeros_(self.shift.bias)  # type: ignore[arg-type]
        self.alpha = nn.Parameter(torch.full((1,), 0.5))
        self.beta = nn.Parameter(torch.full((1,), 0.5))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b o rows columns"]:
        """Attend and convolve, and add."""
        qkv = self.qkv(x)
        attended, convolved = self._attention(qkv), self._convolution(qkv)
        y: Tensor = self.alpha * attended + self.beta * convolved
        return y

    def _convolution(self, qkv: Tensor) -> Tensor:
        mixed = self.mix(qkv.reshape(-1, 3 * self.heads, self.depth, qkv.shape[2] * qkv.shape[3]))
        y: Tensor = self.shift(mixed.transpose(1, 2).reshape(-1, self.shift.in_channels, *qkv.shape[2:]))
        return y

    def _attention(self, qkv: Tensor) -> Tensor:
        s, k, reach, size = self.stride, self.window, self.window // 2, self.heads * self.depth
        q = self._split(qkv[:, :size, ::s, ::s]) * self.depth**-0.5  # n y x d, n over images and heads
        wide = F.pad(qkv[:, size:], (reach,) * 4, mode="reflect")
        keys, values = (self._split(part) for part in wide.chunk(2, 1))
        height, width = q.shape[1:3]
        # Products with whole rows, of which each pixel keeps k: reading lines longer by s moves line x back by s x.
        rows = torch.cat([keys[:, i : i + s * (height - 1) + 1 : s] for i in range(k)], 2)
        products = (q @ rows.transpose(-2, -1)).flatten(2)  # n y (x k w)
        lines = F.pad(products, (0, s * width)).reshape(-1, height * width, k * wide.shape[3] + s)
        near = lines[..., : k * wide.shape[3]].reshape(-1, height * width, k, wide.shape[3])[..., :k]
        # Places are linear in the axes, so a difference of projected places is two numbers for each query.
        across, down = (q @ self.position.weight).chunk(2, -1)  # n y x 1 each
        across, down = across * _offsets(qkv, 3, k, s), down * _offsets(qkv, 2, k, s).unsqueeze(1)
        logits = near + across.reshape(-1, height * width, 1, k) + down.reshape(-1, height * width, k, 1)
        weights = torch.softmax(logits.flatten(2), -1).reshape(-1, height, width, k * k)
        mixed = local_sum(weights, values, k, s).permute(0, 3, 1, 2)
        return mixed.reshape(-1, size, height, width)

    def _split(self, x: Float[Tensor, "b gd h w"]) -> Float[Tensor, "bg h w d"]:
        return x.reshape(-1, self.depth, *x.shape[2:]).permute(0, 2, 3, 1)


def _offsets(x: Tensor, axis: int, window: int, stride: int) -> Tensor:
    """How far each window's centre lies from its pixels on an axis from -1 to 1, mirrored beyond its ends."""
    size, reach = x.shape[axis], window // 2
    place = torch.arange(size, dtype=x.dtype, device=x.device) * (2 / (size - 1)) - 1
    wide = F.pad(place.reshape(1, 1, -1), (reach, reach), mode="reflect").flatten()
    span = stride * ((size - 1) // stride) + 1
    seen = torch.stack([wide[i : i + span : stride] for i in range(window)], -1)  # pixels window
    return seen[:, reach : reach + 1] - seen


def _fused(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Bring three convolutions into one, and give the last one the bias that it lost on its way."""
    state = dict(state)
    for kind in ("weight", "bias"):
        if f"conv1.{kind}" in state:
            state[f"qkv.{kind}"] = torch.cat([state.pop(f"conv{i}.{kind}") for i in (1, 2, 3)])
    if "dep_conv.weight" in state:
        state.setdefault("dep_conv.bias", torch.zeros(len(state["dep_conv.weight"])))
    return state


MECHANISM = Spec(
    paper=Paper("On the Integration of Self-Attention and Convolution", "Pan et al.", "CVPR 2022", "2111.14556"),
    build=ACmix,
    tasks=("classification", "detection", "segmentation"),
    inputs=(Input("x", ("b", "channels", "h", "w")),),
    # A mirror reaches no further than the map.
    dynamic=(Dim("b"), Dim("h", min=4), Dim("w", min=4)),
    presets={
        "test": Preset({"channels": 16, "heads": 4}, {"h": 7, "w": 9}),
        "readme": Preset({"channels": 256, "heads": 4}, {"h": 7, "w": 7}),
    },
    variants={
        "strided": Preset(
            {"channels": 16, "out_channels": 24, "window": 5, "kernel": 5, "stride": 2}, {"h": 7, "w": 8}
        ),
    },
    checkpoint={
        r"^conv_p\.weight$": "position.weight",
        r"^conv_p\.bias$": None,  # cancels in the difference of two places
        r"^fc\.": "mix.",
        r"^dep_conv\.": "shift.",
        r"^rate1$": "alpha",
        r"^rate2$": "beta",
    },
    convert=_fused,
)
