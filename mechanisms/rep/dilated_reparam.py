"""Dilated re-parameterisation: a large depth-wise kernel with small dilated ones beside it; one kernel when deployed.

y = BN(D_K ∗ x) + Σ_i BN(D_i ∗ x)      b c h w    D_i: k_i × k_i, dilation r_i, (k_i − 1) r_i < K

A dilated kernel is a larger one with zeros between its weights, so all of them lie inside the K × K.
"""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms._layers.conv_bn import ConvBN
from attn_export.mechanisms.spec import Dim, Input, Paper, Preset, Spec

# NOTE the paper lists K = 13 and how to shrink it; the other rows are those of its authors' release.
_BRANCHES = {
    17: ((5, 1), (9, 2), (3, 4), (3, 5), (3, 7)),
    15: ((5, 1), (7, 2), (3, 3), (3, 5), (3, 7)),
    13: ((5, 1), (7, 2), (3, 3), (3, 4), (3, 5)),
    11: ((5, 1), (5, 2), (3, 3), (3, 4), (3, 5)),
    9: ((5, 1), (5, 2), (3, 3), (3, 4)),
    7: ((5, 1), (3, 2), (3, 3)),
    5: ((3, 1), (3, 2)),
}


class DilatedReparam(nn.Module):
    """One block as it is trained.

    Args:
        channels: of the map.
        kernel: side of the large kernel.
        branches: side and dilation of each small kernel; the paper's for 5, 7, … 17 unless given.

    Raises:
        ValueError: there are no branches for ``kernel``, one of them does not fit into it, or a side is even.
    """

    def __init__(self, channels: int = 16, kernel: int = 7, branches: Sequence[tuple[int, int]] | None = None) -> None:
        positive(channels=channels)
        super().__init__()
        if branches is None and kernel not in _BRANCHES:
            raise ValueError(
                f"kernel must be one of those with known branches, {sorted(_BRANCHES)}; give them for {kernel}"
            )
        chosen = _BRANCHES[kernel] if branches is None else branches
        if any(side % 2 == 0 for side in (kernel, *(k for k, _ in chosen))):
            raise ValueError(f"kernels must be odd to share a centre; got {kernel} with {chosen}")
        if any((side - 1) * step + 1 > kernel for side, step in chosen):
            raise ValueError(f"(side - 1) * dilation must be below kernel {kernel} for each branch; got {chosen}")
        self.large = ConvBN(channels, channels, kernel, groups=channels)
        self.small = nn.ModuleList(
            ConvBN(channels, channels, side, dilation=step, groups=channels) for side, step in chosen
        )

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Sum the branches."""
        y: Tensor = self.large(x)
        for branch in self.small:
            y = y + branch(x)
        return y


MECHANISM = Spec(
    paper=Paper("UniRepLKNet: A Universal Perception Large-Kernel ConvNet", "Ding et al.", "CVPR 2024", "2311.15599"),
    build=DilatedReparam,
    inputs=(Input("x", ("b", "channels", "h", "w")),),
    dynamic=(Dim("b"), Dim("h"), Dim("w")),
    presets={
        "test": Preset({"channels": 8}, {"h": 9, "w": 10}),
        "readme": Preset({"channels": 96, "kernel": 13}, {"h": 28, "w": 28}),
    },
    variants={"given": Preset({"channels": 8, "kernel": 9, "branches": ((3, 4), (9, 1))}, {"h": 9, "w": 11})},
)
