"""CrossViT: two vision transformers on patches of two sizes, whose class tokens read each other's patches. Logits.

x_i = [class_i; P_i ∗ resize_i(image)] + position_i      b 1+n_i c_i, i = 1, 2
x_i = x_i + A(LN x_i);  x_i = x_i + MLP(LN x_i)          depth_i times
c = W gelu(LN class_i)                                   as wide as the other branch
c = c + W' softmax(q(LN c) k(LN z)ᵀ / sqrt(d)) v(LN z)   z = [c; the other branch's patches]
class_i = W" gelu(LN c)
y = (W1 LN(class_1) + W2 LN(class_2)) / 2                b classes
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms._layers.class_exchange import CrossBlock
from attn_export.mechanisms._layers.constant import Constants
from attn_export.mechanisms.spec import Input, Paper, Preset, Spec

#: Kernel, stride and padding of the three convolutions that cut patches of these sides (the networks with a dagger).
_STEMS = {12: ((7, 4, 3), (3, 3, 0), (3, 1, 1)), 16: ((7, 4, 3), (3, 2, 1), (3, 2, 1))}


class Resize(Constants):
    """Resize square images by bicubic interpolation: a product with the same matrix from both sides."""

    matrix: Tensor

    def __init__(self, size: int, wanted: int) -> None:
        super().__init__()
        identity = torch.eye(size, dtype=torch.float64)[None, None]
        self.constant("matrix", F.interpolate(identity, (wanted, size), mode="bicubic")[0, 0])

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 i j"]:
        """Resize."""
        return self.matrix @ image @ self.matrix.T


def _patches(channels: int, patch: int, convolutions: bool) -> nn.Module:
    if not convolutions:
        return nn.Conv2d(3, channels, patch, patch)
    if patch not in _STEMS:
        raise ValueError(f"patches must be 12 or 16 with convolutions; got {patch}")
    parts, before = list[nn.Module](), 3
    for share, (kernel, stride, padding) in zip((4, 2, 1), _STEMS[patch], strict=True):
        parts += [nn.Conv2d(before, channels // share, kernel, stride, padding), nn.ReLU()]
        before = channels // share
    return nn.Sequential(*parts[:-1])


class CrossViT(nn.Module):
    """A classifier of square images; the defaults are CrossViT-9.

    Args:
        size: of the image.
        sizes: that the image is resized to, for each branch.
        patches: of the squares it is cut into.
        widths: channels of the branches' tokens.
        depths: blocks of the branches between exchanges.
        rounds: how often they exchange.
        heads: of the branches.
        mlp_ratios: width of the MLPs over the channels.
        convolutions: whether patches are cut by three convolutions, as in the networks with a dagger.
        classes: outputs.

    Raises:
        ValueError: ``patches`` do not divide ``sizes``, or ``heads`` not ``widths``.
    """

    def __init__(
        self,
        size: int = 240,
        sizes: Sequence[int] = (240, 224),
        patches: Sequence[int] = (12, 16),
        widths: Sequence[int] = (128, 256),
        depths: Sequence[int] = (1, 3),
        rounds: int = 3,
        heads: Sequence[int] = (4, 4),
        mlp_ratios: Sequence[float] = (3.0, 3.0),
        convolutions: bool = False,
        classes: int = 1000,
    ) -> None:
        positive(size=size, rounds=rounds, classes=classes)
        super().__init__()
        if any(own % patch for own, patch in zip(sizes, patches, strict=True)):
            raise ValueError(f"patches must divide sizes; got {tuple(patches)} and {tuple(sizes)}")
        self.resize = nn.ModuleList(nn.Identity() if own == size else Resize(size, own) for own in sizes)
        self.embed = nn.ModuleList(_patches(c, p, convolutions) for c, p in zip(widths, patches, strict=True))
        self.cls_token = nn.ParameterList(torch.randn(1, 1, c) * 0.02 for c in widths)
        counts = [(own // patch) ** 2 + 1 for own, patch in zip(sizes, patches, strict=True)]
        self.pos_embed = nn.ParameterList(torch.randn(1, n, c) * 0.02 for n, c in zip(counts, widths, strict=True))
        self.blocks = nn.ModuleList(CrossBlock(widths, depths, heads, mlp_ratios) for _ in range(rounds))
        self.norm = nn.ModuleList(nn.LayerNorm(c, 1e-6) for c in widths)
        self.head = nn.ModuleList(nn.Linear(c, classes) for c in widths)

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b classes"]:
        """Classify."""
        xs = []
        for i, (resize, embed) in enumerate(zip(self.resize, self.embed, strict=True)):
            x = embed(resize(image)).flatten(2).transpose(1, 2)
            xs.append(torch.cat((self.cls_token[i].expand(x.shape[0], -1, -1), x), 1) + self.pos_embed[i])
        for block in self.blocks:
            xs = block(xs)
        logits = [head(norm(x[:, 0])) for head, norm, x in zip(self.head, self.norm, xs, strict=True)]
        return torch.div(logits[0] + logits[1], 2)


MECHANISM = Spec(
    paper=Paper(
        "CrossViT: Cross-Attention Multi-Scale Vision Transformer for Image Classification",
        "Chen et al.",
        "ICCV 2021",
        "2103.14899",
    ),
    build=CrossViT,
    inputs=(Input("image", ("b", 3, "size", "size")),),
    presets={
        "test": Preset(
            {
                "size": 48,
                "sizes": (48, 64),
                "widths": (16, 32),
                "depths": (1, 2),
                "rounds": 1,
                "heads": (2, 4),
                "mlp_ratios": (2, 2),
                "classes": 10,
            }
        ),
        "readme": Preset({"size": 240}),
        "tiny": Preset({"size": 240, "widths": (96, 192), "depths": (1, 4), "heads": (3, 3), "mlp_ratios": (4, 4)}),
        "small": Preset({"size": 240, "widths": (192, 384), "depths": (1, 4), "heads": (6, 6), "mlp_ratios": (4, 4)}),
        "9_dagger": Preset({"size": 240, "convolutions": True}),
    },
    checkpoint={
        r"^patch_embed\.(\d)\.proj\.": r"embed.\1.",
        r"^(pos_embed|cls_token)_": r"\1.",
        r"\.blocks\.(\d)\.(\d+)\.": r".branches.\1.\2.",
        r"\.fusion\.(\d)\.(0\.)?norm1\.": r".norms.\1.",
        r"\.fusion\.(\d)\.(0\.)?attn\.w?(q|k|v|proj)\.": r".fusion.\1.\3.",
        r"\.attn\.": ".attention.",
        r"\.mlp\.fc1\.": ".mlp.0.",
        r"\.mlp\.fc2\.": ".mlp.2.",
    },
)
