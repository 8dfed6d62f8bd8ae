"""Bottleneck attention: one gate for all elements, the sum of a channel and a spatial branch.

C = BN(W1 relu(W0 mean(x)))                              b c 1 1
S = BN(f3 relu(f2 relu(f1 relu(f0 x))))                  b 1 h w, f0 and f3 1×1, f1 and f2 3×3 with dilation
y = x * (1 + sigmoid(C + S))                             b c h w
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms.spec import Dim, Input, Paper, Preset, Source, Spec


class Layer(nn.Module):
    """A convolution, with or without a batch norm, and a ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, dilation: int = 1, norm: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=dilation * (kernel // 2), dilation=dilation)
        self.norm = nn.BatchNorm2d(outputs) if norm else nn.Identity()

    def forward(self, x: Float[Tensor, "b ci h w"]) -> Float[Tensor, "b co h w"]:
        """Return the activation."""
        return torch.relu(self.norm(self.conv(x)))


class Branch(nn.Module):
    """A stack of layers with a linear end.

    Args:
        channels: of the map.
        hidden: of the layers in the middle.
        outputs: of the end.
        kernels: of the layers: the first from ``channels``, the others from ``hidden``.
        dilation: of kernels above one.
        hidden_norms: batch norms in the layers instead of one at the end.
    """

    def __init__(
        self, channels: int, hidden: int, outputs: int, kernels: tuple[int, ...], dilation: int, hidden_norms: bool
    ) -> None:
        super().__init__()
        widths = (channels, *(hidden for _ in kernels))
        self.hidden = nn.ModuleList(
            Layer(width, hidden, k, dilation if k > 1 else 1, hidden_norms)
            for width, k in zip(widths, kernels, strict=False)
        )
        self.last = nn.Conv2d(hidden, outputs, 1)
        self.norm = nn.Identity() if hidden_norms else nn.BatchNorm2d(outputs)

    def forward(self, x: Float[Tensor, "b ci h w"]) -> Float[Tensor, "b co h w"]:
        """Return the logits."""
        for layer in self.hidden:
            x = layer(x)
        y: Tensor = self.norm(self.last(x))
        return y


class BAM(nn.Module):
    """A gate in (1, 2) for each element.

    Args:
        channels: of the map.
        reduction: of the bottlenecks.
        dilation: of the 3 × 3 convolutions; they are padded by as much.
        channel_layers: hidden layers of the channel branch.
        spatial_layers: 3 × 3 convolutions of the spatial branch.
        hidden_norms: a batch norm in each hidden layer, as the authors' code has it and External-Attention-pytorch,
            instead of one at the end of each branch, as the paper has it.
        product: the gate is of the product of the branches, as in the authors' released code, instead of their sum,
            which is the paper's formula and so the default.

    Raises:
        ValueError: ``reduction`` does not divide ``channels``, or another number is not positive.
    """

    def __init__(
        self,
        channels: int = 32,
        reduction: int = 16,
        dilation: int = 4,
        channel_layers: int = 1,
        spatial_layers: int = 2,
        hidden_norms: bool = False,
        product: bool = False,
    ) -> None:
        positive(channels=channels)
        super().__init__()
        if reduction < 1 or channels % reduction:
            raise ValueError(f"reduction must divide channels; {reduction} does not divide {channels}")
        if min(dilation, channel_layers, spatial_layers) < 1:
            raise ValueError("dilation, channel_layers and spatial_layers must be positive")
        hidden = channels // reduction
        self.product = product
        # NOTE: the paper's formula leaves out the ReLUs between the layers; its text and the authors' code have them.
        self.channel = Branch(channels, hidden, channels, (1,) * channel_layers, 1, hidden_norms)
        self.spatial = Branch(channels, hidden, 1, (1, *(3,) * spatial_layers), dilation, hidden_norms)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Scale ``x`` by its gate."""
        c, s = self.channel(x.mean((2, 3), keepdim=True)), self.spatial(x)
        return x * (1 + torch.sigmoid(c * s if self.product else c + s))


#: As External-Attention-pytorch stacks them.
_DEEP = {"channel_layers": 3, "spatial_layers": 3, "hidden_norms": True}

MECHANISM = Spec(
    paper=Paper("BAM: Bottleneck Attention Module", "Park et al.", "BMVC 2018", "1807.06514"),
    build=BAM,
    tasks=("classification", "detection"),
    inputs=(Input("x", ("b", "channels", "h", "w")),),
    dynamic=(Dim("b"), Dim("h"), Dim("w")),
    presets={
        "test": Preset({"channels": 32, "reduction": 4}, {"h": 9, "w": 7}),
        "readme": Preset({"channels": 512, "reduction": 16}, {"h": 7, "w": 7}),
    },
    variants={
        "deep": Preset({"channels": 32, "reduction": 4, "dilation": 1, **_DEEP}, {"h": 9, "w": 7}),
    },
    sources={
        "external-attention": Source(
            "External-Attention-pytorch with the dilation 2 that its constructor gives",
            shown_by=(r"^ca\.ca\.fc0\.", r"^sa\.sa\.conv_0\."),
            refused="its dilated convolutions are padded by 1, so the gate is smaller than any map but 7 x 7",
        ),
        "dilation-1": Source(
            "External-Attention-pytorch with dilation 1, at which its padding fits",
            shown_by=(r"^ca\.ca\.fc0\.", r"^sa\.sa\.conv_0\."),
            arguments={"dilation": 1, **_DEEP},
        ),
    },
    checkpoint={
        r"^ca\.ca\.fc(\d)\.": r"channel.hidden.\1.conv.",
        r"^ca\.ca\.bn(\d)\.": r"channel.hidden.\1.norm.",
        r"^ca\.ca\.last_fc\.": "channel.last.",
        r"^sa\.sa\.conv_reduce1\.": "spatial.hidden.0.conv.",
        r"^sa\.sa\.bn_reduce1\.": "spatial.hidden.0.norm.",
        r"^sa\.sa\.(conv|bn)_0\.": r"spatial.hidden.1.\1.",
        r"^sa\.sa\.(conv|bn)_1\.": r"spatial.hidden.2.\1.",
        r"^sa\.sa\.(conv|bn)_2\.": r"spatial.hidden.3.\1.",
        r"^(spatial\.hidden\.\d)\.bn\.": r"\1.norm.",
        r"^sa\.sa\.last_conv\.": "spatial.last.",
    },
)
