"""Whether border maps pay: blocks whose 1×1 has a bias before a zero padding, without and with ``--border-maps``.

    python -m benchmarks.border_maps [NAME …] [--rounds 30]

Both are fused; only the border maps differ. Maps ``chosen`` are what the ``cpu`` profile takes; ``forced`` nearly all
that are exact and save work, to see what it refuses. Interleaved, one thread, with a control, as in ``fusion.py``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from math import inf

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from attn_export.reparam.adapters.onnx.read import OnnxReader
from attn_export.reparam.adapters.onnx.write import Writer
from attn_export.reparam.fuse_onnx import fuse_graph
from attn_export.reparam.planning.cost import PROFILES, CostProfile, node_work
from attn_export.reparam.planning.plan import Planner
from benchmarks.fusion import compare, export, ratio

#: Work, and next to nothing for nodes and bytes: nearly every map that saves a kernel.
FORCED = CostProfile(dense=1e9, depthwise=1e9, bandwidth=inf, constant=1e-8, lanes=1)


class EcbBlock(nn.Module):
    """ECBSR's block as it is written without care: every 1×1 has a bias, every 3×3 behind it pads with zeros."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.plain = nn.Conv2d(channels, channels, 3, padding=1)
        self.chains = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channels, wide, 1), nn.Conv2d(wide, channels, 3, padding=1, groups=groups))
            for wide, groups in ((2 * channels, 1), *((channels, channels),) * 3)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Sum the branches."""
        y: Tensor = self.plain(x)
        for chain in self.chains:
            y = y + chain(x)
        return y


def ecb(channels: int, depth: int) -> nn.Module:
    """Blocks with an activation behind each."""
    return nn.Sequential(*(nn.Sequential(EcbBlock(channels), nn.ReLU()) for _ in range(depth)))


def dbb(channels: int) -> nn.Module:
    """Build a diverse branch block's 1×1 → k×k branch beside its k×k."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.plain = nn.Conv2d(channels, channels, 3, padding=1)
            self.chain = nn.Sequential(nn.Conv2d(channels, channels, 1), nn.Conv2d(channels, channels, 3, padding=1))

        def forward(self, x: Tensor) -> Tensor:
            """Sum both."""
            out: Tensor = self.plain(x) + self.chain(x)
            return out

    return nn.Sequential(Block(), nn.ReLU(), Block(), nn.ReLU())


def pair(inputs: int, wide: int, outputs: int, *, groups: int = 1) -> nn.Module:
    """Build a 1×1 with a bias and a padded 3×3, three times, activations between the pairs."""
    pairs = [
        (nn.Conv2d(inputs, wide, 1), nn.Conv2d(wide, outputs, 3, padding=1, groups=groups), nn.ReLU(), back)
        for back in (nn.Conv2d(outputs, inputs, 1), nn.Conv2d(outputs, inputs, 1))
    ]
    return nn.Sequential(*(layer for layers in pairs for layer in layers))


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, int, int]]] = {
    "ecb-16-64": (lambda: ecb(16, 3), (16, 64, 64)),
    "ecb-32-128": (lambda: ecb(32, 2), (32, 128, 128)),
    "ecb-64-32": (lambda: ecb(64, 3), (64, 32, 32)),
    "dbb-64-56": (lambda: dbb(64), (64, 56, 56)),
    "dbb-256-14": (lambda: dbb(256), (256, 14, 14)),
    "wide-32-64": (lambda: pair(32, 128, 32), (32, 64, 64)),
    "same-32-64": (lambda: pair(32, 32, 32), (32, 64, 64)),
    "narrow-64-32": (lambda: pair(64, 16, 64), (64, 32, 32)),
    "small-4-96": (lambda: pair(4, 4, 4), (4, 96, 96)),
    "stem-3-112": (lambda: pair(3, 3, 32), (3, 112, 112)),
    "depthwise-32-64": (lambda: pair(32, 32, 32, groups=32), (32, 64, 64)),
}


def seconds(reader: OnnxReader, planner: Planner) -> tuple[float, onnx.ModelProto, int]:
    """Return the estimate of what is planned, the model, and how many maps it has."""
    plan = planner.run(reader.graph)
    works = [node_work(plan.graph, node) for node in plan.graph.nodes]
    maps = sum("border" in merge.notes for merge in plan.merges)
    return sum(w.seconds(PROFILES["cpu"]) for w in works if w), Writer(reader, plan.graph).write(), maps


def measure(name: str, rounds: int) -> str:
    """One row of the table."""
    torch.manual_seed(0)
    build, shape = CASES[name]
    model = export(build().eval(), torch.randn(1, *shape))
    hints = {model.graph.input[0].name: (1, *shape)}
    reader = OnnxReader(model, hints)
    cpu = PROFILES["cpu"]
    plain = seconds(reader, Planner(cpu))
    chosen = seconds(reader, Planner(cpu, border_maps=True))
    forced = seconds(reader, Planner(FORCED, any_work=True, border_maps=True))
    feeds = [{reader.graph.inputs[0]: np.random.default_rng(0).standard_normal((1, *shape)).astype(np.float32)}]
    worst = fuse_graph(model, border_maps=True, cases=feeds).certificate.worst
    models = {"plain": plain[1], "chosen": chosen[1], "forced": forced[1], "control": plain[1]}
    times = compare(models, rounds)
    cells = []
    for what, (estimate, _, maps) in (("chosen", chosen), ("forced", forced)):
        came = ratio(times[what], times["plain"])
        cells.append(f"{maps} | {estimate / plain[0]:.2f} | {came[0]:.3f} [{came[1]:.3f}, {came[2]:.3f}]")
    control = ratio(times["control"], times["plain"])
    before = 1e3 * float(np.median(times["plain"]))
    return f"| {name} | {before:.2f} ms | {' | '.join(cells)} | {control[0]:.3f} | {worst:.1e} |"


def main() -> None:
    """Print the table row by row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[[], *CASES])
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args()
    columns = ["maps chosen", "estimated", "measured", "maps forced", "estimated", "measured"]
    print(f"| net | fused, no maps | {' | '.join(columns)} | control | worst |")
    print("|---" * 10 + "|")
    for name in options.names or CASES:
        print(measure(name, options.rounds), flush=True)


if __name__ == "__main__":
    main()
