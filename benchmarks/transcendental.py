"""How exactly runtimes compute functions that are no arithmetic: largest errors against float64, function by function.

    python -m benchmarks.transcendental

The table stands in ``docs/parity.md``: it is where the accuracy comes from that the parity gate grants such functions
(``reparam.evaluate.transcendental``). Arguments lie densely in [-100, 100], in [-1, 1] and near zero; exp's where its
result is a normal number; softmax has rows of 4 to 1,000 numbers, one to fifty wide.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnxruntime
import torch
from onnx import TensorProto, helper
from torch import Tensor

from attn_export.reparam.evaluate.transcendental import ACCURACY, OPERATORS
from attn_export.types import Array

OPSET = 22
#: In PyTorch, by ONNX's names.
FUNCTIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "Sigmoid": torch.sigmoid,
    "Tanh": torch.tanh,
    "Erf": torch.erf,
    "Sin": torch.sin,
    "Cos": torch.cos,
    "Elu": torch.nn.functional.elu,
    "Softsign": torch.nn.functional.softsign,
    "HardSigmoid": lambda x: torch.clamp(0.2 * x + 0.5, 0, 1),
    "Softmax": lambda x: torch.softmax(x, -1),
    "Gelu": torch.nn.functional.gelu,
    "HardSwish": torch.nn.functional.hardswish,
    "Mish": torch.nn.functional.mish,
    "Softplus": torch.nn.functional.softplus,
    "Log": lambda x: torch.log(x.abs()),
    "LogSoftmax": lambda x: torch.log_softmax(x, -1),
    "Exp": torch.exp,
}


@dataclass(frozen=True)
class Accuracy:
    """Errors of one function in one runtime.

    Attributes:
        absolute: largest.
        relative: largest, over results of at least 1e-30.
        granted: largest, as a multiple of what the gate moves the function by.
    """

    absolute: float
    relative: float
    granted: float


def arguments(operator: str) -> Iterator[Array]:
    """Yield what the function is tried on, float32 [rows, numbers]."""
    if operator.endswith("Softmax"):
        random = np.random.default_rng(0)
        for count in (4, 18, 100, 1000):
            for scale in (1, 10, 50):
                yield (random.standard_normal((1000, count)) * scale).astype(np.float32)
        return
    dense = np.concatenate(
        [np.linspace(-100, 100, 2_000_001), np.linspace(-1, 1, 200_001), np.geomspace(1e-30, 1, 9999)]
    )
    most = 87.0 if operator == "Exp" else 100.0
    values = dense[np.abs(dense) <= most].astype(np.float32)
    yield (np.abs(values) + np.float32(1e-30) if operator == "Log" else values)[None]


def measure(operator: str, run: Callable[[Array], Array]) -> Accuracy:
    """Compare a runtime's results with float64."""
    absolute = relative = granted = 0.0
    for x in arguments(operator):
        exact = FUNCTIONS[operator](torch.from_numpy(x).double()).numpy()
        error = np.abs(run(x).astype(np.float64) - exact)
        size = np.abs(exact)
        unit = {
            "range": np.ones_like(exact),
            "row": np.broadcast_to(exact.max(-1, keepdims=True), exact.shape),
            "input": np.abs(x).astype(np.float64),
            "one": np.maximum(size, 1),
            "value": size,
        }[OPERATORS[operator]]
        normal = unit > np.finfo(np.float32).tiny
        absolute = max(absolute, float(error.max()))
        relative = max(relative, float((error[size > 1e-30] / size[size > 1e-30]).max()))
        granted = max(granted, float((error[normal] / unit[normal]).max()) / ACCURACY)
    return Accuracy(absolute, relative, granted)


def in_onnxruntime(operator: str) -> Callable[[Array], Array]:
    """Make a run of one operator in ONNX Runtime."""
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", "numbers"]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node(operator, ["x"], ["y"])], "one", ports[:1], ports[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return lambda x: np.asarray(session.run(None, {"x": x})[0])


def in_torch(operator: str) -> Callable[[Array], Array]:
    """Make a run of one function in PyTorch."""
    return lambda x: np.asarray(FUNCTIONS[operator](torch.from_numpy(x)).numpy())


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    versions = f"ONNX Runtime {onnxruntime.__version__}", f"PyTorch {torch.__version__}"
    print(f"| function | {' | '.join(f'{name}: absolute | relative | of what is granted' for name in versions)} |")
    print("|---" * 7 + "|")
    for operator in FUNCTIONS:
        cells = [operator]
        for run in (in_onnxruntime(operator), in_torch(operator)):
            found = measure(operator, run)
            cells += [f"{found.absolute:.1e}", f"{found.relative:.1e}", f"{found.granted:.2f}"]
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
