"""CoaT: a pyramid of transformers with convolutions as positions, whose scales then see each other. Logits.

x = LN(P ∗ map), a class token before it                    b n c, for each of four scales
x = x + E ∗ x;  x = x + A(LN x);  x = x + MLP(LN x)         see ``conv_attention``
a_i = A_i(LN(x_i + E_i ∗ x_i))                              parallel blocks, of the last three scales
x_i = x_i + a_i + Σ_j resize(a_j);  x_i = x_i + MLP(LN x_i) one MLP for the three
y = W (w · [LN(c_2); LN(c_3); LN(c_4)] + b)                 of the class tokens; CoaT-Lite has y = W LN(c_4)
"""

import re
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attn_export.mechanisms._layers.checks import not_negative, positive
from attn_export.mechanisms._layers.co_scale import ParallelBlock, Scale
from attn_export.mechanisms._layers.conv_attention import as_places
from attn_export.mechanisms.spec import Input, Paper, Preset, Spec


class CoaT(nn.Module):
    """A classifier of square images; the defaults are CoaT-Lite Tiny.

    Args:
        size: of the image.
        widths: channels of the four scales; the last three are equal where ``parallel`` is not 0.
        depths: serial blocks of the scales.
        parallel: number of parallel blocks; 0 is CoaT-Lite.
        heads: number of heads, which share three kernel sizes as 2 : 3 : 3.
        mlp_ratios: width of the MLPs over the channels, by scale.
        patch: of the squares that the image is cut into.
        classes: outputs.

    Raises:
        ValueError: ``size`` is not a multiple of 8 patches, ``heads`` is not 8 or does not divide the channels, or the
            scales of parallel blocks differ.
    """

    def __init__(
        self,
        size: int = 224,
        widths: Sequence[int] = (64, 128, 256, 320),
        depths: Sequence[int] = (2, 2, 2, 2),
        parallel: int = 0,
        heads: int = 8,
        mlp_ratios: Sequence[float] = (8.0, 8.0, 4.0, 4.0),
        patch: int = 4,
        classes: int = 1000,
    ) -> None:
        positive(size=size, patch=patch, classes=classes)
        not_negative(parallel=parallel)
        super().__init__()
        if size % (8 * patch):
            raise ValueError(f"size must be a multiple of {8 * patch}; got {size}")
        if heads != 8 or any(width % heads for width in widths):
            raise ValueError(f"heads must be 8 and divide all widths; got {heads} and {tuple(widths)}")
        if parallel and (len(set(widths[1:])) > 1 or len(set(mlp_ratios[1:])) > 1):
            raise ValueError(f"parallel blocks need three equal scales; got {tuple(widths)} and {tuple(mlp_ratios)}")
        before, side, scales = 3, size, list[Scale]()
        for level, (width, depth, ratio) in enumerate(zip(widths, depths, mlp_ratios, strict=True)):
            cut = 2 if level else patch
            side //= cut
            scales.append(Scale(before, width, cut, side, depth, heads, ratio))
            before = width
        self.scales = nn.ModuleList(scales)
        blocks = (ParallelBlock(scales[1:], before, heads, mlp_ratios[-1]) for _ in range(parallel))
        self.parallel = nn.ModuleList(blocks)
        self.norms = nn.ModuleList(nn.LayerNorm(width, 1e-6) for width in (widths[1:] if parallel else widths[-1:]))
        self.aggregate = nn.Linear(3, 1) if parallel else None
        self.head = nn.Linear(before, classes)

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b classes"]:
        """Classify."""
        x, xs = image, list[Tensor]()
        for level, scale in enumerate(self.scales):
            x = scale(as_places(x, self.scales[level - 1].side) if level else x)  # type: ignore[arg-type]
            xs.append(x)
        xs = xs[-len(self.norms) :]
        for block in self.parallel:
            xs = block([scale.cpe(x) for scale, x in zip(self.scales[1:], xs, strict=True)])  # type: ignore[operator]
        tokens = [norm(x[:, 0]) for norm, x in zip(self.norms, xs, strict=True)]
        x = tokens[-1] if self.aggregate is None else self.aggregate(torch.stack(tokens, -1))[..., 0]
        y: Tensor = self.head(x)
        return y


def _by_scale(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Count the scales from 0, and leave out what the authors' network has and never reads."""
    parallel = "aggregate.weight" in state
    named = {}
    for name, value in state.items():
        new = re.sub(r"^([a-z_]+)(\d)(?=$|\.)", lambda m: f"scales.{int(m[2]) - 1}.{m[1]}", name)
        new = re.sub(r"^(parallel_blocks\.\d+\.)factoratt_crpe(\d)", lambda m: f"{m[1]}attentions.{int(m[2]) - 2}", new)
        new = re.sub(r"^(parallel_blocks\.\d+\.)norm([12])(\d)", lambda m: f"{m[1]}norms{m[2]}.{int(m[3]) - 2}", new)
        new = re.sub(r"^scales\.(\d)\.norm\.", lambda m: f"norms.{int(m[1]) - (1 if parallel else 3)}.", new)
        named[new] = value.squeeze(-1) if name == "aggregate.weight" else value
    return named


MECHANISM = Spec(
    paper=Paper("Co-Scale Conv-Attentional Image Transformers", "Xu et al.", "ICCV 2021", "2104.06399"),
    build=CoaT,
    inputs=(Input("image", ("b", 3, "size", "size")),),
    presets={
        "test": Preset(
            {
                "size": 64,
                "widths": (16, 16, 32, 32),
                "depths": (1, 1, 1, 1),
                "mlp_ratios": (2, 2, 2, 2),
                "classes": 10,
            }
        ),
        "readme": Preset({"size": 224}),
        "lite_mini": Preset({"size": 224, "widths": (64, 128, 320, 512)}),
        "tiny": Preset({"size": 224, "widths": (152, 152, 152, 152), "parallel": 6, "mlp_ratios": (4, 4, 4, 4)}),
        "mini": Preset({"size": 224, "widths": (152, 216, 216, 216), "parallel": 6, "mlp_ratios": (4, 4, 4, 4)}),
    },
    variants={
        "parallel": Preset(
            {
                "size": 64,
                "widths": (16, 16, 16, 16),
                "depths": (1, 1, 1, 1),
                "parallel": 1,
                "mlp_ratios": (2, 2, 2, 2),
                "classes": 10,
            }
        ),
    },
    convert=_by_scale,
    checkpoint={
        r"^norms\.-\d\.": None,
        r"serial_blocks\.\d+\.cpe\.": None,
        r"^parallel_blocks\.\d+\.(mlp[34]|cpes|crpes)\.": None,
        r"\.patch_embed\.proj\.": ".embed.",
        r"\.patch_embed\.norm\.": ".embed_norm.",
        r"\.serial_blocks\.": ".blocks.",
        r"\.factoratt_crpe\.": ".attention.",
        r"^parallel_blocks\.": "parallel.",
        r"\.mlp2?\.fc1\.": ".mlp.0.",
        r"\.mlp2?\.fc2\.": ".mlp.2.",
    },
)
