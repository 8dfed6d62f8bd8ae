"""Axial attention: each pixel attends to its column and to its row, at the cost of two sequences instead of a map.

A_h, A_w = softmax(Q Kᵀ / sqrt(d)) V   along columns, along rows          b c h w each
y        = A_h(x) + A_w(x),   in sequence A_w(A_h(x))                     b c h w
"""

from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.axial import AxisAttention
from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms.spec import Dim, Input, Paper, Preset, Spec


class AxialAttention(nn.Module):
    """Attention along both axes of a map.

    Args:
        channels: of the map.
        heads: number of heads.
        d_head: channels of a head; None is ``channels // heads``.
        sequential: rows attend to the result of the columns, where otherwise both are summed.

    Raises:
        ValueError: ``heads`` does not divide ``channels`` and ``d_head`` is None.
    """

    def __init__(self, channels: int = 32, heads: int = 4, d_head: int | None = None, sequential: bool = False) -> None:
        positive(channels=channels, heads=heads)
        super().__init__()
        self.sequential = sequential
        self.columns = AxisAttention(channels, heads, d_head, axis=2)
        self.rows = AxisAttention(channels, heads, d_head, axis=3)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Attend along both axes."""
        down: Tensor = self.columns(x)
        across: Tensor = self.rows(down if self.sequential else x)
        return across if self.sequential else down + across


MECHANISM = Spec(
    paper=Paper("Axial Attention in Multidimensional Transformers", "Ho et al.", "2019", "1912.12180"),
    build=AxialAttention,
    inputs=(Input("x", ("b", "channels", "h", "w")),),
    dynamic=(Dim("b"), Dim("h"), Dim("w")),
    presets={
        "test": Preset({"channels": 32, "heads": 4}, {"h": 5, "w": 7}),
        "readme": Preset({"channels": 128, "heads": 8}, {"h": 14, "w": 14}),
    },
    variants={"sequential": Preset({"channels": 16, "heads": 2, "sequential": True}, {"h": 5, "w": 7})},
    checkpoint={
        r"^axial_attentions\.0\.fn\.": "columns.",
        r"^axial_attentions\.1\.fn\.": "rows.",
        r"\.to_q\.": ".query.",
        r"\.to_kv\.": ".key_value.",
        r"\.to_out\.": ".out.",
    },
)
