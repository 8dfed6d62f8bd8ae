"""Vision Permutator: blocks of a permutator and an MLP, on a map that shrinks between stages. Logits.

u = x + P(LN(x))                     b h w c    P: the permutator, along rows, columns and channels
y = u + W2 · gelu(W1 · LN(u))        b h w c
"""

from collections.abc import Sequence

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms._layers.permute_mlp import PermuteMLP, by_branch
from attn_export.mechanisms.spec import Dim, Input, Paper, Preset, Spec


class PermutatorBlock(nn.Module):
    """One layer, on square maps of side ``segments``."""

    def __init__(self, channels: int, segments: int, size: int | None = None, expand: float = 2.0) -> None:
        super().__init__()
        self.mix_norm, self.mlp_norm = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.mix = PermuteMLP(channels, segments, size, size)
        self.widen = nn.Linear(channels, int(expand * channels))
        self.narrow = nn.Linear(int(expand * channels), channels)

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        """Mix places and channels, then channels alone."""
        u = x + self.mix(self.mix_norm(x))
        y: Tensor = u + self.narrow(F.gelu(self.widen(self.mlp_norm(u))))
        return y


class Down(nn.Module):
    """Halve the map, channels last, by a 2 × 2 convolution."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out_channels, 2, 2)

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b i j o"]:
        """Halve rows and columns."""
        y: Tensor = self.conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return y


class VisionPermutator(nn.Module):
    """The whole classifier.

    Args:
        size: rows and columns of the image.
        patch: rows and columns of a patch.
        depths: layers of each stage.
        widths: channels of each stage.
        segments: groups of channels of each stage.
        halve: whether the map is halved behind each stage; behind the last it never is.
        expand: how many times wider the MLPs' hidden layers are.
        classes: outputs.

    Raises:
        ValueError: ``patch`` does not divide ``size``.
    """

    def __init__(
        self,
        size: int = 112,
        patch: int = 7,
        depths: Sequence[int] = (1, 1),
        widths: Sequence[int] = (32, 48),
        segments: Sequence[int] = (16, 8),
        halve: Sequence[bool] = (True, False),
        expand: float = 2.0,
        classes: int = 10,
    ) -> None:
        positive(size=size, patch=patch, classes=classes)
        super().__init__()
        if size % patch:
            raise ValueError(f"patch must divide size; {patch} does not divide {size}")
        self.embed = nn.Conv2d(3, widths[0], patch, patch)
        side, parts = size // patch, list[nn.Module]()
        for stage, (depth, width, segment) in enumerate(zip(depths, widths, segments, strict=True)):
            parts.append(nn.Sequential(*(PermutatorBlock(width, segment, side, expand) for _ in range(depth))))
            if stage + 1 < len(depths) and (halve[stage] or width != widths[stage + 1]):
                parts.append(Down(width, widths[stage + 1]))
                side //= 2
        self.network = nn.Sequential(*parts)
        self.norm = nn.LayerNorm(widths[-1])
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b classes"]:
        """Classify images."""
        places = self.network(self.embed(x).permute(0, 2, 3, 1))
        y: Tensor = self.head(self.norm(places.flatten(1, 2)).mean(1))
        return y


def branches_apart(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Reorder the three shares of a channel, which lie side by side in the original; ours follow each other."""
    return {key: by_branch(value) if "reweight.fc2." in key else value for key, value in state.items()}


MECHANISM = Spec(
    paper=Paper("Vision Permutator: A Permutable MLP-Like Architecture", "Hou et al.", "TPAMI 2022", "2106.12368"),
    build=VisionPermutator,
    inputs=(Input("x", ("b", 3, "size", "size")),),
    dynamic=(Dim("b"),),
    presets={
        "test": Preset({"size": 112}),
        "readme": Preset(
            {
                "size": 224,
                "patch": 14,
                "depths": (4, 3, 8, 3),
                "widths": (384, 384, 384, 384),
                "segments": (16, 16, 16, 16),
                "halve": (False, False, False, False),
                "expand": 3.0,
                "classes": 1000,
            }
        ),
    },
    convert=branches_apart,
    checkpoint={
        r"^patch_embed\.proj\.": "embed.",
        r"^network\.(\d+)\.proj\.": r"network.\1.conv.",
        r"\bnorm1\.": "mix_norm.",
        r"\bnorm2\.": "mlp_norm.",
        r"\bmlp\.fc1\.": "widen.",
        r"\bmlp\.fc2\.": "narrow.",
        r"\battn\.mlp_h\.": "mix.rows.",
        r"\battn\.mlp_w\.": "mix.columns.",
        r"\battn\.mlp_c\.": "mix.channels.",
        r"\battn\.reweight\.fc1\.": "mix.squeeze.",
        r"\battn\.reweight\.fc2\.": "mix.weigh.",
        r"\battn\.proj\.": "mix.project.",
    },
)
