"""What OpenVINO says, in the words of the graph: no runtime is needed to read it."""

from __future__ import annotations

import sys

import onnx
import pytest
from onnx import TensorProto, helper

from attn_export.deploy_tests.backends.openvino.backend import output_names
from attn_export.deploy_tests.backends.openvino.profile import kernels
from attn_export.errors import BackendError
from attn_export.export.converters.openvino import refused
from attn_export.process.quiet_import import without


def graph() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Foo", ["x"], ["a"], name="own", domain="com.x"),
        helper.make_node("Det", ["a"], ["b"]),
        helper.make_node("Reshape", ["b", "s"], ["y"], name="cut"),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "xy"]
    return helper.make_model(helper.make_graph(nodes, "g", values[:1], values[1:]))


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        (
            "Exception from x\nSummary:\n-- No conversion rule found for operations: com.x.Foo, Det-18\n",
            "Foo 'own', Det 'b': it knows no such operator",
        ),
        (
            "-- Reshape-18 with a message:\nWhile validating ONNX node '<Node(Reshape): y>': Check 'equal' failed at"
            " src/core/x.hpp:360:\nmore",
            "Reshape 'cut': Check 'equal' failed",
        ),
        ("No conversion rule found for operations: Bar-1", "Bar-1: it knows no such operator"),
        ("something\nelse", "the model: something else"),
    ],
)
def test_a_refusal_names_the_nodes(said: str, wanted: str) -> None:
    assert refused(said, graph()) == wanted


def test_an_output_that_is_not_there_is_said() -> None:
    with pytest.raises(BackendError, match="expected outputs y, got one that is called a, b"):
        output_names([{"b", "a"}], ["y"])
    with pytest.raises(BackendError, match="got one that is called nothing"):
        output_names([set()], [])


def test_a_kernel_has_its_undisturbed_time_and_the_nodes_it_was_made_of() -> None:
    runs = [[("c/WithoutBiases", "Convolution", time), ("r", "Reorder", 1.0)] for time in (3.0, 2.0, 90.0)]
    first, second = kernels(runs, {"c/WithoutBiases": ("c/WithoutBiases", "c", "relu"), "r": ()})
    assert (first.name, first.op, first.microseconds, first.nodes) == (
        "c/WithoutBiases",
        "Convolution",
        2.0,
        ("c", "relu"),
    )
    assert second.nodes == ()


def test_what_is_hidden_is_there_again_afterwards() -> None:
    sys.modules.pop("json.tool", None)
    assert without("json.tool", "argparse_not_there").__name__ == "json.tool"
    assert "argparse_not_there" not in sys.modules
    sys.modules.pop("json.tool")
    with pytest.raises(ImportError):
        without("json.tool", "argparse")
    assert sys.modules["argparse"] is not None
