"""Omni-dimensional dynamic convolution: each image gates inputs, outputs and taps of a mixture of kernels of its own.

a = relu(BN(F · mean(x)))                                          b r 1 1
α_c, α_f, α_s = sigmoid(F_c a / τ), sigmoid(F_f a / τ), sigmoid(F_s a / τ)      inputs, outputs, taps
π = softmax(F_w a / τ)                                             over n kernels
y = α_f * ( (Σ_n π_n α_s W_n) ∗ (α_c * x) )                        b o h/s w/s

Gates of inputs and outputs act on the maps, those of kernels and taps on the kernel of each image.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms._layers.per_sample_conv import convolve_each
from attn_export.mechanisms.spec import Dim, Input, Paper, Preset, Spec


class OmniDimensionalConv(nn.Module):
    """A convolution with attention along all four dimensions of its kernels.

    Gates that would do nothing are left out, as in the authors' release: of taps where there is one, of the outputs
    where the convolution is depth-wise, of kernels where there is one.

    Args:
        channels: inputs.
        out_channels: outputs.
        kernel: side of the kernels.
        experts: number of kernels.
        reduction: how many times narrower than the inputs the attention's hidden layer is.
        least: its least width.
        temperature: divides the logits; annealed to 1 while training.
        stride: of the convolution.
        dilation: of the kernels.
        groups: of the convolution.

    Raises:
        ValueError: ``groups`` does not divide the channels, ``kernel`` is even, or ``temperature`` is not positive.
    """

    def __init__(
        self,
        channels: int = 16,
        out_channels: int = 24,
        kernel: int = 3,
        experts: int = 4,
        reduction: int = 16,
        least: int = 16,
        temperature: float = 1.0,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
    ) -> None:
        positive(
            channels=channels,
            out_channels=out_channels,
            kernel=kernel,
            experts=experts,
            reduction=reduction,
            stride=stride,
            dilation=dilation,
            groups=groups,
        )
        super().__init__()
        if channels % groups or out_channels % groups:
            raise ValueError(f"groups must divide the channels; {groups} does not divide {channels}, {out_channels}")
        if kernel % 2 == 0 or temperature <= 0:
            raise ValueError(f"kernel must be odd and temperature positive; got {kernel} and {temperature}")
        hidden = max(channels // reduction, least)
        self.kernel, self.stride, self.dilation, self.groups = kernel, stride, dilation, groups
        self.temperature = temperature
        self.squeeze = nn.Conv2d(channels, hidden, 1, bias=False)
        self.norm = nn.BatchNorm2d(hidden)
        self.inputs = nn.Conv2d(hidden, channels, 1)
        self.outputs = None if channels == out_channels == groups else nn.Conv2d(hidden, out_channels, 1)
        self.taps = nn.Conv2d(hidden, kernel * kernel, 1) if kernel > 1 else None
        self.choose = nn.Conv2d(hidden, experts, 1) if experts > 1 else None
        self.weight = nn.Parameter(torch.empty(experts, out_channels, channels // groups, kernel, kernel))
        for expert in self.weight:
            nn.init.kaiming_normal_(expert, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b o i j"]:
        """Make the image's kernel, and convolve with it."""
        a = torch.relu(self.norm(self.squeeze(x.mean((2, 3), keepdim=True))))
        gated = x * torch.sigmoid(self.inputs(a) / self.temperature)
        y = convolve_each(
            gated,
            self._kernels(a),
            stride=self.stride,
            padding=self.dilation * (self.kernel // 2),
            dilation=self.dilation,
            groups=self.groups,
        )
        return y if self.outputs is None else y * torch.sigmoid(self.outputs(a) / self.temperature)

    def _kernels(self, a: Float[Tensor, "b r 1 1"]) -> Float[Tensor, "b o d k k"]:
        """Compute the kernel of each image."""
        if self.choose is not None:
            mix = torch.softmax(self.choose(a).flatten(1) / self.temperature, 1)
            mixed = (mix @ self.weight.flatten(1)).reshape(-1, *self.weight.shape[1:])
        else:
            mixed = self.weight.expand(a.shape[0], -1, -1, -1, -1)
        if self.taps is None:
            return mixed
        gates = torch.sigmoid(self.taps(a) / self.temperature)
        return mixed * gates.reshape(-1, 1, 1, self.kernel, self.kernel)


MECHANISM = Spec(
    paper=Paper("Omni-Dimensional Dynamic Convolution", "Li et al.", "ICLR 2022", "2209.07947"),
    build=OmniDimensionalConv,
    tasks=("classification", "detection"),
    inputs=(Input("x", ("b", "channels", "h", "w")),),
    dynamic=(Dim("b"), Dim("h"), Dim("w")),
    presets={
        "test": Preset({"channels": 16, "out_channels": 24}, {"h": 7, "w": 9}),
        "readme": Preset({"channels": 64, "out_channels": 64}, {"h": 28, "w": 28}),
    },
    variants={
        "grouped": Preset(
            {"channels": 16, "out_channels": 24, "experts": 1, "stride": 2, "groups": 4}, {"h": 7, "w": 9}
        ),
        "depthwise": Preset({"channels": 8, "out_channels": 8, "experts": 3, "groups": 8}, {"h": 7, "w": 9}),
    },
)
