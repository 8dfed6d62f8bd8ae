"""Container: one block for convolution and attention, the second only in the last stage. Logits.

x = x + P ∗ x                                             P, D: depth-wise 3 × 3 and 5 × 5
x = x + C2 ∗ (D ∗ C1 ∗ BN x)                              C: 1 × 1
x = x + C2 ∗ (g softmax(q kᵀ / sqrt(d)) v + (1 - g) D ∗ v)   q k v = C1 ∗ BN x, g = sigmoid of one number
x = x + W2 gelu(W1 BN x)
"""

import re
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.channel_norm import ChannelNorm
from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms.spec import Input, Paper, Preset, Spec


class ContainerBlock(nn.Module):
    """Mix places by a convolution, or by that and attention; then channels.

    Args:
        channels: of the map.
        heads: of the attention; 0 for none.
        mlp_ratio: width of the MLP over ``channels``.

    Raises:
        ValueError: ``heads`` does not divide ``channels``.
    """

    def __init__(self, channels: int, heads: int = 0, mlp_ratio: float = 4.0) -> None:
        super().__init__()
        if heads and channels % heads:
            raise ValueError(f"heads must divide channels; {heads} does not divide {channels}")
        hidden = round(channels * mlp_ratio)
        self.heads = heads
        self.pos_embed = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.norm1, self.norm2 = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, 3 * channels if heads else channels, 1)
        self.conv = nn.Conv2d(channels, channels, 5, padding=2, groups=channels)
        self.conv2 = nn.Conv2d(channels, channels, 1)
        self.sa_weight = nn.Parameter(torch.zeros(1)) if heads else None
        self.mlp = nn.Sequential(nn.Conv2d(channels, hidden, 1), nn.GELU(), nn.Conv2d(hidden, channels, 1))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Mix."""
        x = x + self.pos_embed(x)
        mixed = self.conv1(self.norm1(x))
        if self.sa_weight is not None:
            q, k, v = mixed.chunk(3, 1)
            gate = torch.sigmoid(self.sa_weight)
            mixed = gate * self._attend(q, k, v) + (1 - gate) * self.conv(v)
        else:
            mixed = self.conv(mixed)
        x = x + self.conv2(mixed)
        y: Tensor = x + self.mlp(self.norm2(x))
        return y

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend among all pixels, each head of some channels."""
        rows, columns = v.shape[2:]
        q, k, w = (part.reshape(-1, self.heads, v.shape[1] // self.heads, rows * columns) for part in (q, k, v))
        weights = torch.softmax((q * q.shape[2] ** -0.5).transpose(2, 3) @ k, -1)
        return (w @ weights.transpose(2, 3)).reshape(v.shape)


class Container(nn.Module):
    """A classifier of square images; the defaults are Container-Light.

    Args:
        size: of the image.
        widths: channels of the stages.
        depths: blocks of the stages.
        heads: of the last stage's attention.
        mlp_ratios: widths of the MLPs over the channels, by stage.
        classes: outputs.
    """

    def __init__(
        self,
        size: int = 224,
        widths: Sequence[int] = (64, 128, 320, 512),
        depths: Sequence[int] = (3, 4, 8, 3),
        heads: int = 16,
        mlp_ratios: Sequence[float] = (8, 8, 4, 4),
        classes: int = 1000,
    ) -> None:
        positive(size=size, heads=heads, classes=classes)
        super().__init__()
        stages, before = list[nn.Module](), 3
        for level, (width, depth, ratio) in enumerate(zip(widths, depths, mlp_ratios, strict=True)):
            patch = 2 if level else 4
            last = level == len(widths) - 1
            blocks = (ContainerBlock(width, heads if last else 0, ratio) for _ in range(depth))
            stages.append(nn.Sequential(nn.Conv2d(before, width, patch, patch), ChannelNorm(width, 1e-5), *blocks))
            before = width
        self.stages = nn.Sequential(*stages)
        self.norm = nn.BatchNorm2d(before)
        self.head = nn.Linear(before, classes)

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b classes"]:
        """Classify."""
        y: Tensor = self.head(self.norm(self.stages(image)).mean((2, 3)))
        return y


def _by_stage(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename by stage; the depth-wise convolution is called attn where there is no attention."""
    named = {}
    for name, value in state.items():
        new = re.sub(
            r"^patch_embed(\d)\.(proj|norm)\.", lambda m: f"stages.{int(m[1]) - 1}.{int(m[2] == 'norm')}.", name
        )
        new = re.sub(r"^blocks(\d)\.(\d+)\.", lambda m: f"stages.{int(m[1]) - 1}.{int(m[2]) + 2}.", new)
        named[new.replace(".attn.", ".conv.").replace(".mlp.fc1.", ".mlp.0.").replace(".mlp.fc2.", ".mlp.2.")] = value
    return named


MECHANISM = Spec(
    paper=Paper("Container: Context Aggregation Network", "Gao et al.", "NeurIPS 2021", "2106.01401"),
    build=Container,
    tasks=("classification", "detection"),
    inputs=(Input("image", ("b", 3, "size", "size")),),
    presets={
        "test": Preset(
            {
                "size": 64,
                "widths": (16, 16, 32, 32),
                "depths": (1, 1, 1, 1),
                "heads": 4,
                "mlp_ratios": (2, 2, 2, 2),
                "classes": 10,
            }
        ),
        "readme": Preset({"size": 224}),
    },
    convert=_by_stage,
)
