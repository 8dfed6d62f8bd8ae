"""Vision permutator's mixing layer: linear layers along rows, along columns and across channels, weighted.

h, w, c = Wh x, Ww x, Wc x               b h w c each; Wh takes a segment of the channels with all rows, Ww all columns
a       = softmax_3(W2 gelu(W1 mean(h + w + c)))         b 3 c
y       = Wp (a1 * h + a2 * w + a3 * c)                  b h w c
"""

from torch import Tensor

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms._layers.permute_mlp import PermuteMLP, by_branch
from attn_export.mechanisms.spec import Input, Paper, Preset, Spec


class VisionPermutatorMixing(PermuteMLP):
    """Mix a map of fixed size along its three axes.

    Args:
        channels: of the map.
        segments: groups of channels; those of one group are mixed along rows and columns together.
        height: of the map; ``segments`` unless given.
        width: of the map; ``segments`` unless given.
        reduction: of the bottleneck behind the weights.

    Raises:
        ValueError: ``segments`` or ``reduction`` does not divide ``channels``, or a size is not positive.
    """

    def __init__(
        self,
        channels: int = 32,
        segments: int = 8,
        height: int | None = None,
        width: int | None = None,
        reduction: int = 4,
    ) -> None:
        positive(channels=channels)
        super().__init__(channels, segments, height, width, reduction)


def convert(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Order the weights of the branches: channels, columns, rows in External-Attention-pytorch."""
    return {k: by_branch(v, (2, 1, 0)) if k.startswith("reweighting.fc2.") else v for k, v in state.items()}


MECHANISM = Spec(
    paper=Paper(
        "Vision Permutator: A Permutable MLP-Like Architecture for Visual Recognition",
        "Hou et al.",
        "TPAMI 2022",
        "2106.12368",
    ),
    build=VisionPermutatorMixing,
    inputs=(Input("x", ("b", "h", "w", "channels")),),
    presets={
        "test": Preset({"channels": 32, "segments": 8}, {"h": 8, "w": 8}),
        "readme": Preset({"channels": 512, "segments": 8}, {"h": 8, "w": 8}),
    },
    variants={
        "oblong": Preset({"channels": 16, "segments": 4, "height": 3, "width": 5}, {"h": 3, "w": 5}),
    },
    checkpoint={
        r"^mlp_h\.": "rows.",
        r"^mlp_w\.": "columns.",
        r"^mlp_c\.": "channels.",
        r"^reweighting\.fc1\.": "squeeze.",
        r"^reweighting\.fc2\.": "weigh.",
        r"^proj\.": "project.",
    },
    convert=convert,
)
