"""Models whose weights do not fit in one message are checked and counted as others are, without their weights."""

from __future__ import annotations

import onnx
import pytest

from attn_export.errors import ContractError
from attn_export.export.graph import cost, index, light
from attn_export.export.onnx import contract
from attn_export.export.onnx.exported import Contract
from tests.export.models import cases, rich


@pytest.fixture
def heavy(monkeypatch: pytest.MonkeyPatch) -> onnx.ModelProto:
    """The limit is moved below this model: two real gigabytes would say no more."""
    model = rich()
    for module in (light, contract):
        monkeypatch.setattr(module, "SMALL", 64)
    monkeypatch.setattr(contract, "HEAVY", 1)
    assert len(light.light(model, 1).graph.initializer) < len(model.graph.initializer)
    return model


def _asked(model: onnx.ModelProto) -> Contract:
    opset = next(entry.version for entry in model.opset_import if not entry.domain)
    ports = [tuple(map(contract.port, values)) for values in (model.graph.input, model.graph.output)]
    return Contract(opset, *ports)


def test_a_heavy_model_is_checked_and_keeps_its_weights(heavy: onnx.ModelProto) -> None:
    checked = contract.check(heavy, _asked(heavy))
    assert checked.model is heavy
    large = next(tensor for tensor in heavy.graph.initializer if len(tensor.raw_data) > 64)
    whole = large.raw_data
    large.raw_data = whole[:-4]  # which is left out of what the checker sees of the rest
    with pytest.raises(ContractError, match="not valid ONNX"):
        contract.check(heavy, _asked(heavy))
    large.raw_data = whole
    heavy.graph.node[0].op_type = "NoSuchOperator"
    with pytest.raises(ContractError, match="not valid ONNX"):
        contract.check(heavy, _asked(heavy))


def test_a_heavy_model_costs_what_it_costs_in_one_message(
    heavy: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = {name: value.shape for name, value in cases(heavy)[0].inputs.items()}
    came = cost.costs(heavy, sizes)
    monkeypatch.undo()
    assert came == cost.costs(heavy, sizes)
    assert sum(row.macs for row in came) > 0


def test_shapes_are_those_that_inference_gives_with_the_weights(heavy: onnx.ModelProto) -> None:
    view = index.GraphIndex(heavy)
    inferred = onnx.shape_inference.infer_shapes(heavy).graph.value_info
    assert len(inferred) >= len(heavy.graph.node) - 1
    for value in inferred:
        sizes = [
            d.dim_param or (d.dim_value if d.HasField("dim_value") else "?") for d in value.type.tensor_type.shape.dim
        ]
        assert view.shape(value.name) == tuple(sizes), value.name
