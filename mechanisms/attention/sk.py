"""Selective kernels: branches of several kernel sizes, and for each channel a softmax that chooses among them.

u_i = relu(BN(conv_ki(x)))               b c h w for each branch
z   = relu(BN(W mean(Σ u_i)))            b max(c / r, L)
a   = softmax_i(A_i z + b_i)             b k c
y   = Σ a_i * u_i                        b c h w
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms.spec import Dim, Input, Paper, Preset, Source, Spec


class SelectiveKernel(nn.Module):
    """A convolution that chooses its kernel size, channel by channel, from what it sees.

    Args:
        channels: of the map.
        kernels: sides of the kernels.
        reduction: the bottleneck has ``channels // reduction`` units,
        least: but not fewer than this, ``L`` in the paper.
        groups: of the convolutions.
        dilated: kernels above 3 are 3 × 3 with dilation, as in the paper, instead of dense.
        norm: the bottleneck has a batch norm and a ReLU; False for weights of External-Attention-pytorch, where it
            is linear.

    Raises:
        ValueError: a kernel is even, ``groups`` does not divide ``channels``, or ``reduction`` is not positive.
    """

    def __init__(
        self,
        channels: int = 64,
        kernels: tuple[int, ...] = (3, 5),
        reduction: int = 16,
        least: int = 32,
        groups: int = 32,
        dilated: bool = True,
        norm: bool = True,
    ) -> None:
        positive(channels=channels)
        super().__init__()
        if not kernels or any(k < 1 or k % 2 == 0 for k in kernels):
            raise ValueError(f"kernels must be odd; they are {kernels}")
        if groups < 1 or channels % groups:
            raise ValueError(f"groups must divide channels; {groups} does not divide {channels}")
        if reduction < 1:
            raise ValueError(f"reduction must be positive; it is {reduction}")
        hidden = max(channels // reduction, least)
        self.branches = nn.ModuleList(_branch(channels, k, groups, dilated) for k in kernels)
        self.squeeze = nn.Conv2d(channels, hidden, 1, bias=not norm)
        self.norm = nn.Sequential(nn.BatchNorm2d(hidden), nn.ReLU()) if norm else nn.Identity()
        self.choose = nn.Conv2d(hidden, len(kernels) * channels, 1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Convolve ``x`` with the kernels chosen for it."""
        maps = [branch(x) for branch in self.branches]
        means = [u.mean((2, 3), keepdim=True) for u in maps]  # of the sum: the maps need not be added twice
        weights = self.shares(torch.cat(means, 2).sum(2, keepdim=True))
        shares = weights.reshape(-1, len(maps) * maps[0].shape[1], 1, 1).chunk(len(maps), 1)
        y: Tensor = maps[0] * shares[0]
        for u, share in zip(maps[1:], shares[1:], strict=True):
            y = y + u * share
        return y

    def shares(self, means: Float[Tensor, "b c 1 1"]) -> Float[Tensor, "b k c"]:
        """Return the share of each branch in each channel; over the branches they sum to one."""
        logits = self.choose(self.norm(self.squeeze(means)))
        return torch.softmax(logits.reshape(-1, len(self.branches), means.shape[1]), 1)


def _branch(channels: int, kernel: int, groups: int, dilated: bool) -> nn.Sequential:
    side, dilation = (3, (kernel - 1) // 2) if dilated and kernel > 3 else (kernel, 1)
    conv = nn.Conv2d(channels, channels, side, padding=kernel // 2, dilation=dilation, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(channels), nn.ReLU())


def convert(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Move the biases that stand before a batch norm into its mean, and join the last layers of the branches."""
    state = dict(state)
    for name in [n for n in state if n.endswith(".conv.bias")]:
        mean = name.replace("conv.bias", "bn.running_mean")
        state[mean] = state[mean] - state.pop(name)
    for kind in ("weight", "bias"):
        names = sorted(
            (n for n in state if n.startswith("fcs.") and n.endswith(kind)), key=lambda n: int(n.split(".")[1])
        )
        if names:
            state[f"choose.{kind}"] = torch.cat([state.pop(name) for name in names])
    return state


MECHANISM = Spec(
    paper=Paper("Selective Kernel Networks", "Li et al.", "CVPR 2019", "1903.06586"),
    build=SelectiveKernel,
    inputs=(Input("x", ("b", "channels", "h", "w")),),
    dynamic=(Dim("b"), Dim("h"), Dim("w")),
    presets={
        "test": Preset(
            {"channels": 16, "kernels": (1, 3, 5), "reduction": 2, "least": 8, "groups": 4}, {"h": 7, "w": 9}
        ),
        "readme": Preset({"channels": 512, "reduction": 8}, {"h": 7, "w": 7}),
    },
    variants={
        "dense": Preset({"channels": 16, "least": 8, "groups": 4, "dilated": False, "norm": False}, {"h": 7, "w": 9}),
    },
    sources={
        "external-attention": Source(
            "External-Attention-pytorch, with dense kernels and a linear bottleneck",
            shown_by=(r"^convs\.0\.conv\.", r"^fc\.", r"^fcs\.0\."),
            arguments={"dilated": False, "norm": False},
        ),
    },
    checkpoint={
        r"^convs\.(\d+)\.conv\.": r"branches.\1.0.",
        r"^convs\.(\d+)\.bn\.": r"branches.\1.1.",
        r"^fc\.": "squeeze.",
    },
    convert=convert,
)
