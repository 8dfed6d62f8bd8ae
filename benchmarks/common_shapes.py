"""Measure every entry of the catalogue at common shapes, beside a 3 x 3 convolution of the same shape.

python -m benchmarks.common_shapes [--only ENTRY ...] [--shape SHAPE ...] [--again] [--limit SECONDS]

The model is what is deployed: fused, float32, of fixed sizes. Two sessions of it and two of the yardstick take turns in
one process, in short blocks of CPU time and a random order, so that load strikes both alike; the ratio is the median
over the rounds with its distribution-free interval. It holds for one process: where memory happens to lie in it is not
averaged. Each row is on the disk before the next is begun, and a later run goes on with those that lack.
"""

from __future__ import annotations

import argparse
import math
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from datetime import datetime, timezone
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from attn_export.deploy_tests.backend import Options, Run
from attn_export.deploy_tests.backends import DEFAULT, opened
from attn_export.deploy_tests.latency.comparison import Rules, contrasts
from attn_export.deploy_tests.latency.comparison_worker import interleave
from attn_export.deploy_tests.latency.statistics import Interval, median
from attn_export.deploy_tests.machine import environment
from attn_export.errors import AttnExportError, UsageError
from attn_export.export.construct import construct
from attn_export.export.graph.activations import peak_bytes
from attn_export.export.graph.cost import costs
from attn_export.export.in_memory import from_module
from attn_export.export.onnx.save import save
from attn_export.mechanisms import MECHANISMS
from attn_export.mechanisms.at_shape import Layout, at_shape, inside, layout_of
from attn_export.mechanisms.spec import Preset, Spec, call
from attn_export.pipeline import stages
from attn_export.pipeline.options import BuildOptions
from attn_export.tools.common_shapes import NETWORKS, SHAPES, ShapeRow, append, read, write
from attn_export.types import Feeds

#: Rounds and seconds of CPU time a block: of single layers, and of whole networks, of which a block is one run.
LAYER, NETWORK = Rules(rounds=15, block=0.02), Rules(rounds=9, block=0.05)
#: Arguments by the channels where the presets are demonstrations: what the papers take.
PUBLISHED: Mapping[str, Callable[[int], dict[str, Any]]] = {
    "axial_image_transformer": lambda _: {"depth": 1},
    "dbb_transform_5": lambda _: {"padding": 1},
    "external": lambda _: {"memory": 64},
    "halo": lambda c: {"block": 7, "halo": 3, "head_channels": c // 4},
    "involution": lambda c: {"kernel": 7, "groups": c // 16},
    "mbconv": lambda _: {"expand": 4},
    "mlp_mixer": lambda _: {"patch": 16, "patch_hidden": 256, "channel_hidden": 2048, "depth": 8},
    "mobilevit_attention": lambda _: {"dim": 144, "patch": 2, "depth": 2, "heads": 4},
    "resmlp": lambda _: {"patch": 16, "channels": 384, "depth": 12},
    "se": lambda _: {"reduction": 16},
    "sk": lambda _: {"reduction": 16},
}


def configured(name: str) -> tuple[Spec, Preset, Layout]:
    """Give an entry, the preset that the command line takes, and the kind of its tensors.

    Raises:
        UsageError: it takes neither maps, tokens nor images.
    """
    spec = MECHANISMS[name]
    base = spec.configurations[spec.named(name)]
    return spec, base, layout_of(spec, base)


def settings_at(name: str, shape: str) -> tuple[Preset, tuple[int, ...], int]:
    """Give an entry's preset at the shape of a comparison, that shape in its own layout, and how many inputs have it.

    Raises:
        UsageError: it has no such layout, or a dimension of it cannot have that size.
    """
    spec, base, layout = configured(name)
    sizes = inside(layout, parsed(shape))
    more = PUBLISHED[name](sizes[1] if layout == "map" else sizes[-1]) if name in PUBLISHED else {}
    return at_shape(spec, base, sizes, more), sizes, len(base.inputs or spec.inputs)


def shapes_of(layout: Layout) -> tuple[str, ...]:
    """Say where entries of a layout are measured.

    >>> shapes_of("tokens"), shapes_of("channels last")
    (('1x196x384',), ('2x64x56x56', '2x256x14x14'))
    """
    return {"tokens": SHAPES[2:3], "network": SHAPES[3:]}.get(layout, SHAPES[:2])


def parsed(shape: str) -> tuple[int, ...]:
    """Read the shape of a comparison.

    >>> parsed("2x64x56x56")
    (2, 64, 56, 56)
    """
    return tuple(int(size) for size in shape.split("x"))


class Graph:
    """A module as it is deployed, in a file, with its inputs."""

    def __init__(self, module: nn.Module, shape: tuple[int, ...], count: int, folder: Path) -> None:
        torch.manual_seed(0)
        subject = from_module(module, [torch.randn(shape) for _ in range(count)], randomize_weights=True)
        self.model = stages.build(subject, BuildOptions(fuse=True, certify=False)).model
        self.feeds: Feeds = {name: value.numpy() for name, value in subject.example().items()}
        self.path = folder / f"{len(list(folder.iterdir()))}.onnx"
        save(self.model.model, self.path)

    def opened(self, stack: ExitStack) -> Run:
        """Open a session that runs on the own inputs, whatever it is given."""
        run = stack.enter_context(opened(DEFAULT, self.path, Options(threads=1)))
        return lambda _: run(self.feeds)


def compared(one: Graph, other: Graph, rules: Rules) -> tuple[Interval, float]:
    """Give the ratio of the times of two, and of each against itself."""
    with ExitStack() as stack:
        runs = [graph.opened(stack) for graph in (one, one, other, other)]
        times = interleave(runs, {}, rules, seed=0)
    rounds, (_, control) = np.log(times), contrasts(times)
    effect = median(rounds[:, :2].mean(1) - rounds[:, 2:].mean(1))
    low, middle, high = (math.exp(value) for value in (effect.low, effect.estimate, effect.high))
    return Interval(middle, low, high), math.exp(control)


def measured(name: str, shape: str, folder: Path, yardstick: Callable[[str], Graph]) -> ShapeRow:
    """Measure one entry at one shape; what it cannot take becomes the row's reason."""
    made: dict[str, Any] = {"date": datetime.now(timezone.utc).date().isoformat()}
    try:
        settings, sizes, inputs = settings_at(name, shape)
        assert settings.build is not None
        made["call"] = call(settings.build.__name__, settings.arguments)[:300]
        module = construct(settings.build, settings.arguments, 0)
        graph = Graph(module, sizes, inputs, folder)
    except (AttnExportError, RuntimeError, AssertionError, ValueError) as error:
        why = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        return ShapeRow(name, shape, why_not=why[:200], **made)
    known = {key: value.shape for key, value in graph.feeds.items()}
    ratio, control = compared(graph, yardstick(shape), NETWORK if shape == NETWORKS else LAYER)
    return ShapeRow(
        name,
        shape,
        parameters=sum(one.numel() for one in module.parameters()),
        macs=sum(row.macs for row in costs(graph.model.model, known)),
        peak_bytes=peak_bytes(graph.model.model, known),
        nodes=graph.model.nodes,
        ratio=round(ratio.estimate, 4),
        low=round(ratio.low, 4),
        high=round(ratio.high, 4),
        control=round(control, 4),
        machine=_machine(),
        load=round(os.getloadavg()[0], 1),
        **made,
    )


def _yardstick(shape: str, folder: Path) -> Graph:
    """Make the 3 x 3 convolution of a shape: for tokens, on the square map that they are of; ResNet-50 for images."""
    if shape == NETWORKS:
        spec, base, _ = configured("resnet")
        return Graph(construct(spec.build, base.arguments, 0), parsed(shape), 1, folder)
    sizes = parsed(shape)
    if len(sizes) == 3:
        side = math.isqrt(sizes[1])
        sizes = (sizes[0], sizes[2], side, side)
    return Graph(nn.Conv2d(sizes[1], sizes[1], 3, padding=1).eval(), sizes, 1, folder)


@cache
def _machine() -> str:
    found = environment.describe()
    return f"{found['processor']}, {found['cores']} cores, ONNX Runtime {found['libraries']['onnxruntime']}, one thread"


def wanted(names: list[str], shapes: list[str]) -> list[tuple[str, str]]:
    """List what can be measured, shape by shape; entries that take neither maps, tokens nor images are left out."""
    found = []
    for name in names or MECHANISMS.entries:
        try:
            _, _, layout = configured(name)
        except UsageError:
            continue
        found += [(name, shape) for shape in shapes_of(layout) if not shapes or shape in shapes]
    order = (SHAPES[1], SHAPES[2], SHAPES[0], SHAPES[3])
    return sorted(found, key=lambda pair: order.index(pair[1]))


def main() -> None:
    """Measure what lacks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=[], metavar="ENTRY", help="these entries alone")
    parser.add_argument("--shape", nargs="*", default=[], choices=SHAPES, help="these shapes alone")
    parser.add_argument("--again", action="store_true", help="measure what has a row, too")
    parser.add_argument("--limit", type=float, default=math.inf, help="begin no row after so many seconds")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    known = {} if asked.again else read()
    left = [pair for pair in wanted(asked.only, asked.shape) if pair not in known]
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        yardstick = cache(lambda shape: _yardstick(shape, folder))
        for count, (name, shape) in enumerate(left):
            if time.monotonic() - began > asked.limit:
                break
            row = measured(name, shape, folder, yardstick)
            append(row)
            print(
                f"[{count + 1}/{len(left)}] {name} {shape}: {row.why_not or row.ratio} {row.low} {row.high}", flush=True
            )
    write(read().values())


if __name__ == "__main__":
    main()
