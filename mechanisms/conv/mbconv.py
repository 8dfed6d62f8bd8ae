"""Inverted bottleneck of EfficientNet: widen, filter each channel, gate the channels, narrow, and add the input.

u = swish(BN(E ∗ x))                                b e h w        e = expand · c
v = swish(BN(D ∗ u))                                b e h/s w/s    depth-wise k × k
v = v * sigmoid(W2 · swish(W1 · mean(v)))           b e h/s w/s
y = BN(P ∗ v) (+ x where s = 1 and o = c)           b o h/s w/s
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms.spec import Dim, Input, Paper, Preset, Source, Spec


class MBConv(nn.Module):
    """One mobile inverted bottleneck with squeeze-and-excitation.

    Args:
        channels: inputs.
        out_channels: outputs.
        expand: how many times wider the middle is.
        kernel: side of the depth-wise kernel.
        stride: of the depth-wise convolution.
        squeeze: share of the input's channels that the gate's bottleneck has.
        epsilon: of the batch norms (EfficientNet: 1e-3).
        tensorflow_size: for weights trained in TensorFlow: rows and columns of the input, whose SAME padding they
            expect; with it the size is fixed.

    Raises:
        ValueError: ``kernel`` is even.
    """

    def __init__(
        self,
        channels: int = 16,
        out_channels: int = 16,
        expand: int = 4,
        kernel: int = 3,
        stride: int = 1,
        squeeze: float = 0.25,
        epsilon: float = 1e-3,
        tensorflow_size: tuple[int, int] | None = None,
    ) -> None:
        positive(channels=channels, out_channels=out_channels, expand=expand, kernel=kernel, stride=stride)
        super().__init__()
        if kernel % 2 == 0:
            raise ValueError(f"kernel must be odd; got {kernel}")
        wide, narrow = channels * expand, max(1, int(channels * squeeze))
        self.expand = nn.Conv2d(channels, wide, 1, bias=False) if expand > 1 else nn.Identity()
        self.expand_norm = nn.BatchNorm2d(wide, epsilon) if expand > 1 else nn.Identity()
        # NOTE the paper's implementation pads as TensorFlow does, asymmetrically by the size; sizes stay free here.
        self.pads: list[int] = []
        if tensorflow_size is not None:
            totals = [max((-(-size // stride) - 1) * stride + kernel - size, 0) for size in reversed(tensorflow_size)]
            self.pads = [part for total in totals for part in (total // 2, total - total // 2)]
        padding = 0 if self.pads else kernel // 2
        self.depthwise = nn.Conv2d(wide, wide, kernel, stride, padding, groups=wide, bias=False)
        self.depthwise_norm = nn.BatchNorm2d(wide, epsilon)
        self.squeeze = nn.Conv2d(wide, narrow, 1)
        self.excite = nn.Conv2d(narrow, wide, 1)
        self.project = nn.Conv2d(wide, out_channels, 1, bias=False)
        self.project_norm = nn.BatchNorm2d(out_channels, epsilon)
        self.widens, self.residual = expand > 1, stride == 1 and channels == out_channels

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b o i j"]:
        """Widen, filter, gate, narrow."""
        u = F.silu(self.expand_norm(self.expand(x))) if self.widens else x
        u = F.pad(u, self.pads) if self.pads else u
        v = F.silu(self.depthwise_norm(self.depthwise(u)))
        gate = torch.sigmoid(self.excite(F.silu(self.squeeze(v.mean((2, 3), keepdim=True)))))
        y: Tensor = self.project_norm(self.project(v * gate))
        return y + x if self.residual else y


_PADS = "with a stride it pads as TensorFlow does, by the size of the map; --preset tensorflow pads so"

MECHANISM = Spec(
    paper=Paper("EfficientNet: Rethinking Model Scaling", "Tan and Le", "ICML 2019", "1905.11946"),
    build=MBConv,
    inputs=(Input("x", ("b", "channels", "h", "w")),),
    dynamic=(Dim("b"), Dim("h"), Dim("w")),
    presets={
        "test": Preset({"channels": 16, "out_channels": 16}, {"h": 10, "w": 8}),
        "readme": Preset({"channels": 3, "out_channels": 512, "expand": 1}, {"h": 112, "w": 112}),
    },
    variants={
        "strided": Preset(
            {"channels": 16, "out_channels": 24, "expand": 2, "kernel": 5, "stride": 2}, {"h": 12, "w": 9}
        ),
        "tensorflow": Preset(
            {"channels": 8, "out_channels": 8, "kernel": 3, "stride": 2, "tensorflow_size": (8, 9)},
            {"h": 8, "w": 9},
            dynamic=(Dim("b"),),
        ),
    },
    sources={
        "efficientnet": Source(
            "EfficientNet-PyTorch, whose batch norms have ε = 1e-3",
            shown_by=(r"^_depthwise_conv\.", r"^_se_reduce\."),
            arguments={"epsilon": 1e-3},
            refused_under={"strided": _PADS},
        ),
        "external-attention": Source(
            "External-Attention-pytorch, whose batch norms have ε = 1e-2",
            shown_by=(r"^_depthwise_conv\.", r"^_se_reduce\."),
            arguments={"epsilon": 1e-2},
            refused_under={"strided": _PADS},
        ),
    },
    checkpoint={
        r"^_expand_conv\.": "expand.",
        r"^_bn0\.": "expand_norm.",
        r"^_depthwise_conv\.": "depthwise.",
        r"^_bn1\.": "depthwise_norm.",
        r"^_se_reduce\.": "squeeze.",
        r"^_se_expand\.": "excite.",
        r"^_project_conv\.": "project.",
        r"^_bn2\.": "project_norm.",
    },
)
