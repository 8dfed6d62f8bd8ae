"""What the catalogue's graphs ask of compilers for phones: few dimensions, and none of the operators those lack."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from attn_export.export.sources.catalogue import from_spec
from attn_export.mechanisms import MECHANISMS
from benchmarks.graph_forms import EASY_RANK, entry, form_of


def graph(nodes: list[onnx.NodeProto], shape: tuple[int, ...], **constants: object) -> onnx.ModelProto:
    tensors = [numpy_helper.from_array(np.asarray(value, np.int64), name) for name, value in constants.items()]
    return helper.make_model(
        helper.make_graph(
            nodes,
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
            tensors,
        ),
        opset_imports=[helper.make_opsetid("", 18)],
    )


def test_what_is_hard_is_named_and_counted() -> None:
    reshape = helper.make_node("Reshape", ["x", "s"], ["r"], name="up")
    turn = helper.make_node("Transpose", ["r"], ["t"], perm=[4, 3, 2, 1, 0])
    pad = helper.make_node("Pad", ["t", "p"], ["q"])
    most = helper.make_node("ReduceMax", ["q", "a"], ["y"])
    found = form_of("n", graph([reshape, turn, pad, most], (2, 6, 4, 5), s=[2, 3, 2, 4, 5], p=[0] * 9 + [1], a=[1]))
    assert (found.rank, found.where) == (5, "Reshape up")
    assert dict(found.found) == {"Pad 5-D": 1, "ReduceMax by input": 1, "Transpose 5-D": 1}
    easy = form_of("n", graph([helper.make_node("Relu", ["x"], ["y"])], (2, 6, 4, 5)))
    assert (easy.rank, easy.found) == (4, ())


@pytest.mark.parametrize(("pads", "axes", "hard"), [([0, 0, 1, 1] * 2, None, False), ([0, 1, 0, 0] * 2, None, True)])
def test_a_padding_of_channels_is_hard(pads: list[int], axes: None, hard: bool) -> None:
    found = form_of("n", graph([helper.make_node("Pad", ["x", "p"], ["y"])], (1, 2, 3, 4), p=pads))
    assert bool(found.found) is hard


@pytest.mark.parametrize("name", ["outlook", "window", "halo", "involution"])
def test_these_were_refused_for_their_ranks(name: str) -> None:
    assert form_of(name, entry(name, "test", dynamic=False)).rank <= EASY_RANK


def test_outlook_traces_without_aliases() -> None:
    subject = from_spec("outlook", MECHANISMS["outlook"], "test")
    program = torch.export.export(subject.module, tuple(subject.example().values()))
    assert not [node for node in program.graph.nodes if "alias" in str(node.target)]
