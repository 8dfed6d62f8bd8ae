"""What picks by size is named where an output stands behind it, and not where it does not."""

from __future__ import annotations

import onnx
import pytest

from attn_export.export.graph.chosen_order import ordering

MODEL = onnx.parser.parse_model(
    """<ir_version: 8, opset_import: ["": 18]> picks (float[1, 9] x) => (float[1, 9] scores, float[1, 3] best)
    <int64[1] k = {3}> { scores = Sigmoid(x)  top, place = TopK(scores, k)  best = Relu(top) }"""
)


@pytest.mark.parametrize(("output", "node"), [("best", "TopK 'top'"), ("scores", "")])
def test_only_what_stands_behind_it(output: str, node: str) -> None:
    said = ordering(MODEL, [output])
    assert said.startswith(f"; {node} picks") if node else not said
    assert not node or said.endswith("let forward return it, and choose in code of your own")


def test_of_a_file_what_enters_it_can_be_taken() -> None:
    assert ordering(MODEL, ["best"], is_file=True).endswith("prove what enters it, --outputs scores")
