"""A vision transformer: squares of an image become tokens, blocks mix them, and the first token is classified.

x = [class; P ∗ image] + position      b 1+n c
x = block(x)                           any blocks that keep the shape
y = W LN(x)_0                          b classes
"""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive


class Patches(nn.Module):
    """The start of a vision transformer: squares of an image, a class token, positions.

    Args:
        size: of the image.
        patch: of the squares it is cut into.
        channels: of the tokens.
        tokens: that have positions, too, and stand before those of the image.

    Raises:
        ValueError: ``patch`` does not divide ``size``.
    """

    def __init__(self, size: int, patch: int, channels: int, tokens: int = 0) -> None:
        positive(size=size, patch=patch, channels=channels)
        super().__init__()
        if size % patch:
            raise ValueError(f"patch must divide size; {patch} does not divide {size}")
        self.embed = nn.Conv2d(3, channels, patch, patch)
        self.cls_token = nn.Parameter(torch.randn(1, 1, channels) * 0.02)
        self.pos_embed = nn.Parameter(torch.randn(1, (size // patch) ** 2 + tokens, channels) * 0.02)

    def patches(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n c"]:
        """Cut an image; positions are not added yet."""
        found: Tensor = self.embed(image).flatten(2).transpose(1, 2)
        return found


class ViT(Patches):
    """A classifier of square images.

    Args:
        size: of the image.
        patch: of the squares it is cut into.
        channels: of the tokens.
        blocks: what mixes the tokens.
        classes: outputs.
        tokens: that stand before those of the image.

    Raises:
        ValueError: ``patch`` does not divide ``size``.
    """

    def __init__(
        self, size: int, patch: int, channels: int, blocks: Iterable[nn.Module], classes: int, tokens: int = 1
    ) -> None:
        positive(classes=classes)
        super().__init__(size, patch, channels, tokens)
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.LayerNorm(channels, 1e-6)
        self.head = nn.Linear(channels, classes)

    def first(self) -> Float[Tensor, "1 t c"]:
        """Give the tokens that stand before those of the image."""
        return self.cls_token

    def tokens(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n c"]:
        """Cut, mix and normalise."""
        patches = self.patches(image)
        first = self.first().expand(patches.shape[0], -1, -1)
        mixed: Tensor = self.norm(self.blocks(torch.cat([first, patches], 1) + self.pos_embed))
        return mixed

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b classes"]:
        """Classify."""
        y: Tensor = self.head(self.tokens(image)[:, 0])
        return y
