"""What is typed has limits: ``--kwargs`` and ``--shapes`` neither hang nor overflow, and say what they want."""

from __future__ import annotations

import time

import pytest

from attn_export.deploy_tests import shapes
from attn_export.errors import UsageError
from attn_export.types import TensorSpec
from attn_export.untrusted import plain_json
from tests.tools.run import run

X = TensorSpec("x", "float32", ("b", 3))


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"a": ' * 100 + "1" + "}" * 100,
        '{"a": ' + "9" * 5000 + "}",
        '{"a": NaN}',
        '{"a": 1e999}',
        '{"a": 1, "a": 2}',
        "[1]",
        "",
        '{"a": "' + "x" * 2_000_000 + '"}',
    ],
)
def test_arguments_are_plain_json(text: str) -> None:
    done = run("somewhere:Net", "--input", "1x3", "--kwargs", text)
    assert (done.code, "--kwargs: expected a JSON object" in done.err.replace("\n", " ")) == (2, True), done.err[:500]
    assert len(done.err) < 1000, "what was typed is not repeated without end"


def test_a_string_without_an_end_takes_no_square_of_time() -> None:
    began = time.perf_counter()
    with pytest.raises(ValueError, match="Unterminated string"):
        plain_json.parse('"' + '\\"' * 100_000)
    assert time.perf_counter() - began < 5, "it took minutes"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("x:" + "9" * 5000, "letters"),
        ("x:" + "9" * 12 + "x3", "expected --shapes"),
        ("x:99999999x999", "elements"),
        ("x:" + "x".join(["1"] * 65), "expected --shapes"),
        ("x:٣x3", "expected --shapes"),
    ],
)
def test_shapes_have_limits(text: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        shapes.parse(text, [X])


def test_a_model_without_inputs_has_no_shapes() -> None:
    with pytest.raises(UsageError, match="has no inputs"):
        shapes.parse("1x3", [])
