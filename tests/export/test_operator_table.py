"""The exporter's table of operators: made once, anew where PyTorch has learnt operators, and the graph is the same."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from attn_export.export.in_memory import from_module
from attn_export.export.onnx import operator_table
from attn_export.export.onnx.torch_export import export

registration = pytest.importorskip("torch.onnx._internal.exporter._registration")


def test_the_table_is_made_once_and_once_more_for_new_operators() -> None:
    with operator_table.kept():
        first = registration.ONNXRegistry.from_torchlib(opset_version=18)
        assert registration.ONNXRegistry().from_torchlib(opset_version=18) is first
        with torch.library._scoped_library("attn_export_test", "FRAGMENT") as library:
            library.define("of_a_library(Tensor x) -> Tensor")
            assert registration.ONNXRegistry.from_torchlib(opset_version=18) is not first
    assert registration.ONNXRegistry.from_torchlib(opset_version=18) is not first  # exports that are not ours


def test_a_shared_table_gives_the_same_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    net = from_module(nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU()).eval(), [torch.rand(1, 3, 5, 5)])
    shared = [export(net).model.graph.node for _ in range(2)]
    monkeypatch.setattr(operator_table, "_registry", lambda: None)  # as where PyTorch has moved it
    alone = export(net).model.graph.node
    assert [[node.op_type for node in nodes] for nodes in shared] == [[node.op_type for node in alone]] * 2
