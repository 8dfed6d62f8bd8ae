"""E1: NVIDIA's builder takes the int8 model of a trained ViT, and computes every layer of it in int8."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from attn_export.deploy_tests.backends.tensorrt.evidence import compile_only
from attn_export.export.quantise.quantise import quantise
from attn_export.export.quantise.quantised import INT8, Quantised, Wish
from attn_export.types import ShapeRange
from tests.data.trained.pictures import part
from tests.data.trained.trained import exported
from tests.deploy_tests.tensorrt.conftest import rtx  # noqa: F401  # a fixture

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("rtx")]
BATCHES = {"x": ShapeRange((1, 3, 32, 32), (1, 3, 32, 32), (4, 3, 32, 32))}


def made(*, unsigned: bool) -> Quantised:
    feeds = [{"x": one[None]} for one in part("textures", "calibration").x[:24]]
    return quantise(exported("vit", fuse=True), feeds[:16], feeds[16:], Wish(unsigned=unsigned), lambda _: None)


def test_a_symmetric_vit_builds_with_all_its_layers_in_int8(tmp_path: Path) -> None:
    found = made(unsigned=False)
    onnx.save(found.model, tmp_path / "int8.onnx")
    plan = compile_only(tmp_path / "int8.onnx", "86", shapes=BATCHES).plan
    integers = {node for layer in plan.layers for node in layer.nodes if "int8" in {one.dtype for one in layer.inputs}}
    layers = {site.node for site in found.sites if site.form == INT8}
    assert len(layers) == 17
    assert layers <= integers, layers - integers
    # In float32 none is fused, be the rest int8 or not.
    assert not plan.attention


def test_scores_are_not_rounded() -> None:
    graph = made(unsigned=False).model.graph
    rounded = {node.input[0] for node in graph.node if node.op_type == "QuantizeLinear"}
    scores = [node.input[0] for node in graph.node if node.op_type == "Softmax"]
    assert len(scores) == 4
    assert not rounded & {*scores, *(node.output[0] for node in graph.node if node.op_type == "Softmax")}
