"""MLP-Mixer: mix patches with one MLP and channels with another, each behind a layer norm, each residual.

u = x + (W2 · gelu(W1 · LN(x)ᵀ))ᵀ       b n c    over the n patches
y = u + W4 · gelu(W3 · LN(u))           b n c    over the c channels
"""

from collections.abc import Mapping

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import positive
from attn_export.mechanisms.spec import Dim, Input, Paper, Preset, Spec


class Mlp(nn.Module):
    """Linear, GELU, linear, on the last axis."""

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        self.widen = nn.Linear(features, hidden)
        self.narrow = nn.Linear(hidden, features)

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        """Apply both layers."""
        y: Tensor = self.narrow(F.gelu(self.widen(x)))
        return y


class MixerBlock(nn.Module):
    """One mixer layer."""

    def __init__(
        self, patches: int, channels: int, patch_hidden: int, channel_hidden: int, epsilon: float = 1e-5
    ) -> None:
        super().__init__()
        self.patch_norm = nn.LayerNorm(channels, epsilon)
        self.patch_mlp = Mlp(patches, patch_hidden)
        self.channel_norm = nn.LayerNorm(channels, epsilon)
        self.channel_mlp = Mlp(channels, channel_hidden)

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        """Mix patches, then channels."""
        x = x + self.patch_mlp(self.patch_norm(x).transpose(1, 2)).transpose(1, 2)
        y: Tensor = x + self.channel_mlp(self.channel_norm(x))
        return y


class MlpMixer(nn.Module):
    """Patches, mixer blocks, layer norm, mean, linear. Logits.

    Args:
        size: rows and columns of the image.
        patch: rows and columns of a patch.
        channels: features of a patch.
        patch_hidden: hidden width of the MLP over patches.
        channel_hidden: hidden width of the MLP over channels.
        depth: number of blocks.
        classes: outputs.
        epsilon: of the norms; the released weights were trained with 1e-6.

    Raises:
        ValueError: ``patch`` does not divide ``size``.
    """

    def __init__(
        self,
        size: int = 20,
        patch: int = 5,
        channels: int = 32,
        patch_hidden: int = 24,
        channel_hidden: int = 40,
        depth: int = 2,
        classes: int = 10,
        epsilon: float = 1e-5,
    ) -> None:
        positive(
            size=size,
            patch=patch,
            channels=channels,
            patch_hidden=patch_hidden,
            channel_hidden=channel_hidden,
            depth=depth,
            classes=classes,
        )
        super().__init__()
        if size % patch:
            raise ValueError(f"patch must divide size; {patch} does not divide {size}")
        patches = (size // patch) ** 2
        self.embed = nn.Conv2d(3, channels, patch, patch)
        self.blocks = nn.Sequential(
            *(MixerBlock(patches, channels, patch_hidden, channel_hidden, epsilon) for _ in range(depth))
        )
        self.norm = nn.LayerNorm(channels, epsilon)
        self.head = nn.Linear(channels, classes)

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b classes"]:
        """Classify images."""
        tokens = self.embed(x).flatten(2).transpose(1, 2)
        y: Tensor = self.head(self.norm(self.blocks(tokens)).mean(1))
        return y


def one_norm_to_two(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Load the one layer norm that a block of the original has for both mixings (paper: two) into both."""
    both = {
        name.replace(".ln.", f".{norm}."): value
        for name, value in state.items()
        if ".ln." in name
        for norm in ("patch_norm", "channel_norm")
    }
    return {**{name: value for name, value in state.items() if ".ln." not in name}, **both}


MECHANISM = Spec(
    paper=Paper("MLP-Mixer: An all-MLP Architecture for Vision", "Tolstikhin et al.", "NeurIPS 2021", "2105.01601"),
    build=MlpMixer,
    inputs=(Input("x", ("b", 3, "size", "size")),),
    dynamic=(Dim("b"),),
    presets={
        "test": Preset({"size": 20}),
        "readme": Preset(
            {
                "size": 40,
                "patch": 10,
                "channels": 512,
                "patch_hidden": 32,
                "channel_hidden": 1024,
                "depth": 10,
                "classes": 1000,
            }
        ),
    },
    convert=one_norm_to_two,
    checkpoint={
        r"^embd\.": "embed.",
        r"^mlp_blocks\.": "blocks.",
        r"\.tokens_mlp_block\.": ".patch_mlp.",
        r"\.channels_mlp_block\.": ".channel_mlp.",
        r"\.fc1\.": ".widen.",
        r"\.fc2\.": ".narrow.",
        r"^ln\.": "norm.",
        r"^fc\.": "head.",
    },
)
