"""What was asked for is asserted on what came."""

from __future__ import annotations

import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from attn_export.errors import ContractError, ExportError
from attn_export.export.onnx import contract
from attn_export.export.onnx.exported import Contract, Exported
from attn_export.export.onnx.simplify import simplify
from attn_export.export.onnx.torch_export import export
from attn_export.export.sources.catalogue import from_spec
from attn_export.export.subject import Subject
from attn_export.mechanisms import MECHANISMS
from attn_export.mechanisms.spec import Input
from attn_export.types import Dim, TensorSpec


def subject(module: nn.Module, *inputs: Input, **sizes: int) -> Subject:
    return Subject("net", module.eval(), inputs, sizes, tuple(Dim(name) for name in sizes))


@pytest.mark.parametrize("opset", [18, 20])
def test_opset_names_and_dimensions_are_those_asked_for(opset: int) -> None:
    made = export(from_spec("se", MECHANISMS["se"], "test"), opset)
    assert {entry.domain: entry.version for entry in made.model.opset_import} == {"": opset}
    assert contract.port(made.model.graph.input[0]) == TensorSpec("x", "float32", ("b", 32, "h", "w"))
    assert made.contract.outputs == (TensorSpec("y", "float32", ("b", 32, "h", "w")),)
    assert made.nodes == sum(made.operators.values())


def test_steps_are_kept() -> None:
    dims = (Dim("b"), Dim("h", step=2, min=2))

    class Halve(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            b, h, w = x.shape
            return x.reshape(b, h // 2, 2, w).mean(2)

    made = export(Subject("net", Halve(), (Input("x", ("b", "h", 3)),), {"b": 2, "h": 6}, dims))
    assert contract.port(made.model.graph.input[0]).shape == ("b", "h", 3)
    assert made.contract.outputs[0].shape[0] == "b"


class Baked(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(int(x.shape[0]), -1) * x.shape[0] if x.shape[0] == 2 else x


def test_a_size_fixed_while_tracing_is_refused() -> None:
    with pytest.raises((ContractError, ExportError)):
        export(subject(Baked(), Input("x", ("b", 4)), b=2))


def test_a_dropped_input_is_refused() -> None:
    asked = Contract(18, (*ASKED.inputs, TensorSpec("z", "float32", (1, 4))), ASKED.outputs)
    with pytest.raises(ContractError, match="expected inputs x, z, got x; an input that plays no part"):
        contract.check(model(), asked)


def test_what_cannot_be_exported_is_one_sentence() -> None:
    class Branch(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if bool((x.sum() > 0).item()) else -x

    with pytest.raises(
        ExportError, match=r"^net runs, but cannot be traced at .+: that depends on the values"
    ) as caught:
        export(subject(Branch(), Input("x", (1, 4))))
    assert "\n" not in str(caught.value)


def model(
    *, opset: int = 18, domain: str = "", dims: tuple[int | str, ...] = ("b", 4), dtype: int = TensorProto.FLOAT
) -> onnx.ModelProto:
    x = helper.make_tensor_value_info("x", dtype, dims)
    y = helper.make_tensor_value_info("y", dtype, dims)
    node = helper.make_node("Relu", ["x"], ["y"], domain=domain)
    opsets = [helper.make_opsetid("", opset)] + ([helper.make_opsetid(domain, 1)] if domain else [])
    return helper.make_model(helper.make_graph([node], "g", [x], [y]), opset_imports=opsets, ir_version=10)


ASKED = Contract(18, (TensorSpec("x", "float32", ("b", 4)),), (TensorSpec("y", "float32", ("b", 4)),))


def test_a_kept_contract_passes() -> None:
    assert contract.check(model(), ASKED).contract is ASKED


@pytest.mark.parametrize(
    ("came", "message"),
    [
        (model(opset=17), "expected opset 18, got 17"),
        (model(dims=(2, 4)), "input 'x': expected shape bx4, got 2x4; a size was fixed"),
        (model(dims=("b", 5)), "expected shape bx4, got bx5"),
        (model(dims=("b", 4, 1)), "expected shape bx4, got bx4x1"),
        (model(dtype=TensorProto.DOUBLE), "expected float32, got float64"),
        (model(domain="com.example"), "standard ONNX operators only, got some of com.example"),
    ],
)
def test_a_broken_contract_says_which_part(came: onnx.ModelProto, message: str) -> None:
    with pytest.raises(ContractError, match=message):
        contract.check(came, ASKED)


def test_an_invalid_model_is_refused() -> None:
    broken = model()
    broken.graph.node[0].input[0] = "nowhere"
    with pytest.raises(ContractError, match="not valid ONNX"):
        contract.check(broken, ASKED)


def test_an_ir_version_that_runtimes_do_not_read_is_refused() -> None:
    new = model()
    new.ir_version = 12
    with pytest.raises(ContractError, match="expected IR version 10 or older, got 12"):
        contract.check(new, ASKED)


def test_simplifying_adds_no_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A product of three axes and its bias stay two nodes, also where the simplifier has a process of its own."""
    text = """<ir_version: 8, opset_import: ["": 17]> layers (float[1, 3, 2] x) => (float[1, 3, 2] y)
        <float[2, 2] w = {2, 1, 3, 5}, float[2] b = {3, 7}> { p = MatMul(x, w)  a = Add(p, b)  y = Relu(a) }"""
    model = onnx.parser.parse_model(text)
    layers = Exported(model, contract.of(model))
    assert simplify(layers).operators == layers.operators
    monkeypatch.setattr("attn_export.export.onnx.simplify.LARGE", 1)
    assert simplify(layers).operators == layers.operators


def test_simplifying_keeps_the_contract_and_its_input(monkeypatch: pytest.MonkeyPatch) -> None:
    made = export(from_spec("se", MECHANISMS["se"], "test"))
    before = made.model.SerializeToString(deterministic=True)
    assert simplify(made).contract == made.contract
    assert made.model.SerializeToString(deterministic=True) == before
    monkeypatch.setattr("attn_export.export.onnx.simplify.LARGE", 1)
    apart = simplify(made)
    assert apart.operators == simplify(made).operators


def test_a_simplifier_that_breaks_the_contract_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    made = export(from_spec("se", MECHANISMS["se"], "test"))
    monkeypatch.setattr("attn_export.export.onnx.simplify._here", lambda _: model())
    with pytest.raises(ContractError):
        simplify(made)
    monkeypatch.setattr("attn_export.export.onnx.simplify._here", lambda _: 1 / 0)
    with pytest.raises(ExportError, match="the simplifier failed: division by zero"):
        simplify(made)


torch.set_num_threads(1)
