"""A convolution and the batch norm behind it: the unit that most re-parameterised blocks are made of."""

from jaxtyping import Float
from torch import Tensor, nn


class ConvBN(nn.Module):
    """Convolution, batch norm; ``padding`` keeps the size at stride 1 unless given.

    Args:
        inputs: input channels.
        outputs: output channels.
        kernel: rows and columns of the kernel; odd, unless ``padding`` is given.
        stride: of the convolution.
        padding: zeros on every side.
        dilation: of the kernel.
        groups: groups of channels.
        bias: of the convolution too, as some networks were published.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int | tuple[int, int] = 1,
        *,
        stride: int = 1,
        padding: int | tuple[int, int] | None = None,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = False,
    ) -> None:
        super().__init__()
        rows, columns = (kernel, kernel) if isinstance(kernel, int) else kernel
        if padding is None:
            padding = (dilation * (rows - 1) // 2, dilation * (columns - 1) // 2)
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, groups, bias=bias)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b o i j"]:
        """Convolve and normalise."""
        y: Tensor = self.bn(self.conv(x))
        return y
