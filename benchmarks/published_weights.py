"""Load weights under timm's names into the catalogue's backbones, and compare the logits with timm's in float64.

    ENV/bin/python -m benchmarks.published_weights [--page docs/weights.md]

ENV has timm and PyTorch beside this checkout; nothing is downloaded, since names and formulas do not depend on values.
Weights are drawn at random, batch norms with statistics that matter, so that a name that goes astray is seen.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from attn_export.export.weights import checkpoint
from attn_export.export.weights.randomize import randomize
from attn_export.mechanisms import MECHANISMS
from benchmarks.published.pair import LIMIT
from benchmarks.published.pair import far as distance


@dataclass(frozen=True)
class Pair:
    """A network of timm's and the preset of ours that it fits; ``arguments`` go over those of the preset.

    ``theirs``: by class and attribute, the authors' constants where timm has others.
    """

    timm: str
    entry: str
    preset: str
    size: int = 224
    arguments: tuple[tuple[str, Any], ...] = ()
    theirs: tuple[tuple[str, str, Any], ...] = ()


PAIRS = (
    Pair("resnet18", "resnet", "resnet18", 96),
    Pair("resnet34", "resnet", "resnet34", 96),
    Pair("resnet50", "resnet", "readme", 96),
    Pair("resnext50_32x4d", "resnet", "resnext50", 96),
    Pair("mobilenetv3_small_100", "mobilenetv3", "readme", 96),
    Pair("convmixer_768_32", "convmixer", "convmixer_768_32", 64),
    Pair("convmixer_1024_20_ks9_p14", "convmixer", "convmixer_1024_20", 70),
    Pair("convnextv2_atto", "convnextv2", "readme", 96),
    Pair("convnextv2_nano", "convnextv2", "nano", 96),
    Pair("deit_tiny_distilled_patch16_224", "deit", "readme"),
    Pair("vit_small_patch16_224", "deit", "small", arguments=(("distilled", False),)),
    Pair("cait_xxs24_224", "cait", "readme"),
    Pair("convit_tiny", "convit", "readme"),
    Pair("levit_128s", "levit", "readme"),
    Pair("levit_192", "levit", "levit_192"),
    Pair("efficientformer_l1", "efficientformer", "readme"),
    Pair("pit_ti_224", "pit", "readme"),
    Pair("pit_s_224", "pit", "small"),
    Pair("swin_tiny_patch4_window7_224", "swin", "readme"),
    Pair("swinv2_tiny_window8_256", "swin_v2", "readme", 256),
    Pair("fastvit_t8", "fastvit", "readme", 96),
    Pair("fastvit_s12", "fastvit", "s12", 96),
    Pair("repvit_m0_9", "repvit", "readme", 96),
    Pair("repvit_m1_1", "repvit", "m1_1", 96),
    Pair("mobilenetv4_conv_small", "mobilenetv4", "readme", 96),
    Pair("starnet_s1", "starnet", "readme", 96),
    Pair("starnet_s2", "starnet", "s2", 96),
    Pair("starnet_s3", "starnet", "s3", 96),
    Pair("starnet_s4", "starnet", "s4", 96),
    Pair("efficientvit_b0", "efficientvit", "readme", 96, theirs=(("LiteMLA", "eps", 1e-15),)),
    Pair("efficientvit_b1", "efficientvit", "b1", 96, theirs=(("LiteMLA", "eps", 1e-15),)),
    Pair("ghostnetv2_100", "ghostnetv2", "readme", 96),
    Pair("repghostnet_100", "repghostnet", "readme", 96),
    Pair("mobilevit_xxs", "mobilevit", "readme", 128),
    Pair("mobilevit_xs", "mobilevit", "xs", 128),
    Pair("swinv2_cr_tiny_224", "swin_v2", "cr_tiny"),
    Pair("swinv2_cr_tiny_ns_224", "swin_v2", "cr_tiny_ns"),
    Pair("volo_d1_224", "volo", "readme"),
    Pair("coat_lite_tiny", "coat", "readme"),
    Pair("coat_tiny", "coat", "tiny"),
    Pair("crossvit_9_240", "crossvit", "readme", 240),
    Pair("crossvit_9_dagger_240", "crossvit", "9_dagger", 240),
    Pair("tnt_s_patch16_224", "tnt", "readme"),
    Pair("tnt_s_legacy_patch16_224", "tnt", "legacy"),
)


#: What was measured by benchmarks.published_blocks, whose sources this environment need not have.
BLOCKS = Path(__file__).parent / "published" / "rows.json"
_TOLD = """# Weights of others

    attn-export resnet --preset resnet18 --weights resnet18.safetensors --fuse
    attn-export mobileone --weights mobileone_s1_unfused.pth.tar
    attn-export resnet --preset resnet18 --weights hub:timm/resnet18.a1_in1k
    attn-export se --weights seresnet50.safetensors --weights-key layer1.0.se --variant timm

Weights of timm, torchvision, PyTorch, External-Attention-pytorch and of the authors load under their own names. Whose
they are is told from the names and shapes in the file, and printed (`read as timm (…)`); `attn-export show ENTRY` lists
what an entry knows. Then:

- **Every name finds its place, or nothing is loaded.** What is missing, what is left over and what has another shape is
  an error that names it. Nothing is dropped but counts of batches, and what has no effect, as a bias in front of a
  softmax.
- **Options come from the file**: widths, kernels, numbers of layers, whether there are biases, the ε of a release.
  They go over the preset's. What no tensor tells is the preset's, so choose one that has it: the number of heads where
  queries, keys and values are plain matrices, strides, dilations, temperatures, λ.
- **The same names may mean two functions.** Then the file is refused until `--variant` says which, or for good where
  nothing here computes it: SE with ReLU, SiLU or a hard sigmoid; EfficientNet's ε of 1e-5 or 1e-3; FocalNet with or
  without its division. A guess would load without a word and be wrong.
- **Released code is not always the paper.** The default is the paper's formula; the options of the authors' code are
  set by the file: CBAM's biases and batch norm, BAM's product in place of the sum, EPSANet's one bottleneck for all
  scales, biases and rounded widths in the gates of RepViT and RepGhost, ε of layer norms. `show` says what each is.
- **From elsewhere**: `hub:ORG/NAME[@REVISION][/FILE]` by Hugging Face's client (`pip install 'attn-export[hub]'`), or
  the https address of one file, as timm has them; safetensors before PyTorch's own files, which are read without
  running what they hold. A file whose name ends in a hash is held to it. Without the package or a network: exit code 4.
- A block inside of a network is one part of its file: `--weights-key` takes the front of its names."""


def difference(pair: Pair) -> float:
    """Compute the largest difference of a logit, relative to the largest logit.

    Raises:
        CheckpointError: the names do not become ours.
    """
    import timm  # type: ignore[import-not-found, unused-ignore]

    torch.manual_seed(0)
    theirs = timm.create_model(pair.timm, pretrained=False)
    randomize(theirs)
    theirs.double().eval()
    for kind, attribute, value in pair.theirs:
        for part in theirs.modules():
            if type(part).__name__ == kind:
                setattr(part, attribute, value)
    preset = MECHANISMS[pair.entry].presets[pair.preset]
    ours = MECHANISMS[pair.entry].build(**{**preset.arguments, **dict(pair.arguments)})
    checkpoint.load(ours, theirs.state_dict(), spec=MECHANISMS[pair.entry])
    image = torch.randn(2, 3, pair.size, pair.size, dtype=torch.float64)
    # Some of timm's attention is cast to float32 whatever it was given; here it is to stay in float64.
    with torch.no_grad(), mock.patch.object(torch.Tensor, "float", torch.Tensor.double):
        reference = theirs(image)
    with torch.no_grad():
        came = ours.double().eval()(image)
    return distance(came, reference)


def page(found: dict[Pair, float], version: str, blocks: list[list[str | float]]) -> str:
    """Write the page in Markdown: what a user must know, then both tables."""
    lines = [
        *_TOLD.splitlines(),
        "",
        "## Whole networks",
        "",
        f"Generated by `python -m benchmarks.published_weights`: timm {version}, its names, weights drawn at random;",
        "the difference is that of the logits in float64, relative to the largest. Weights of",
        "External-Attention-pytorch are held to its own outputs in `tests/goldens`, to 1e-10. EfficientViT's attention",
        "has the authors' 1e-15 in its divisor, where timm's has 1e-5.",
        "",
        "| timm | entry | preset | difference |",
        "|---|---|---|---|",
        *(f"| `{pair.timm}` | `{pair.entry}` | `{pair.preset}` | {far:.1e} |" for pair, far in found.items()),
        "",
        "## Blocks, and networks of blocks",
        "",
        "Generated by `python -m benchmarks.published_blocks`: the module of the source is given drawn weights, its",
        "state dict is read as your file would be, and the outputs are compared in float64, relative to the largest.",
        "*read as* is what `--variant` takes; where names leave the function open it must be given. Where a difference",
        "is above 1e-12, the module of the source computes a part of it in float32.",
        "",
        "| entry | read as | module | difference |",
        "|---|---|---|---|",
        *(f"| `{entry}` | `{source}` | {what} | {far:.1e} |" for entry, source, what, far in blocks),
    ]
    return "\n".join(lines) + "\n"


def _found() -> Iterator[tuple[Pair, float]]:
    for pair in PAIRS:
        far = difference(pair)
        print(f"{pair.timm}: {far:.1e}", flush=True)
        yield pair, far


def main() -> None:
    """Compare them all; the exit code is 1 where one differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", type=Path, help="where to write the table")
    asked = parser.parse_args()
    found = dict(_found())
    if asked.page:
        import timm

        asked.page.write_text(
            page(found, timm.__version__, json.loads(BLOCKS.read_text(encoding="utf-8"))), encoding="utf-8"
        )
    sys.exit(any(far > LIMIT for far in found.values()))


if __name__ == "__main__":
    main()
