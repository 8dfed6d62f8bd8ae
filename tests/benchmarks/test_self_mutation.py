"""Mutation testing of our own code: what is drawn, what is read off the tool's answer, and what the table names."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from benchmarks.equivalent_mutants import EQUIVALENT, Equivalent
from benchmarks.mutant_sample import Mutant, changed, placed, sample, score, table, unevaluated, verdict
from benchmarks.self_mutation import HELD_BY

ROOT = Path(__file__).parents[2]
SOURCE = """from __future__ import annotations

name: int | None = 1 + 2


def f(é: int | None, b: int = 3) -> int | str:
    return 4
"""
DIFF = """--- mutation diff ---
--- a/x.py
+++ b/x.py
@@ -1,3 +1,3 @@
 before
-    a = 1 + 2
+    a = 1 - 2
 after"""


def row(line: int, column: int, operator: str = "core/NumberReplacer", occurrence: int = 0) -> str:
    mutation = {"start_pos": [line, column], "operator_name": operator, "occurrence": occurrence}
    return json.dumps([{"mutations": [mutation]}, None])


def answer(outcome: str, worker: str = "normal") -> dict[str, str]:
    return {"worker_outcome": worker, "test_outcome": outcome, "diff": DIFF}


ONE = Mutant((1, 0), "core/NumberReplacer", 0)


def test_what_lies_in_annotations_is_left_out_and_nothing_else() -> None:
    last = SOURCE.splitlines()[5]
    inside = [(3, 10), (6, last.index("|")), (6, last.rindex("|"))]
    outside = [(3, SOURCE.splitlines()[2].index("+")), (6, last.index("3")), (7, 11)]
    found = placed("\n".join(row(*place) for place in (*inside, *outside)), SOURCE)
    assert [m.place for m in found] == outside
    evaluated = SOURCE.replace("from __future__ import annotations", "")
    assert not list(unevaluated(evaluated))


def test_a_sample_takes_each_place_once_and_can_be_drawn_again() -> None:
    mutants = [Mutant((line, 0), f"core/{op}", 0) for line in range(1, 21) for op in "abcdefgh"]
    drawn = sample(mutants, 12, "0 x.py")
    assert len({m.place for m in drawn}) == 12
    assert drawn == sorted(drawn)
    assert set(drawn) <= set(mutants)
    assert len({m.operator for m in drawn}) > 1
    assert drawn == sample(mutants[::-1], 12, "0 x.py"), "the order of the tool's list plays no part"
    assert drawn != sample(mutants, 12, "1 x.py")
    assert len(sample(mutants, 99, "0 x.py")) == 20
    assert sample([], 5, "0") == []


def test_a_diff_is_read_as_what_went_and_what_came() -> None:
    assert changed(DIFF) == ("a = 1 + 2", "a = 1 - 2")
    assert changed("") == ("", "")


@pytest.mark.parametrize(
    ("said", "outcome"),
    [
        (answer("killed"), "killed"),
        (answer("survived"), "survived"),
        (answer("incompetent"), "broken"),
        (answer("survived", "no-test"), "broken"),
        ({"worker_outcome": "exception", "test_outcome": "incompetent", "diff": None}, "broken"),
    ],
)
def test_the_tools_answer_is_an_outcome(said: dict[str, str], outcome: str) -> None:
    assert verdict("x.py", ONE, said, ()).outcome == outcome


def test_only_a_survivor_that_is_known_is_equivalent() -> None:
    known = (Equivalent("x.py", "a = 1 + 2", "a = 1 - 2", "nobody reads it"),)
    assert verdict("x.py", ONE, answer("survived"), known).outcome == "equivalent"
    assert verdict("y.py", ONE, answer("survived"), known).outcome == "survived"
    assert verdict("x.py", ONE, answer("killed"), known).outcome == "killed", "then it was not equivalent"
    assert verdict("x.py", ONE, answer("survived"), (Equivalent("x.py", "b", "a = 1 - 2", ""),)).outcome == "survived"


def test_the_score_leaves_out_what_is_equivalent_or_broken() -> None:
    outcomes = ["killed"] * 3 + ["survived", "incompetent"]
    found = [verdict("x.py", ONE, answer(outcome), ()) for outcome in outcomes]
    known = (Equivalent("y.py", "a = 1 + 2", "a = 1 - 2", "nobody reads it"),)
    found.append(verdict("y.py", ONE, answer("survived"), known))
    assert score(found) == 0.75
    assert math.isnan(score(found[-1:]))
    rows = table(found).splitlines()
    assert rows[2:] == [
        "| x.py | 5 | 3 | 1 | 0 | 1 | 75% |",
        "| y.py | 1 | 0 | 0 | 1 | 0 | nan% |",
        "| all | 6 | 3 | 1 | 1 | 1 | 75% |",
    ]


@pytest.mark.parametrize("module", HELD_BY)
def test_modules_and_their_tests_are_there(module: str) -> None:
    assert (ROOT / module).is_file()
    assert all((ROOT / test).is_file() for test in HELD_BY[module])


def test_what_is_listed_as_equivalent_is_still_in_the_module() -> None:
    for one in EQUIVALENT:
        assert one.module in HELD_BY
        lines = [line.strip() for line in (ROOT / one.module).read_text(encoding="utf-8").splitlines()]
        assert one.old in lines, f"{one.module}: {one.old!r} is gone or changed: decide again"
        assert one.reason
