"""Pyramid split attention: features at several scales, and for each channel a softmax over the scales.

f_i = conv_ki(x)                         b c/s h w, groups g_i
z_i = sigmoid(W2_i relu(W1_i mean(f_i))) b c/s
a   = softmax_i(z_i)                     b s c/s, over the scales
y   = concat(a_i * f_i)                  b c h w

NOTE: as in the paper. The released code of its authors has one bottleneck with biases for all scales, and concatenates
backwards: with ``gate_bias``, and kernels and groups in the order of the outputs, it is held as well.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms.spec import Dim, Input, Paper, Preset, Spec


class PyramidSplitAttention(nn.Module):
    """Convolutions of growing size and groups, weighted against each other.

    Args:
        channels: of the map.
        kernels: sides of the kernels, one a scale.
        groups: of the convolutions, one a scale.
        reduction: of the bottleneck behind the gate of one scale.
        split: each scale sees its own part of the channels only; otherwise all of them, as in the authors' code.
        bias: the convolutions have one.
        gate_bias: the two layers of the bottlenecks have one.

    Raises:
        ValueError: the numbers of kernels and groups differ, a kernel is even, or the numbers do not divide.
    """

    def __init__(
        self,
        channels: int = 64,
        kernels: tuple[int, ...] = (3, 5, 7, 9),
        groups: tuple[int, ...] = (1, 4, 8, 16),
        reduction: int = 4,
        split: bool = False,
        bias: bool = False,
        gate_bias: bool = False,
    ) -> None:
        positive(channels=channels)
        super().__init__()
        scales = len(kernels)
        if not scales or len(groups) != scales or any(k < 1 or k % 2 == 0 for k in kernels):
            raise ValueError(
                f"expected an odd kernel and a number of groups for each scale; got {kernels} and {groups}"
            )
        part, rest = divmod(channels, scales)
        if rest or reduction < 1 or part % reduction:
            raise ValueError(f"{scales} scales and then reduction {reduction} must divide {channels} channels")
        seen = part if split else channels
        if any(g < 1 or part % g or seen % g for g in groups):
            raise ValueError(f"groups must divide the {part} channels of a scale; they are {groups}")
        self.scales, self.split = scales, split
        self.convs = nn.ModuleList(
            nn.Conv2d(seen, part, k, padding=k // 2, groups=g, bias=bias) for k, g in zip(kernels, groups, strict=True)
        )
        # The bottlenecks of all scales side by side: one grouped layer in place of one layer a scale.
        self.squeeze = nn.Conv2d(channels, channels // reduction, 1, groups=scales, bias=gate_bias)
        self.excite = nn.Conv2d(channels // reduction, channels, 1, groups=scales, bias=gate_bias)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Weigh the scales of ``x``."""
        parts = x.chunk(self.scales, 1) if self.split else (x,) * self.scales
        maps = torch.cat([conv(part) for conv, part in zip(self.convs, parts, strict=True)], 1)
        return maps * self.shares(maps.mean((2, 3), keepdim=True)).reshape(-1, maps.shape[1], 1, 1)

    def shares(self, means: Float[Tensor, "b c 1 1"]) -> Float[Tensor, "b s part"]:
        """Return the share of each scale; over the scales they sum to one."""
        gates = torch.sigmoid(self.excite(torch.relu(self.squeeze(means))))
        return torch.softmax(gates.reshape(-1, self.scales, means.shape[1] // self.scales), 1)


def convert(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Join the bottlenecks of the scales."""
    state = dict(state)
    for index, name in ((1, "squeeze"), (3, "excite")):
        parts = sorted(n for n in state if n.startswith("se_blocks.") and n.endswith(f".{index}.weight"))
        if parts:
            state[f"{name}.weight"] = torch.cat([state.pop(part) for part in parts])
    return state


MECHANISM = Spec(
    paper=Paper(
        "EPSANet: An Efficient Pyramid Squeeze Attention Block on Convolutional Neural Network",
        "Zhang et al.",
        "ACCV 2022",
        "2105.14447",
    ),
    build=PyramidSplitAttention,
    tasks=("classification", "detection"),
    inputs=(Input("x", ("b", "channels", "h", "w")),),
    dynamic=(Dim("b"), Dim("h"), Dim("w")),
    presets={
        "test": Preset({"channels": 64}, {"h": 9, "w": 7}),
        "readme": Preset({"channels": 512, "reduction": 8}, {"h": 7, "w": 7}),
    },
    variants={
        "split": Preset(
            {"channels": 32, "groups": (1, 1, 1, 1), "reduction": 2, "split": True, "bias": True}, {"h": 9, "w": 9}
        ),
    },
    convert=convert,
)
