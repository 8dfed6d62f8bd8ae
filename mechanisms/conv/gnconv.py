"""Recursive gated convolution: gates of growing width, each made of a large depth-wise view of the input.

p₀, q = W_in x              b c/2ⁿ⁻¹ h w,  b (c/2ⁿ⁻¹ + … + c) h w
q₀ … qₙ₋₁ = scale · D ∗ q   depth-wise k × k
p₁ = p₀ * q₀,  pᵢ₊₁ = (Wᵢ pᵢ) * qᵢ
y = W_out pₙ                b c h w
"""

from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms.spec import Dim, Input, Paper, Preset, Source, Spec


class GnConv(nn.Module):
    """``order`` gates; widths double from ``channels / 2 ** (order - 1)`` to ``channels``.

    Args:
        channels: inputs and outputs.
        order: number of gates.
        scale: of the depth-wise view.
        view: builds what looks around, from the sum of the widths; a 7 × 7 depth-wise convolution unless given.

    Raises:
        ValueError: ``2 ** (order - 1)`` does not divide ``channels``.
    """

    def __init__(
        self, channels: int = 16, order: int = 3, scale: float = 1 / 3, view: "type[nn.Module] | None" = None
    ) -> None:
        positive(channels=channels)
        super().__init__()
        if order < 1 or channels % 2 ** (order - 1):
            raise ValueError(f"channels must be a multiple of 2 ** (order - 1); got {channels} and order {order}")
        self.widths = [channels // 2**i for i in reversed(range(order))]
        total = sum(self.widths)
        self.scale = scale
        self.enter = nn.Conv2d(channels, 2 * channels, 1)
        # 2 c = c / 2ⁿ⁻¹ + (c / 2ⁿ⁻¹ + … + c)
        self.view = nn.Conv2d(total, total, 7, padding=3, groups=total) if view is None else view(total)
        self.widen = nn.ModuleList(nn.Conv2d(w, 2 * w, 1) for w in self.widths[:-1])
        self.leave = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Gate again and again."""
        narrow, rest = self.enter(x).split((self.widths[0], sum(self.widths)), 1)
        gates = (self.view(rest) * self.scale).split(self.widths, 1)
        p = narrow * gates[0]
        for widen, gate in zip(self.widen, gates[1:], strict=True):
            p = widen(p) * gate
        y: Tensor = self.leave(p)
        return y


#: Names in External-Attention-pytorch, for every place where a recursive gated convolution is used.
NAMES = {
    r"\bproj_in\.": "enter.",
    r"\bdwconv\.": "view.",
    r"\bpws\.": "widen.",
    r"\bproj_out\.": "leave.",
}

MECHANISM = Spec(
    paper=Paper("HorNet: Efficient High-Order Spatial Interactions", "Rao et al.", "NeurIPS 2022", "2207.14284"),
    build=GnConv,
    tasks=("classification", "detection", "segmentation"),
    inputs=(Input("x", ("b", "channels", "h", "w")),),
    dynamic=(Dim("b"), Dim("h"), Dim("w")),
    presets={
        "test": Preset({"channels": 16}, {"h": 9, "w": 7}),
        "readme": Preset({"channels": 64, "order": 5}, {"h": 56, "w": 56}),
    },
    variants={"order5": Preset({"channels": 32, "order": 5}, {"h": 9, "w": 7})},
    sources={
        "hornet": Source(
            "HorNet as its networks are built, with the scale 1/3",
            shown_by=(r"^proj_in\.", r"^dwconv\.", r"^pws\.", r"^proj_out\."),
            arguments={"scale": 0.3333333333333333},
        ),
        "unscaled": Source(
            "HorNet's class by itself, whose scale is 1 unless given",
            shown_by=(r"^proj_in\.", r"^dwconv\.", r"^pws\.", r"^proj_out\."),
            arguments={"scale": 1.0},
        ),
    },
    checkpoint=NAMES,
)
