"""Layer by layer, a fault shows at its own layer, and a correct runtime shows none."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import onnx
import pytest

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
