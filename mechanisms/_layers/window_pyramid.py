"""What Swin and Swin V2 share: stages of window attention on a square map, and four pixels made one between them."""

import re
from collections.abc import Callable, Sequence

from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms._layers.patch_merging import PatchMerging

#: Makes a block of these channels on a map of that side, with heads, a window and a shift.
MakeBlock = Callable[[int, int, int, int, int], nn.Module]


class WindowPyramid(nn.Module):
    """A classifier of square images.

    Args:
        size: of the image.
        patch: of the squares it is cut into.
        channels: of the first stage, doubled from stage to stage.
        depths: blocks of the stages.
        heads: of the stages.
        window: side of the windows; a map that is no larger is one window, and nothing moves.
        classes: outputs.
        block: makes a block.
        norm_last: whether four pixels are normalised behind the map that makes them one, or before it.

    Raises:
        ValueError: ``patch`` does not divide ``size``, or a block cannot be made.
    """

    def __init__(
        self,
        size: int,
        patch: int,
        channels: int,
        depths: Sequence[int],
        heads: Sequence[int],
        window: int,
        classes: int,
        *,
        block: MakeBlock,
        norm_last: bool = False,
    ) -> None:
        positive(size=size, patch=patch, channels=channels, window=window, classes=classes)
        super().__init__()
        if size % patch:
            raise ValueError(f"patch must divide size; {patch} does not divide {size}")
        self.embed = nn.Conv2d(3, channels, patch, patch)
        self.embed_norm = nn.LayerNorm(channels)
        side, stages, between = size // patch, list[nn.Module](), list[nn.Module]()
        for level, (depth, count) in enumerate(zip(depths, heads, strict=True)):
            if level:
                between.append(PatchMerging(channels, side, norm_last=norm_last))
                side, channels = side // 2, 2 * channels
            own = min(window, side)
            shifts = (own // 2 if i % 2 and own < side else 0 for i in range(depth))
            stages.append(nn.Sequential(*(block(channels, side, count, own, shift) for shift in shifts)))
        self.stages, self.between = nn.ModuleList(stages), nn.ModuleList(between)
        self.norm = nn.LayerNorm(channels)
        self.head = nn.Linear(channels, classes)

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b classes"]:
        """Classify."""
        x = self.embed_norm(self.embed(image).flatten(2).transpose(1, 2))
        x = self.stages[0](x)
        for merge, stage in zip(self.between, self.stages[1:], strict=True):
            x = stage(merge(x))
        y: Tensor = self.head(self.norm(x).mean(1))
        return y


def merging_behind(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Put each merging behind the stage before it, as the authors have it; timm has it at the start of the next."""
    pattern = re.compile(r"^layers\.(\d+)\.downsample\.")
    if any(name.startswith("layers.0.downsample.") for name in state):
        return state
    return {pattern.sub(lambda m: f"layers.{int(m[1]) - 1}.downsample.", name): value for name, value in state.items()}


def norm_behind(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Bring names of both editions to those of the last; the first calls the norm before the classifier a block's."""
    blocks = [(int(m[1]), int(m[2])) for name in state if (m := re.match(r"stages\.(\d+)\.blocks\.(\d+)\.", name))]
    last = "stages.{}.blocks.{}.norm3.".format(*max(blocks)) if blocks else "norm."
    state = {name.replace(last, "norm."): value for name, value in state.items()}
    named = merging_behind({re.sub(r"^stages\.(\d+)\.", r"layers.\1.", name): v for name, v in state.items()})
    return {n: v.reshape(-1, 1, 1) if n.endswith("logit_scale") else v for n, v in named.items()}
