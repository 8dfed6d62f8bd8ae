"""RepMLP: a fully connected layer over each part of the map, with local convolutions that fold into it when deployed.

parts of h × w;  p = x + G            b·parts c h w    G: pool, BN, linear, relu, linear over [channel, part]
y = BN(F · p) + Σ_k BN(W_k ∗ p)       b·parts o h w    F: grouped, over all c·h·w values of a part
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms._layers.conv_bn import ConvBN
from attn_export.mechanisms.spec import Dim, Input, Paper, Preset, Source, Spec


class RepMLP(nn.Module):
    """One block as it is trained, on maps of one size.

    Args:
        channels: inputs.
        out_channels: outputs.
        size: rows and columns of the map.
        part: rows and columns of a part.
        reduction: of the global perceptron's hidden layer; there is one only where the map has several parts.
        hidden: its width; ``channels // reduction`` unless given.
        groups: of the fully connected layer and of the convolutions.
        kernels: sides of the local convolutions.

    Raises:
        ValueError: ``part`` does not divide ``size``, ``groups`` does not divide the channels, or a kernel is even.
    """

    def __init__(
        self,
        channels: int = 8,
        out_channels: int = 8,
        size: tuple[int, int] = (8, 8),
        part: tuple[int, int] = (4, 4),
        reduction: int = 2,
        groups: int = 4,
        kernels: Sequence[int] = (1, 3, 5),
        hidden: int | None = None,
    ) -> None:
        positive(channels=channels, out_channels=out_channels, reduction=reduction, groups=groups, hidden=hidden)
        super().__init__()
        if size[0] % part[0] or size[1] % part[1]:
            raise ValueError(f"part must divide size; {part} does not divide {size}")
        if channels % groups or out_channels % groups:
            raise ValueError(f"groups must divide the channels; {groups} does not divide {channels}, {out_channels}")
        if any(kernel % 2 == 0 for kernel in kernels):
            raise ValueError(f"kernels must be odd; got {tuple(kernels)}")
        self.channels, self.out_channels, self.part = channels, out_channels, part
        self.parts = (size[0] // part[0], size[1] // part[1])
        places, area = self.parts[0] * self.parts[1], part[0] * part[1]
        self.looks_around = places > 1
        if self.looks_around:
            self.pool_norm = nn.BatchNorm2d(channels)
            width = channels // reduction if hidden is None else hidden
            self.squeeze = nn.Linear(channels * places, width)
            self.excite = nn.Linear(width, channels * places)
        self.connect = nn.Conv2d(channels * area, out_channels * area, 1, groups=groups, bias=False)
        self.connect_norm = nn.BatchNorm2d(out_channels * area)
        self.local = nn.ModuleList(ConvBN(channels, out_channels, kernel, groups=groups) for kernel in kernels)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b o h w"]:
        """Look around, then connect everything inside each part."""
        (rows, columns), (height, width) = self.parts, self.part
        p = x.reshape(-1, self.channels, rows, height, columns, width).permute(0, 2, 4, 1, 3, 5)
        p = p.reshape(-1, self.channels, height, width)
        if self.looks_around:
            # NOTE: the linear layers run over [channel, part], so the parts go behind the channels and back.
            means = self.pool_norm(p.mean((2, 3), keepdim=True)).reshape(-1, rows * columns, self.channels)
            around = self.excite(torch.relu(self.squeeze(means.transpose(1, 2).flatten(1))))
            around = around.reshape(-1, self.channels, rows * columns).transpose(1, 2)
            p = p + around.reshape(-1, self.channels, 1, 1)
        y: Tensor = self.connect_norm(self.connect(p.reshape(-1, self.channels * height * width, 1, 1)))
        y = y.reshape(-1, self.out_channels, height, width)
        if near := [local(p) for local in self.local]:
            # Summed before the matrix: where that is too large to take them in, they still become one convolution.
            y = y + sum(near[1:], near[0])
        y = y.reshape(-1, rows, columns, self.out_channels, height, width).permute(0, 3, 1, 4, 2, 5)
        return y.reshape(-1, self.out_channels, rows * height, columns * width)


MECHANISM = Spec(
    paper=Paper(
        "RepMLP: Re-parameterizing Convolutions into Fully-connected Layers", "Ding et al.", "2021", "2105.01883"
    ),
    build=RepMLP,
    inputs=(Input("x", ("b", "channels", "h", "w")),),
    dynamic=(Dim("b"),),
    presets={
        "test": Preset({"channels": 8}, {"h": 8, "w": 8}),
        "readme": Preset(
            {
                "channels": 512,
                "out_channels": 1024,
                "size": (14, 14),
                "part": (7, 7),
                "reduction": 1,
                "groups": 8,
                "kernels": (1, 3, 5, 7),
            },
            {"h": 14, "w": 14},
        ),
    },
    variants={
        "one_part": Preset(
            {"channels": 8, "out_channels": 12, "size": (5, 4), "part": (5, 4), "kernels": (1, 3)}, {"h": 5, "w": 4}
        ),
    },
    sources={
        "repmlp": Source(
            "External-Attention-pytorch and RepMLP's first release, whose hidden layers differ in width",
            shown_by=(r"^fc1_fc2\.fc1\.weight$", r"^fc3\.weight$"),
            sized={"hidden": (r"^fc1_fc2\.fc1\.weight$", 0)},
        ),
    },
    checkpoint={
        r"^avg\.bn\.": "pool_norm.",
        r"^fc1_fc2\.fc1\.": "squeeze.",
        r"^fc1_fc2\.fc2\.": "excite.",
        r"^fc3\.": "connect.",
        r"^fc3_bn\.": "connect_norm.",
        r"^repconv1\.": "local.0.",
        r"^repconv3\.": "local.1.",
        r"^repconv5\.": "local.2.",
        r"^repconv7\.": "local.3.",
    },
)
