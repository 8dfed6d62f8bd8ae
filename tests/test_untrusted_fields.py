"""Dataclasses of plain data: every annotation that is known takes what it says, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import pytest

from attn_export.untrusted import plain_json
from attn_export.untrusted.fields import Within, build


@dataclass(frozen=True)
class Inner:
    name: Annotated[str, Within(1, 5)]


@dataclass(frozen=True)
class Outer:
    count: Annotated[int, Within(0)]
    share: Annotated[float, Within(0, 1, above=True)] = 0.5
    kind: Literal["a", "b", False] = "a"
    pair: tuple[float, str] = (1.0, "x")
    rows: Annotated[tuple[Inner, ...], Within(0, 2)] = ()
    maybe: Inner | None = None
    either: int | str = 0
    table: Mapping[str, Annotated[int, Within(1)]] = field(default_factory=dict)
    any: Any = None


def test_what_fits_is_made() -> None:
    plain = {
        "count": 0, "share": 1, "kind": "b", "pair": [2, "y"], "rows": [{"name": "a"}], "maybe": {"name": "b"},
        "either": "z", "table": {"a": 1}, "any": [None],
    }  # fmt: skip
    made = build(Outer, plain)
    assert made == Outer(0, 1.0, "b", (2.0, "y"), (Inner("a"),), Inner("b"), "z", {"a": 1}, [None])
    assert isinstance(made.share, float)
    assert isinstance(made.pair[0], float)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"count": -1}, "count: expected a number of at least 0, got -1"),
        ({"count": True}, "count: expected int, got bool"),
        ({"count": 1.0}, "count: expected int, got float"),
        ({"share": 0.0}, "share: expected a number above 0 and of at most 1, got 0"),
        ({"share": 1.5}, "share: expected a number above 0 and of at most 1, got 1.5"),
        ({"share": float("nan")}, "share: expected a finite number, got nan"),
        ({"kind": "c"}, "kind: expected 'a' or 'b' or False, got 'c'"),
        ({"kind": 0}, "kind: expected 'a' or 'b' or False, got 0"),
        ({"kind": []}, "kind: expected 'a' or 'b' or False, got a list"),
        ({"pair": [1.0]}, "pair: expected a list of 2, got 1"),
        ({"pair": [1.0, 2]}, "pair[1]: expected str, got int"),
        ({"pair": "ab"}, "pair: expected a list, got str"),
        ({"rows": [{"name": "a"}] * 3}, "rows: expected a length of at least 0 and of at most 2, got 3"),
        ({"rows": [{"name": ""}]}, "rows[0].name: expected a length of at least 1 and of at most 5, got 0"),
        ({"rows": [{}]}, "rows[0].name: is missing"),
        ({"maybe": {"name": 1}}, "maybe.name: expected str, got int"),
        ({"maybe": 1}, "maybe: expected an object, got int"),
        ({"either": 1.5}, "either: expected int or str, got float"),
        ({"either": None}, "either: expected int or str, got null"),
        ({"table": {"a": 0}}, "table.a: expected a number of at least 1, got 0"),
        ({"table": []}, "table: expected an object, got a list"),
        ({"extra": 1}, "extra: there is no such field"),
    ],
)
def test_what_does_not_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        build(Outer, {"count": 1, **change})


def test_half_a_letter_is_no_text() -> None:
    assert plain_json.parse(r'"\ud83e\udd8a"') == "🦊"
    for text in (r'"\ud800"', r'{"\uDC00": 1}', r'[["\ud83ex"]]'):
        with pytest.raises(ValueError, match="surrogates not allowed"):
            plain_json.parse(text)
