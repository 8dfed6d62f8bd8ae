"""Which tensor of a LiteRT file is which of the model's: the file sorts by name, and need not keep ours."""

from __future__ import annotations

import pytest

from attn_export.deploy_tests.backends.litert.signature import Tensor, matched
from attn_export.errors import BackendError
from attn_export.types import TensorSpec

PORTS = tuple(TensorSpec(f"x{i}", "float32", ("b", 3)) for i in range(12))


def tensors(*names: str, dtype: str = "float32", shape: tuple[int, ...] = (1, 3)) -> dict[str, Tensor]:
    """As an interpreter gives them: sorted, so that the tenth comes second."""
    return {name: Tensor(int(name.rpartition("_")[2]), dtype, shape) for name in sorted(names)}


def test_the_tenth_input_is_not_the_second() -> None:
    found = matched(tensors(*(f"args_{i}" for i in range(12))), PORTS, "inputs")
    assert [tensor.index for tensor in found.values()] == list(range(12))
    assert list(found) == [port.name for port in PORTS]


def test_names_of_the_models_own_come_before_places() -> None:
    swapped = {"args_0": Tensor(5, "float32", (1, 3)), "args_1": Tensor(6, "float32", (1, 3))}
    ports = TensorSpec("args_1", "float32", ("b", 3)), TensorSpec("args_0", "float32", ("b", 3))
    assert [tensor.index for tensor in matched(swapped, ports, "inputs").values()] == [6, 5]


def test_where_the_contract_is_not_known_the_files_names_stay() -> None:
    assert list(matched(tensors("args_0", "args_1"), (), "inputs")) == ["args_0", "args_1"]


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (tensors("args_0"), "expected x0, x1, got args_0"),
        (tensors("args_0", "args_2"), "expected x0, x1, got args_0, args_2"),
        (tensors("left_0", "right_1"), "expected x0, x1, got left_0, right_1"),
        ({}, "expected x0, x1, got none"),
        (tensors("args_0", "args_1", dtype="int32"), "expected x0 to be float32 bx3, got int32 1x3"),
        (tensors("args_0", "args_1", shape=(1, 4)), "expected x0 to be float32 bx3, got float32 1x4"),
        (tensors("args_0", "args_1", shape=(1, 3, 1)), "expected x0 to be float32 bx3, got float32 1x3x1"),
    ],
)
def test_what_does_not_fit_is_refused(found: dict[str, Tensor], why: str) -> None:
    with pytest.raises(BackendError, match=f"^m.tflite: inputs: {why}$"):
        matched(found, PORTS[:2], "m.tflite: inputs")
