"""Measure fusing on whole networks: nodes, time in ONNX Runtime relative to un-fused, and what the pass costs.

    python -m benchmarks.fusion [NAME …] [--rounds 30] [--growth]

Times are CPU time of one thread in interleaved blocks of random order, with a second session of the un-fused graph
as control: where the control leaves 1, the ratio says nothing.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
import warnings
from collections import Counter

import numpy as np
import onnx
import onnxruntime as ort
import torch
from torch import nn

from attn_export.reparam.fuse_onnx import fuse_graph
from benchmarks.networks import NETWORKS, build


def export(model: nn.Module, x: torch.Tensor) -> onnx.ModelProto:
    """Export with the default exporter, optimised, un-fused."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(model, (x,), dynamo=True, verbose=False)
    assert program is not None
    return program.model_proto


def session(model: onnx.ModelProto) -> ort.InferenceSession:
    """Open a session with all optimisations and one thread."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def compare(models: dict[str, onnx.ModelProto], rounds: int, block: float = 0.05) -> dict[str, list[float]]:
    """Time sessions in interleaved blocks; one CPU time for each round and name."""
    sessions = {name: session(model) for name, model in models.items()}
    feeds = {}
    rng = np.random.default_rng(0)
    for info in next(iter(sessions.values())).get_inputs():
        feeds[info.name] = rng.standard_normal(info.shape).astype(np.float32)
    counts = {}
    for name, opened in sessions.items():
        for _ in range(3):
            opened.run(None, feeds)
        start = time.process_time()
        opened.run(None, feeds)
        counts[name] = max(1, int(block / max(time.process_time() - start, 1e-6)))
    times: dict[str, list[float]] = {name: [] for name in sessions}
    order = list(sessions)
    for _ in range(rounds):
        random.shuffle(order)
        for name in order:
            start = time.process_time()
            for _ in range(counts[name]):
                sessions[name].run(None, feeds)
            times[name].append((time.process_time() - start) / counts[name])
    return times


def ratio(a: list[float], b: list[float]) -> tuple[float, float, float]:
    """Compute the median of ratios round by round with its 95 % interval by bootstrap."""
    logs = np.log(np.array(a) / np.array(b))
    rng = np.random.default_rng(0)
    medians = np.median(rng.choice(logs, (2000, len(logs))), axis=1)
    low, high = np.exp(np.quantile(medians, [0.025, 0.975]))
    return float(np.exp(np.median(logs))), float(low), float(high)


def measure(name: str, rounds: int, profile: str) -> str:
    """One row of the table."""
    torch.set_num_threads(1)
    model = export(build(name), torch.randn(NETWORKS[name].shape))
    start = time.process_time()
    fusion = fuse_graph(model, fuse_cost=profile, certificate=False)
    seconds = time.process_time() - start
    whole = fuse_graph(model, fuse_cost=profile).certificate.worst
    before, after = (Counter(n.op_type for n in m.graph.node) for m in (model, fusion.model))
    times = compare({"plain": model, "fused": fusion.model, "control": model}, rounds)
    fused, control = ratio(times["fused"], times["plain"]), ratio(times["control"], times["plain"])
    return (
        f"| {name} | {sum(before.values())} → {sum(after.values())} | {before['Conv']} → {after['Conv']} "
        f"| {before['BatchNormalization']} → {after['BatchNormalization']} "
        f"| {1e3 * statistics.median(times['plain']):.2f} ms | {fused[0]:.3f} [{fused[1]:.3f}, {fused[2]:.3f}] "
        f"| {control[0]:.3f} [{control[1]:.3f}, {control[2]:.3f}] | {seconds:.2f} s | {whole:.1e} |"
    )


def growth() -> list[str]:
    """How the pass grows: stacks of MobileOne blocks of 100 to 10,000 nodes."""
    from benchmarks.networks import Branches

    rows = ["| nodes | pass, CPU | per node |", "|---|---|---|"]
    block = export(
        nn.Sequential(Branches(16, 16, 3, 1, 16, 4), Branches(16, 16, 1, 1, 1, 4)).eval(), torch.randn(1, 16, 8, 8)
    )
    for count in (5, 50, 200, 500):
        model = stacked(block, count)
        start = time.process_time()
        fuse_graph(model, certificate=False)
        seconds = time.process_time() - start
        nodes = len(model.graph.node)
        rows.append(f"| {nodes} | {seconds:.2f} s | {1e3 * seconds / nodes:.2f} ms |")
    return rows


def stacked(block: onnx.ModelProto, count: int) -> onnx.ModelProto:
    """Repeat a model with one input and one output behind itself, sharing its weights."""
    model = onnx.ModelProto()
    model.CopyFrom(block)
    weights = {t.name for t in block.graph.initializer}
    first, last = block.graph.input[0].name, block.graph.output[0].name
    del model.graph.node[:]
    del model.graph.value_info[:]
    before = first
    for number in range(count):
        names = {first: before}
        for node in block.graph.node:
            new = model.graph.node.add()
            new.CopyFrom(node)
            new.name = f"{node.name}_{number}"
            for n, name in enumerate(node.input):
                new.input[n] = name if name in weights or not name else names[name]
            for n, name in enumerate(node.output):
                names[name] = last if name == last and number == count - 1 else f"{name}_{number}"
                new.output[n] = names[name]
        before = names[last]
    return model


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(NETWORKS))
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--cost", default="cpu")
    parser.add_argument("--growth", action="store_true")
    options = parser.parse_args()
    if options.growth:
        print("\n".join(growth()))
        return
    print("| network | nodes | Conv | BatchNorm | un-fused | fused / un-fused | control | pass, CPU | float64 error |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name in options.names:
        print(measure(name, options.rounds, options.cost), flush=True)


if __name__ == "__main__":
    main()
