"""The contract of a model: which part is broken, and what fits what."""

from __future__ import annotations

import onnx
import pytest
from onnx import TensorProto, helper

from attn_export.errors import ContractError
from attn_export.export.onnx import contract
from attn_export.export.onnx.exported import Contract
from attn_export.types import TensorSpec

Dims = tuple[int | str | None, ...]


def model(
    dims: Dims = ("b", 4), *, opset: int = 18, ir: int = 10, outputs: int = 1, dtype: int = TensorProto.FLOAT
) -> onnx.ModelProto:
    ports = [helper.make_tensor_value_info(name, dtype, dims) for name in ("x", "y0", "y1")]
    nodes = [helper.make_node("Relu", ["x"], [port.name]) for port in ports[1 : 1 + outputs]]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1 : 1 + outputs])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir)


def asked(dims: tuple[int | str, ...] = ("b", 4), *, opset: int = 18, dtype: str = "float32") -> Contract:
    return Contract(opset, (TensorSpec("x", dtype, dims),), (TensorSpec("y0", dtype, dims),))


def broken(came: onnx.ModelProto, want: Contract) -> str:
    with pytest.raises(ContractError) as caught:
        contract.check(came, want)
    return str(caught.value)


@pytest.mark.parametrize(
    ("want", "came", "fits"),
    [
        (("b", 4), ("b", 4), True),
        (("b", 4), ("n", 4), True),  # a name stands for any name
        (("?", 4), ("n", 4), True),
        (("?", 4), (3, 4), True),  # not known beforehand: anything
        (("b", 4), (3, 4), False),  # baked in
        ((3, 4), ("b", 4), False),
        ((3, 4), (3, 5), False),
        (("b", 4), ("b", 4, 1), False),
        (("b", 4), ("b",), False),
    ],
)
def test_which_shapes_keep_the_contract(want: tuple[int | str, ...], came: Dims, fits: bool) -> None:
    if fits:
        made = model(came)
        assert contract.check(made, asked(want)).model is made
    else:
        said = broken(model(came), asked(want))
        wanted, got = ("x".join(map(str, shape)) for shape in (want, came))
        assert said.startswith(f"input 'x': expected shape {wanted}, got {got};")
        assert "--dynamic none" in said


def test_an_output_is_held_as_an_input_is() -> None:
    want = Contract(18, asked().inputs, (TensorSpec("y0", "float32", ("b", 5)),))
    assert broken(model(), want).startswith("output 'y0': expected shape bx5, got bx4;")
    want = Contract(18, asked().inputs, (TensorSpec("y0", "float16", ("b", 4)),))
    assert broken(model(), want) == "output 'y0': expected float16, got float32; cast it in forward"


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_a_type_is_another_whichever_is_first_by_name(dtype: str) -> None:
    assert broken(model(), asked(dtype=dtype)).startswith(f"input 'x': expected {dtype}, got float32;")


def test_names_and_their_order_are_held() -> None:
    assert broken(model(outputs=2), asked()).startswith("expected outputs y0, got y0, y1;")
    none = Contract(18, asked().inputs, ())
    assert broken(model(), none).startswith("expected outputs none, got y0;")
    turned = model(outputs=2)
    first, second = (TensorSpec(name, "float32", ("b", 4)) for name in ("y1", "y0"))
    assert broken(turned, Contract(18, asked().inputs, (first, second))).startswith("expected outputs y1, y0, got y0")


@pytest.mark.parametrize(("opset", "ir", "fine"), [(18, 10, True), (18, 8, True), (18, 11, False), (23, 11, True)])
def test_the_file_format_is_as_old_as_the_opset_lets_it_be(opset: int, ir: int, fine: bool) -> None:
    assert contract.NEWEST_IR == 10
    if fine:
        contract.check(model(opset=opset, ir=ir), asked(opset=opset))
    else:
        assert broken(model(opset=opset, ir=ir), asked(opset=opset)).startswith("expected IR version 10 or older, got")


@pytest.mark.parametrize("domain", ["", "ai.onnx"])
def test_both_names_of_the_standard_are_the_standard(domain: str) -> None:
    made = model()
    made.opset_import[0].domain = domain
    made.graph.node[0].domain = domain
    assert contract.of(made).opset == 18
    if not domain:
        contract.check(made, asked())


def test_another_opset_is_named_and_functions_are_none_of_the_standard() -> None:
    assert broken(model(opset=17), asked()).startswith("expected opset 18, got 17: the exporter could not convert it")
    made = model()
    made.opset_import.append(helper.make_opsetid("mine", 1))
    body = [helper.make_node("Relu", ["a"], ["c"])]
    made.functions.append(helper.make_function("mine", "F", ["a"], ["c"], body, [helper.make_opsetid("", 18)]))
    assert "got some of mine;" in broken(made, asked())
    made = model()
    for domain in ("zeta", "alpha"):
        made.opset_import.append(helper.make_opsetid(domain, 1))
        made.graph.node.append(helper.make_node("Op", ["x"], [domain], domain=domain))
    assert "got some of alpha, zeta;" in broken(made, asked())


def test_the_contract_that_a_model_keeps_is_read_off_it() -> None:
    made = model(("b", None), outputs=2, dtype=TensorProto.INT64)
    read = contract.of(made)
    assert read.opset == 18
    assert read.inputs == (TensorSpec("x", "int64", ("b", "?")),)
    assert [port.name for port in read.outputs] == ["y0", "y1"]
    assert contract.of(onnx.ModelProto()).opset == 0
    assert contract.port(helper.make_tensor_value_info("z", TensorProto.BOOL, (0, 2))).shape == (0, 2)


def test_a_weight_that_is_listed_as_an_input_is_none() -> None:
    made = model()
    made.graph.initializer.append(helper.make_tensor("w", TensorProto.FLOAT, (1,), [1.0]))
    made.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, (1,)))
    assert contract.check(made, asked()).contract == asked()


def test_what_is_no_tensor_has_no_port() -> None:
    with pytest.raises(ContractError, match="'z' is not a tensor, or has no element type"):
        contract.port(onnx.ValueInfoProto(name="z"))


def test_an_invalid_model_is_said_with_the_first_line_of_why() -> None:
    made = model()
    made.graph.node[0].input[0] = "nowhere"
    said = broken(made, asked())
    assert said.startswith("the model is not valid ONNX: ")
    assert "\n" not in said


@pytest.mark.parametrize("size", [8, contract.HEAVY])
def test_a_weight_that_holds_less_than_it_says_is_refused_however_large(size: int) -> None:
    """Large weights are looked at apart from the graph."""
    came = model((4,))
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[size], raw_data=bytes(4 * size))
    came.graph.initializer.append(weight)
    kept = contract.of(came)
    assert contract.check(came, kept).weights == 4 * size
    came.graph.initializer[0].raw_data = bytes(4 * size - 4)
    assert "w" in broken(came, kept)
