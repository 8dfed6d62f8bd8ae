"""MOA transformer: attention within windows, and after each stage one of windows to larger, overlapping windows.

x = LN(conv_4(image))                                                   b h w c
x = x + A(LN x);  x = x + MLP(LN x)                                     A within windows of s × s
q = Wq r,  k, v = Wkv r',  r = W1 LN x                                  b n c, n windows; r' reaches one pixel further
x = x + LN(x) + up(Wo softmax(q kᵀ / sqrt(d) + B) v)                    one vector a window, given to its pixels
x = LN(x);  x = x + conv_3(x)
x = W LN([x00; x10; x01; x11]), half as high and wide                   between stages
y = W mean_hw(LN x)                                                     b classes
"""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms._layers.overlapped import GlobalBlock
from attn_export.mechanisms._layers.prenorm import PreNormBlock
from attn_export.mechanisms._layers.windows import WindowAttention, merge_patches
from attn_export.mechanisms.spec import Input, Paper, Preset, Spec


class Merge(nn.Module):
    """Halve the map: four pixels become one with twice the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * channels)
        self.reduce = nn.Linear(4 * channels, 2 * channels, bias=False)

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b rows columns d"]:
        """Merge."""
        y: Tensor = self.reduce(self.norm(merge_patches(x)))
        return y


class MOATransformer(nn.Module):
    """A classifier of square images; gives logits.

    Args:
        size: of the image.
        patch: of the squares it is cut into.
        channels: of the first stage; each next one has twice as many.
        depths: numbers of local blocks of each stage.
        heads: numbers of heads of each stage.
        window: side of the windows; a map that is smaller is one window.
        reduction: how much fewer channels the global attention flattens windows with.
        mlp_ratio: width of the MLPs over their channels.
        classes: number of labels.

    Raises:
        ValueError: ``depths`` and ``heads`` differ in length, or sizes do not divide.
    """

    def __init__(
        self,
        size: int = 56,
        patch: int = 4,
        channels: int = 32,
        depths: Sequence[int] = (1, 1),
        heads: Sequence[int] = (1, 2),
        window: int = 7,
        reduction: int = 32,
        mlp_ratio: float = 4.0,
        classes: int = 10,
    ) -> None:
        positive(size=size, patch=patch, channels=channels, window=window, reduction=reduction, classes=classes)
        super().__init__()
        if len(depths) != len(heads):
            raise ValueError(f"depths and heads need one item a stage each; they have {len(depths)} and {len(heads)}")
        if size % (patch * 2 ** (len(depths) - 1)):
            raise ValueError(f"size must divide by {patch * 2 ** (len(depths) - 1)}; it is {size}")
        side = size // patch
        self.embed, self.embed_norm = nn.Conv2d(3, channels, patch, patch), nn.LayerNorm(channels)
        self.stages = nn.ModuleList()
        for i, (depth, h) in enumerate(zip(depths, heads, strict=True)):
            local = min(window, side)
            if side % local:
                raise ValueError(f"stage {i}: window must divide the map; {local} does not divide {side}")
            stage = nn.Sequential()
            for _ in range(depth):
                stage.append(PreNormBlock(channels, WindowAttention(channels, h, local), mlp_ratio))
            if i + 1 < len(depths):
                if side >= window:
                    stage.append(GlobalBlock(channels, h, window, (side, side), reduction))
                stage.append(Merge(channels))
                side, channels = side // 2, 2 * channels
            self.stages.append(stage)
        self.norm = nn.LayerNorm(channels)
        self.head = nn.Linear(channels, classes)

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b classes"]:
        """Classify."""
        x = self.embed_norm(self.embed(image).permute(0, 2, 3, 1))
        for stage in self.stages:
            x = stage(x)
        logits: Tensor = self.head(self.norm(x).mean((1, 2)))
        return logits


MECHANISM = Spec(
    paper=Paper("Aggregating Global Features into Local Vision Transformer", "Patel et al.", "ICPR 2022", "2201.12903"),
    build=MOATransformer,
    inputs=(Input("image", ("b", 3, "size", "size")),),
    presets={
        "test": Preset({"size": 56, "window": 7, "mlp_ratio": 2.0}),
        "readme": Preset(
            {"size": 224, "channels": 96, "depths": (2, 2, 6), "heads": (3, 6, 12), "window": 14, "classes": 1000}
        ),
    },
)
