"""Graphs of both exporters, optimised and not, static and dynamic, collapse alike; what must stay opaque does."""

from __future__ import annotations

import io
import warnings
from collections import Counter
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from attn_export.errors import FusionError, UnknownNameError
from attn_export.reparam.fuse_onnx import fuse_graph
from attn_export.reparam.result import Fusion
from tests.reparam.blocks import BLOCKS, acnet, dbb, mobileone, repvgg, wake


def operators(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def run(model: onnx.ModelProto, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {session.get_inputs()[0].name: x})[0])


def dynamo(module: nn.Module, x: torch.Tensor, *, dynamic: bool = False, optimize: bool = True) -> onnx.ModelProto:
    auto = torch.export.Dim.AUTO
    shapes = ({n: auto for n in range(x.ndim) if n != 1},) if dynamic else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(module, (x,), dynamo=True, verbose=False, optimize=optimize, dynamic_shapes=shapes)
    assert program is not None
    return program.model_proto


def torchscript(module: nn.Module, x: torch.Tensor, *, dynamic: bool = False, opset: int = 17) -> onnx.ModelProto:
    file = io.BytesIO()
    axes = {"x": {0: "b", 2: "h", 3: "w"}} if dynamic else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module, (x,), file, dynamo=False, input_names=["x"], dynamic_axes=axes, opset_version=opset,
            training=torch.onnx.TrainingMode.PRESERVE, do_constant_folding=False,
        )  # fmt: skip
    return onnx.load_from_string(file.getvalue())


def agrees(before: onnx.ModelProto, fusion: Fusion[onnx.ModelProto], *shapes: tuple[int, ...]) -> None:
    onnx.checker.check_model(fusion.model, full_check=True)
    assert fusion.certificate.ok
    assert fusion.certificate.worst <= 1e-13
    assert all(site.structure for site in fusion.sites)
    for shape in shapes:
        x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
        want, got = run(before, x), run(fusion.model, x)
        assert want.shape == got.shape
        assert np.abs(want - got).max() <= 1e-5 * np.abs(want).max()


def net() -> nn.Module:
    blocks = [repvgg(3, 8, 2), acnet(8, 8), mobileone(8, 8, 1, 8), mobileone(8, 12, 1, 1, 1), acnet(12, 8, 1, 0)]
    return wake(nn.Sequential(*blocks))


def test_all_producers_collapse_alike() -> None:
    module, x = net(), torch.randn(2, 3, 28, 30)
    models = [
        dynamo(module, x),
        dynamo(module, x, optimize=False),
        dynamo(module, x, dynamic=True),
        torchscript(module, x),
        torchscript(module, x, dynamic=True),
        torchscript(module, x, opset=11),
    ]
    for number, model in enumerate(models):
        fusion = fuse_graph(model)
        assert operators(fusion.model) == {"Conv": 5, "Relu": 5}, number
        agrees(model, fusion, (2, 3, 28, 30))
        if number in (2, 4):
            agrees(model, fusion, (1, 3, 31, 17), (3, 3, 8, 9))


#: TorchScript cannot export what computes kernels on the way.
SCRIPTED = [row for row in BLOCKS if row.name != "orepa"]


@pytest.mark.parametrize("row", SCRIPTED, ids=lambda row: row.name)
def test_every_block_as_a_bare_file(row: Any) -> None:
    torch.manual_seed(3)
    module, x = wake(row.build()), torch.randn(row.shape)
    model = torchscript(module, x)
    fusion = fuse_graph(model)
    left = operators(fusion.model)
    assert left["Conv"] + left["ConvTranspose"] == row.convs
    assert left["Gemm"] + left["MatMul"] == row.linears
    assert left["BatchNormalization"] == 0
    onnx.checker.check_model(fusion.model, full_check=True)
    rounded = any("rounding" in site.notes for site in fusion.sites)
    assert fusion.certificate.worst <= (2**-20 if rounded else 1e-13)
    want, got = run(model, x.numpy()), run(fusion.model, x.numpy())
    assert np.abs(want - got).max() <= 1e-5 * np.abs(want).max()


@pytest.mark.parametrize("name", ["dbb-write", "ecb-write"])
def test_writes_over_the_border_by_scattering(name: str) -> None:
    torch.manual_seed(3)
    row = next(row for row in BLOCKS if row.name == name)
    module, x = wake(row.build()), torch.randn(row.shape)
    model = dynamo(module, x)
    assert operators(model)["ScatterND"]
    fusion = fuse_graph(model)
    assert operators(fusion.model)["Conv"] == 1
    assert not operators(fusion.model)["ScatterND"]
    agrees(model, fusion, row.shape)


def test_a_write_that_is_no_border_stays() -> None:
    index = np.array([[0, c, h, w] for c in range(4) for h in (2, 3) for w in range(9)])
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("ScatterND", ["c", "i", "v"], ["d"]),
        helper.make_node("Mul", ["d", "s"], ["y"]),
    ]
    model = small(nodes, {"w": CONV["w"][:, :, :1, :1], "s": CONV["s"], "v": np.ones(len(index))})
    model.graph.initializer.append(numpy_helper.from_array(index, "i"))
    fusion = fuse_graph(model)
    assert operators(fusion.model) == {"Conv": 1, "ScatterND": 1, "Mul": 1}


@pytest.mark.parametrize("opset", [11, 13, 18, 21, 24])
def test_enlargements_in_every_opset(opset: int) -> None:
    """What is written is valid from the oldest opset to the newest."""
    weights = {"w": CONV["w"][:, :, :1, :1], "s": CONV["s"]}
    larger = numpy_helper.from_array(np.array([1, 1, 2, 2], dtype=np.float32), "scales")
    roi = numpy_helper.from_array(np.zeros(0, dtype=np.float32), "roi")
    nodes = [
        helper.make_node(
            "Resize", ["x", "roi", "scales"], ["r"], mode="nearest", nearest_mode="floor",
            coordinate_transformation_mode="asymmetric",
        ),
        helper.make_node("Conv", ["r", "w"], ["c"]),
        helper.make_node("Mul", ["c", "s"], ["y"]),
    ]  # fmt: skip
    model = small(nodes, weights, opset=opset)
    model.graph.initializer.extend([larger, roi])
    fusion = fuse_graph(model)
    assert [node.op_type for node in fusion.model.graph.node] == ["Conv", "Resize"]
    onnx.checker.check_model(fusion.model, full_check=True)
    assert fusion.certificate.worst <= 1e-13
    x = RNG.standard_normal((2, 4, 9, 9)).astype(np.float32)
    assert np.allclose(run(model, x), run(fusion.model, x), rtol=1e-4, atol=1e-5)


def test_the_input_is_not_changed() -> None:
    model = torchscript(net(), torch.randn(2, 3, 28, 30))
    before = model.SerializeToString(deterministic=True)
    fuse_graph(model)
    assert model.SerializeToString(deterministic=True) == before


def test_padding_with_a_bias_is_exact_where_constants_are_folded_in_float64() -> None:
    fusion = fuse_graph(torchscript(wake(dbb(8, 8)), torch.randn(2, 8, 14, 13)))
    assert operators(fusion.model)["Conv"] == 1
    assert fusion.sites[0].notes == ("value",)
    assert fusion.sites[0].error < 1e-14


def small(nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray[Any, Any]], **more: Any) -> onnx.ModelProto:
    """A model of a few nodes from x (2, 4, 9, 9) to y."""
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (2, 4, 9, 9)), *more.get("inputs", [])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ("b", "c", "h", "w"))],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", more.get("opset", 17))], ir_version=8)


RNG = np.random.default_rng(0)
CONV = {"w": RNG.standard_normal((4, 4, 3, 3)), "s": RNG.standard_normal((4, 1, 1))}


def test_overridable_initializers_are_opaque() -> None:
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"]), helper.make_node("Mul", ["c", "s"], ["y"])]
    info = helper.make_tensor_value_info("s", TensorProto.FLOAT, (4, 1, 1))
    assert operators(fuse_graph(small(nodes, CONV)).model) == {"Conv": 1}
    assert operators(fuse_graph(small(nodes, CONV, inputs=[info])).model) == {"Conv": 1, "Mul": 1}


def test_a_graph_output_in_between_stays() -> None:
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"]), helper.make_node("Mul", ["c", "s"], ["y"])]
    model = small(nodes, CONV)
    model.graph.output.append(helper.make_tensor_value_info("c", TensorProto.FLOAT, None))
    assert operators(fuse_graph(model).model) == {"Conv": 1, "Mul": 1}


@pytest.mark.parametrize("mode", ["SAME_UPPER", "SAME_LOWER", "VALID"])
def test_automatic_padding(mode: str) -> None:
    weights = {"w": RNG.standard_normal((4, 4, 2, 4)), "s": RNG.standard_normal((4, 1, 1))}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], auto_pad=mode, strides=[2, 1]),
        helper.make_node("Mul", ["c", "s"], ["y"]),
    ]
    model = small(nodes, weights)
    fusion = fuse_graph(model)
    assert operators(fusion.model) == {"Conv": 1}
    x = RNG.standard_normal((2, 4, 9, 9)).astype(np.float32)
    assert np.allclose(run(model, x), run(fusion.model, x), rtol=1e-4, atol=1e-5)


def halved(model: onnx.ModelProto) -> onnx.ModelProto:
    for tensor in model.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
    for info in (*model.graph.input, *model.graph.output):
        info.type.tensor_type.elem_type = TensorProto.FLOAT16
    return model


def test_half_precision_keeps_its_type() -> None:
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"]), helper.make_node("Mul", ["c", "s"], ["y"])]
    model = halved(small(nodes, CONV))
    fused = fuse_graph(model).model
    assert operators(fused) == {"Conv": 1}
    assert {t.data_type for t in fused.graph.initializer} == {TensorProto.FLOAT16}
    onnx.checker.check_model(fused, full_check=True)


def test_what_would_overflow_half_precision_is_rolled_back() -> None:
    weights = {"w": 300 * CONV["w"] / np.abs(CONV["w"]).max(), "s": np.full((4, 1, 1), 300.0)}
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"]), helper.make_node("Mul", ["c", "s"], ["y"])]
    model = halved(small(nodes, weights))
    fusion = fuse_graph(model, certificate=False)
    assert operators(fusion.model) == {"Conv": 1, "Mul": 1}
    assert any("rolled back" in refusal.reason for refusal in fusion.refusals)


def test_operators_of_other_domains_stay_and_are_no_obstacle() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("Mul", ["c", "s"], ["m"]),
        helper.make_node("Strange", ["m"], ["y"], domain="some.where"),
    ]
    model = small(nodes, CONV)
    model.opset_import.append(helper.make_opsetid("some.where", 1))
    fusion = fuse_graph(model)
    assert operators(fusion.model) == {"Conv": 1, "Strange": 1}
    assert fusion.certificate.ok
    assert "Strange" in fusion.certificate.left_out, "what was not run is said"
    known = [nodes[0], helper.make_node("Relu", ["c"], ["y"])]
    assert fuse_graph(small(known, CONV)).certificate.left_out == ""


def test_names_what_it_cannot_do() -> None:
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"])]
    with pytest.raises(FusionError, match="opset 10"):
        fuse_graph(small(nodes, CONV, opset=10))
    with pytest.raises(UnknownNameError, match="cpu"):
        fuse_graph(small(nodes, CONV), fuse_cost="cpus")


def test_keeps_the_branches_a_pattern_names() -> None:
    module = wake(nn.Sequential(repvgg(8, 8), repvgg(8, 8)))
    fusion = fuse_graph(dynamo(module, torch.randn(2, 8, 9, 9)), keep_branches=["1"])
    assert operators(fusion.model)["Conv"] == 3
    assert any("pattern" in refusal.reason for refusal in fusion.refusals)


def test_external_data(tmp_path: Any) -> None:
    model = torchscript(wake(repvgg(8, 8)), torch.randn(2, 8, 9, 9))
    onnx.save_model(model, tmp_path / "m.onnx", save_as_external_data=True, size_threshold=0, location="m.data")
    bare = onnx.load(tmp_path / "m.onnx", load_external_data=False)
    fusion = fuse_graph(bare, folder=tmp_path)
    assert operators(fusion.model) == {"Conv": 1, "Relu": 1}
    assert fusion.certificate.ok
