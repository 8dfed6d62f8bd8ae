"""Fit the cost model of profile ``cpu``: measure operators under ONNX Runtime, one thread, and print coefficients.

    python -m benchmarks.cost_fit [--rounds 5] [--rows]

An operator is measured as it stands in a network: a chain of nine against a chain of one, so that what a session and
its inputs cost cancels, and the runtime's own layout is kept from node to node. The model is linear in four unknowns,
which are fitted so that the squares of *logarithms* are least: a factor of two counts alike at a microsecond and at a
millisecond. The lanes of a vector, to which narrow convolutions are padded, are the machine's and are not fitted.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from attn_export.reparam import ir
from attn_export.reparam.planning import cost

#: Nodes of the long chain.
LONG = 9
#: Seconds of a block of one timing.
BLOCK = 0.01
Array = NDArray[np.float64]
_RNG = np.random.default_rng(0)


@dataclass(frozen=True)
class FitCase:
    """One operator on one size: its meaning to the cost model, and its node."""

    name: str
    op: ir.Op
    sizes: tuple[int, ...]


def cases() -> Iterator[FitCase]:
    """Operators of sizes that networks for small devices have: 8 to 640 channels on 112² to 4² pixels."""
    edges = ((16, 112), (32, 56), (48, 56), (64, 28), (128, 28), (192, 14), (256, 14), (512, 7), (640, 4))
    for channels, edge in edges:
        sizes = (1, channels, edge, edge)
        for kernel in (1, 3, 5, 7):
            if channels * channels * kernel * kernel * edge * edge < 4e8:
                yield FitCase("dense", _conv(channels, kernel, 1), sizes)
        for kernel in (3, 5, 7, 9, 13):
            if kernel <= 2 * edge:
                yield FitCase("depthwise", _conv(channels, kernel, channels), sizes)
        for width in (2, 4, 8, 16, 32):
            if edge <= 56 and width < channels:
                yield FitCase("grouped", _conv(channels, 3, channels // width), sizes)
        scale = _RNG.uniform(0.9, 1.1, (channels, 1, 1))
        yield FitCase("add", ir.Sum((1.0, 1.0)), sizes)
        yield FitCase("affine", ir.Affine(scale, None), sizes)
        yield FitCase("average", ir.AvgPool((3, 3), (1, 1), ((1, 1), (1, 1)), count_pad=True, ceil=False), sizes)
    for channels in (1, 2, 3, 4, 6, 12):
        for kernel in (3, 5):
            yield FitCase("narrow", _conv(channels, kernel, 1), (1, channels, 128, 128))
    for rows, channels in ((1, 384), (1, 1280), (49, 192), (196, 96), (196, 384), (784, 64)):
        yield FitCase("linear", ir.Linear(_weights(channels, channels), None), (1, rows, channels))


def _weights(*shape: int) -> Array:
    # Scaled so that a chain neither vanishes (denormals are slow) nor explodes.
    return _RNG.standard_normal(shape) / math.sqrt(max(1, math.prod(shape[1:])))


def _conv(channels: int, kernel: int, groups: int) -> ir.Conv:
    pad = kernel // 2
    weight = _weights(channels, channels // groups, kernel, kernel)
    return ir.Conv(weight, None, (1, 1), (1, 1), groups, ((pad, pad), (pad, pad)))


def chain(case: FitCase, length: int) -> onnx.ModelProto:
    """Build a model of ``length`` such nodes, one behind the other."""
    nodes, constants = [], []
    for number in range(length):
        kind, attributes, array = _written(case.op)
        inputs = [f"x{number}"]
        if kind == "Add":
            inputs.append("y")  # not the chain's own value: x + x might be written as 2·x
        if array is not None:
            constants.append(numpy_helper.from_array(array.astype(np.float32), f"w{number}"))
            inputs.append(f"w{number}")
        nodes.append(helper.make_node(kind, inputs, [f"x{number + 1}"], **attributes))
    given = ["x0", "y"] if isinstance(case.op, ir.Sum) else ["x0"]
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, case.sizes) for name in given],
        [helper.make_tensor_value_info(f"x{length}", TensorProto.FLOAT, case.sizes)],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _written(op: ir.Op) -> tuple[str, dict[str, Any], Array | None]:
    """Return the node's type, attributes and constant."""
    match op:
        case ir.Conv():
            pads = [left for left, _ in op.pads] + [right for _, right in op.pads]
            return "Conv", {"group": op.groups, "pads": pads}, op.weight
        case ir.Affine():
            return "Mul", {}, op.factor
        case ir.Linear():
            return "MatMul", {}, op.weight
        case ir.Sum():
            return "Add", {}, None
        case ir.AvgPool():
            return "AveragePool", {"kernel_shape": [3, 3], "pads": [1] * 4, "count_include_pad": 1}, None
    raise AssertionError(f"{op} has no chain")


class _Runner:
    """An open session and its input."""

    def __init__(self, model: onnx.ModelProto, sizes: tuple[int, ...]) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.add_session_config_entry("session.set_denormal_as_zero", "1")
        self.session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        array = _RNG.standard_normal(sizes).astype(np.float32)
        self.feeds = {value.name: array for value in self.session.get_inputs()}

    def seconds(self, count: int) -> float:
        """CPU time of one run, over ``count``."""
        start = time.process_time()
        for _ in range(count):
            self.session.run(None, self.feeds)
        return (time.process_time() - start) / count


def measure(case: FitCase, rounds: int) -> float:
    """Seconds of one node: the median over rounds of long chain less short, divided."""
    short, long = (_Runner(chain(case, length), case.sizes) for length in (1, LONG))
    counts = []
    for runner in (short, long):
        runner.seconds(2)
        counts.append(max(1, int(BLOCK / max(runner.seconds(1), 1e-7))))
    gaps = [(long.seconds(counts[1]) - short.seconds(counts[0])) / (LONG - 1) for _ in range(rounds)]
    return max(statistics.median(gaps), 1e-7)


def terms(case: FitCase) -> Array:
    """Return what the coefficients multiply: dense and depthwise multiply-accumulates, bytes, one."""
    work = cost.work(case.op, [case.sizes] * (2 if isinstance(case.op, ir.Sum) else 1), case.sizes)
    padded = work.padded(cost.PROFILES["cpu"].lanes)
    dense, depthwise = (0, padded) if work.depthwise else (padded, 0)
    return np.array([dense, depthwise, 4 * work.moved, 1.0])


def fit(rows: Array, seconds: Array, steps: int = 60) -> Array:
    """Positive coefficients with the least squares of log(rows @ coefficients / seconds), by Gauss and Newton."""
    logs = np.log(np.array([1 / 2.5e10, 1 / 6e9, 1 / 8e9, 3e-6]))
    for _ in range(steps):
        parts = rows * np.exp(logs)
        whole = parts.sum(axis=1)
        residual, slope = np.log(seconds / whole), parts / whole[:, None]
        logs += 0.5 * np.linalg.lstsq(slope, residual, rcond=None)[0].clip(-1, 1)
    return np.asarray(np.exp(logs))


def main() -> None:
    """Measure, fit, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", action="store_true", help="print every operator as measured and as fitted")
    options = parser.parse_args()
    found = list(cases())
    seconds = np.array([measure(case, options.rounds) for case in found])
    rows = np.array([terms(case) for case in found])
    coefficients = fit(rows, seconds)
    ratios = rows @ coefficients / seconds
    if options.rows:
        for case, second, ratio in zip(found, seconds, ratios, strict=True):
            shape = getattr(getattr(case.op, "weight", None), "shape", "")
            print(f"{case.name:10} {case.sizes!s:22} {shape!s:22} {1e6 * second:9.1f} us  fitted/measured {ratio:.2f}")
    dense, depthwise, bandwidth = 1 / coefficients[:3]
    print(f"dense {dense:.3g} MAC/s, depthwise {depthwise:.3g} MAC/s, {bandwidth:.3g} bytes/s, {coefficients[3]:.2g} s")
    spread = np.abs(np.log(ratios))
    print(f"{len(found)} operators; fitted/measured off by a factor {math.exp(np.median(spread)):.2f} at the median,")
    print(f"{math.exp(np.quantile(spread, 0.9)):.2f} at 90 %, {math.exp(spread.max()):.2f} at most")
    for name in dict.fromkeys(case.name for case in found):
        mine = np.log([r for r, c in zip(ratios, found, strict=True) if c.name == name])
        print(f"  {name}: {math.exp(mine.mean()):.2f} × on average, factor {math.exp(np.std(mine)):.2f} of spread")


if __name__ == "__main__":
    main()
