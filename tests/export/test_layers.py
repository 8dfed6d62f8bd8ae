"""Layer by layer, a fault shows at its own layer, and a correct runtime shows none."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import onnx
import pytest
from onnx import helper

from attn_export.export.audit import layers
from attn_export.export.audit.layers import LOCAL, Local, local_errors
from attn_export.export.mutants.catalogue import Mutation, mutations
from attn_export.pipeline.divergence.runs import probing
from attn_export.reparam.evaluate.onnx import OnnxEvaluator
from attn_export.types import Array
from tests.export.models import cases, rich

FEEDS = cases(rich())[1].inputs
LINEAR = ("conv", "linear")


def judged(model: onnx.ModelProto, reference: onnx.ModelProto) -> list[Local]:
    with probing(model, "onnxruntime", FEEDS) as runtime:
        return list(local_errors(reference, runtime, FEEDS))


def test_a_correct_runtime_has_no_bad_layer() -> None:
    rows = judged(rich(), rich())
    assert [row.op for row in rows] == [node.op_type for node in rich().graph.node]
    assert all(row.ok for row in rows)
    assert max(row.error for row in rows) > 0.1, "errors are in units that mean something"


@pytest.mark.parametrize(
    "mutation",
    [m for m in mutations(rich()) if m.node in LINEAR],
    ids=lambda m: m.name,
)
def test_a_fault_shows_at_its_own_layer_only(mutation: Mutation) -> None:
    bad = [row.tensor for row in judged(mutation.of(rich()), rich()) if not row.ok]
    assert bad == [mutation.node]


def test_a_wrong_kernel_shows_with_its_channel() -> None:
    exact = OnnxEvaluator(rich(), np.float32)

    def runtime(names: Sequence[str]) -> Iterable[tuple[str, Array]]:
        values: dict[str, Array] = {**exact.constants, **FEEDS}
        for index, node in enumerate(exact.nodes):
            value, *_ = exact.step(index, values)
            if node.output[0] == "conv":
                value = value.copy()
                value[:, 2] += np.float32(1e-4)
            values[node.output[0]] = value
        return [(name, values[name]) for name in names]

    rows = {row.tensor: row for row in local_errors(rich(), runtime, FEEDS)}
    assert rows["conv"].error > LOCAL
    assert rows["conv"].channel == 2
    assert all(row.ok for name, row in rows.items() if name != "conv")


def test_another_shape_or_nan_is_infinitely_wrong() -> None:
    exact = OnnxEvaluator(rich(), np.float32)
    names = [name for node in exact.nodes for name in node.output]
    values = exact.run(FEEDS, names)
    values["softmax"] = values["softmax"][:1]
    values["pool"] = values["pool"] * np.float32(np.nan)
    rows = {row.tensor: row for row in local_errors(rich(), lambda want: [(n, values[n]) for n in want], FEEDS)}
    assert rows["softmax"].error == rows["pool"].error == float("inf")


#: Functions and how they are written; each is tried on numbers that lie densely in [−100, 100].
FUNCTIONS = (
    *(
        "Sigmoid",
        "Tanh",
        "Erf",
        "Sin",
        "Cos",
        "Elu",
        "Selu",
        "Celu",
        "Softsign",
        "HardSigmoid",
        "Softmax",
        "LogSoftmax",
    ),
    *("Gelu", "HardSwish", "Mish", "Softplus", "Exp"),
)
DENSE = np.linspace(-100, 100, 64 * 64 * 49, dtype=np.float32).reshape(49, 64, 64)


def one(op: str, x: Array) -> onnx.ModelProto:
    ports = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, x.shape) for n in ("x", "y")]
    graph = onnx.helper.make_graph([onnx.helper.make_node(op, ["x"], ["y"])], "g", ports[:1], ports[1:])
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 22)], ir_version=10)


@pytest.mark.parametrize("op", FUNCTIONS)
@pytest.mark.parametrize("part", ["all", "far below", "near zero"])
def test_onnxruntime_is_right_about_every_function_wherever_it_is_asked(op: str, part: str) -> None:
    """Also where a sigmoid is 1e-12, as at the heads of detectors: it is right to a share of its range."""
    finite = DENSE[:46] if op == "Exp" else DENSE
    x = {"all": finite, "far below": DENSE[:2] if op == "Exp" else DENSE[:20], "near zero": DENSE * np.float32(1e-4)}
    model, feeds = one(op, x[part]), {"x": x[part]}
    with probing(model, "onnxruntime", feeds) as runtime:
        (row,) = local_errors(model, runtime, feeds)
    assert row.ok, row


@pytest.mark.parametrize(
    ("op", "wrong"),
    [
        ("Sigmoid", lambda x, y: y + np.float32(1e-4)),
        ("Sigmoid", lambda x, y: np.clip(x / 6 + 0.5, 0, 1)),
        ("Erf", lambda x, y: np.tanh(x)),
        ("Gelu", lambda x, y: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))),
        ("Softmax", lambda x, y: np.exp(x) / np.exp(x).sum()),
        ("Softplus", lambda x, y: np.maximum(x, 0)),
        ("Exp", lambda x, y: y * np.float32(1 + 1e-5)),
    ],
)
def test_another_function_shows(op: str, wrong: Callable[[Array, Array], Array]) -> None:
    x = np.linspace(-3, 3, 64 * 64, dtype=np.float32).reshape(1, 64, 64)
    model = one(op, x)
    y = wrong(x, OnnxEvaluator(model, np.float32).run({"x": x})["y"]).astype(np.float32)
    (row,) = local_errors(model, lambda names: [("y", y)], {"x": x})
    assert row.error > 3 * LOCAL, row


@pytest.mark.parametrize("op", ["RNN", "GRU", "LSTM"])
@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0])
def test_recurrent_layers_have_gates_and_sums_inside(op: str, scale: float) -> None:
    gates, random = {"RNN": 1, "GRU": 3, "LSTM": 4}[op], np.random.default_rng(0)
    x, *weights = (
        (random.standard_normal(shape) * by).astype(np.float32)
        for shape, by in (((40, 2, 16), scale), ((1, gates * 16, 16), 0.3), ((1, gates * 16, 16), 0.2))
    )
    ports = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in ("x", "y")]
    held = [onnx.numpy_helper.from_array(value, name) for value, name in zip(weights, "wr", strict=True)]
    layer = onnx.helper.make_node(op, ["x", "w", "r"], ["y"], hidden_size=16)
    graph = onnx.helper.make_graph([layer], "g", ports[:1], ports[1:], held)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    with probing(model, "onnxruntime", {"x": x}) as runtime:
        (row,) = local_errors(model, runtime, {"x": x})
    assert row.ok, row
    held[1].CopyFrom(onnx.numpy_helper.from_array(weights[1] * np.float32(1.01), "r"))
    faulty = onnx.helper.make_model(
        onnx.helper.make_graph([layer], "g", ports[:1], ports[1:], held),
        opset_imports=[onnx.helper.make_opsetid("", 18)],
        ir_version=10,
    )
    with probing(faulty, "onnxruntime", {"x": x}) as runtime:
        (row,) = local_errors(model, runtime, {"x": x})
    assert row.error > 3 * LOCAL, row


def test_what_is_no_number_on_both_sides_is_no_error_and_neither_is_nothing() -> None:
    nodes = [
        onnx.helper.make_node("Softmax", ["x"], ["rows"], axis=1),
        onnx.helper.make_node("Slice", ["rows", "zero", "zero"], ["empty"]),
    ]
    ends = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in ("x", "rows", "empty")]
    zero = onnx.numpy_helper.from_array(np.zeros(1, np.int64), "zero")
    graph = onnx.helper.make_graph(nodes, "g", ends[:1], ends[1:], [zero])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    feeds = {"x": np.array([[1, 2, -np.inf], [-np.inf] * 3], np.float32)}
    with probing(model, "onnxruntime", feeds) as runtime:
        rows = list(local_errors(model, runtime, feeds))
    assert [row.tensor for row in rows] == ["rows", "empty"]
    assert all(row.ok for row in rows)


def test_a_small_graph_is_run_once_and_a_large_one_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every run computes what comes before once more; what is held at once is bounded."""
    nodes = len(rich().graph.node)
    assert list(layers.chunks(rich(), FEEDS)) == [range(nodes)]
    monkeypatch.setattr(layers, "HELD", 1)
    monkeypatch.setattr(layers, "CHUNK", 3)
    parts = list(layers.chunks(rich(), FEEDS))
    assert [index for part in parts for index in part] == list(range(nodes))
    assert {len(part) for part in parts[:-1]} == {3}
    assert all(row.ok for row in judged(rich(), rich()))


def test_what_makes_tensors_of_unknown_size_is_looked_at_a_few_at_a_time() -> None:
    chain = [helper.make_node("Mystery", [f"y{n}"], [f"y{n + 1}"], domain="z") for n in range(2 * layers.CHUNK + 1)]
    ends = [helper.make_tensor_value_info(name, 1, ["n"]) for name in ("y0", chain[-1].output[0])]
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("z", 1)]
    model = helper.make_model(helper.make_graph(chain, "g", ends[:1], ends[1:]), opset_imports=opsets)
    parts = [len(part) for part in layers.chunks(model, {"y0": np.zeros(3, np.float32)})]
    assert max(parts) <= layers.CHUNK
    assert sum(parts) == len(chain)
