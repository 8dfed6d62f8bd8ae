"""ResMLP: a linear layer across patches and an MLP across channels, each between affine scalings, residual.

u = x + s₁ * (A · Aff(x))ᵀ                   b n c    A: n × n
y = u + s₂ * W2 · gelu(W1 · Aff(u))          b n c
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms.spec import Dim, Input, Paper, Preset, Spec


class Affine(nn.Module):
    """Scale and shift each channel: what ResMLP has for normalisation."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels))
        self.shift = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        """Scale and shift."""
        return x * self.scale + self.shift


class ResMLPBlock(nn.Module):
    """One layer.

    Args:
        patches: tokens.
        channels: features of a token.
        expand: how many times wider the MLP's hidden layer is.
        scale: start of both layer scales (paper: 0.1 to 1e-6, smaller the deeper the network).
    """

    def __init__(self, patches: int, channels: int, expand: int = 4, scale: float = 0.1) -> None:
        super().__init__()
        self.before_patches, self.before_channels = Affine(channels), Affine(channels)
        self.across_patches = nn.Linear(patches, patches)
        self.widen = nn.Linear(channels, expand * channels)
        self.narrow = nn.Linear(expand * channels, channels)
        self.patch_scale = nn.Parameter(torch.full((channels,), scale))
        self.channel_scale = nn.Parameter(torch.full((channels,), scale))

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        """Mix patches, then channels."""
        u = x + self.patch_scale * self.across_patches(self.before_patches(x).transpose(1, 2)).transpose(1, 2)
        y: Tensor = u + self.channel_scale * self.narrow(F.gelu(self.widen(self.before_channels(u))))
        return y


class ResMLP(nn.Module):
    """Patches, layers, a last affine, mean, linear. Logits.

    Args:
        size: rows and columns of the image.
        patch: rows and columns of a patch.
        channels: features of a patch.
        depth: number of layers.
        expand: how many times wider the MLP's hidden layer is.
        classes: outputs.

    Raises:
        ValueError: ``patch`` does not divide ``size``.
    """

    def __init__(
        self, size: int = 32, patch: int = 8, channels: int = 16, depth: int = 2, expand: int = 4, classes: int = 10
    ) -> None:
        positive(size=size, patch=patch, channels=channels, depth=depth, expand=expand, classes=classes)
        super().__init__()
        if size % patch:
            raise ValueError(f"patch must divide size; {patch} does not divide {size}")
        self.embed = nn.Conv2d(3, channels, patch, patch)
        self.blocks = nn.Sequential(*(ResMLPBlock((size // patch) ** 2, channels, expand) for _ in range(depth)))
        self.norm = Affine(channels)
        self.head = nn.Linear(channels, classes)

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b classes"]:
        """Classify images."""
        tokens = self.embed(x).flatten(2).transpose(1, 2)
        y: Tensor = self.head(self.norm(self.blocks(tokens)).mean(1))
        return y


def flat(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Drop the leading axes of length one that the original's scales have."""
    return {
        key: value.flatten() if value.ndim == 3 and value.shape[:2] == (1, 1) else value for key, value in state.items()
    }


MECHANISM = Spec(
    paper=Paper("ResMLP: Feedforward networks for image classification", "Touvron et al.", "2021", "2105.03404"),
    build=ResMLP,
    inputs=(Input("x", ("b", 3, "size", "size")),),
    dynamic=(Dim("b"),),
    presets={
        "test": Preset({"size": 32}),
        "readme": Preset({"size": 14, "patch": 7, "channels": 128, "depth": 4, "classes": 1000}),
    },
    convert=flat,
    # NOTE only the two halves of a block are right there (put together); its network overwrites its own layers.
    checkpoint={
        r"^0\.scale$": "patch_scale",
        r"^0\.affine\.g$": "before_patches.scale",
        r"^0\.affine\.b$": "before_patches.shift",
        r"^0\.fn\.": "across_patches.",
        r"^1\.scale$": "channel_scale",
        r"^1\.affine\.g$": "before_channels.scale",
        r"^1\.affine\.b$": "before_channels.shift",
        r"^1\.fn\.0\.": "widen.",
        r"^1\.fn\.2\.": "narrow.",
    },
)
