"""What the lint data say of single nodes is what the converters that are here say now, and a wrong row is seen."""

from __future__ import annotations

from dataclasses import replace

import pytest

from attn_export.export.lint._probed import FOLDER, TAKEN, Probed
from benchmarks.probes import compiled, converted, drawn
from tests.edge import needs

needs("openvino", "ncnn", "pnnx", "onnxruntime_qnn", "litert_torch", "ai_edge_litert")
pytestmark = pytest.mark.edge

IMAGE = drawn.IMAGE
#: A few of each answer; a runtime of another version may answer otherwise, and then the data are to be made anew.
NODES = (
    drawn.Node("Relu", (IMAGE,)),
    drawn.Node("Transpose", (IMAGE,), {"perm": (0, 2, 3, 1)}),
    drawn.Node("Softmax", (IMAGE,), {"axis": 3}),
    drawn.Node("InstanceNormalization", ((1, 8, 16), drawn._w(8), drawn._w(8))),
)


@pytest.mark.parametrize("target", ["openvino", "ncnn", "qnn", "litert"])
def test_the_answers_are_those_of_today(target: str) -> None:
    kept = Probed.read(FOLDER / f"{target}.json")
    how = compiled if target in compiled.COMPILERS else converted
    assert dict(kept.tools) == how.versions(target)
    asked = list(how.answers(target, [drawn.made(node) for node in NODES]))
    assert converted.differing(kept, asked) == []
    (first, _), *_ = asked
    planted = kept.with_answers({first.forms[0]: ("refused", "planted")}, kept.date)
    assert converted.differing(planted, asked) == [f"{first.forms[0]}: refused in the data, taken now"]
    gone = replace(kept, answers={form: one for form, one in kept.answers.items() if form not in first.forms})
    assert converted.differing(gone, asked) == [f"{first.forms[0]}: not in the data, {TAKEN} now"]
