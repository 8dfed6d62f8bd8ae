"""Which mutants of our own code are tried, and what is read off the tool's answer: functions without side effects."""

from __future__ import annotations

import ast
import json
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.equivalent_mutants import EQUIVALENT, Equivalent

#: A place in a text: line, counted from one, and column, counted from zero.
Place = tuple[int, int]


@dataclass(frozen=True, order=True)
class Mutant:
    """A fault that the tool can plant: where, by which of its operators, and at which place of that operator."""

    place: Place
    operator: str
    occurrence: int

    @property
    def line(self) -> int:
        """The line it is in."""
        return self.place[0]


@dataclass(frozen=True)
class Tried:
    """What became of a mutant.

    Attributes:
        module: the file.
        mutant: what was planted.
        outcome: ``killed``, ``survived``, ``equivalent`` or ``broken``, where the tool could not tell.
        old: the lines that it took out, as one.
        new: what it put in their place.
    """

    module: str
    mutant: Mutant
    outcome: str
    old: str
    new: str


def placed(dump: str, source: str) -> list[Mutant]:
    """Read the tool's list of what it can do to a file, less what lies in annotations."""
    found = [row["mutations"][0] for row, _ in map(json.loads, dump.splitlines())]
    skipped = tuple(unevaluated(source))
    mutants = (Mutant((m["start_pos"][0], m["start_pos"][1]), m["operator_name"], m["occurrence"]) for m in found)
    return sorted(m for m in mutants if not any(start <= m.place < end for start, end in skipped))


def unevaluated(source: str) -> Iterator[tuple[Place, Place]]:
    """Begin and end of every annotation of a file that has them evaluated by nobody."""
    tree, lines = ast.parse(source), source.splitlines()
    if "annotations" not in {a.name for n in tree.body if isinstance(n, ast.ImportFrom) for a in n.names}:
        return
    for node in ast.walk(tree):
        for part in (getattr(node, "annotation", None), getattr(node, "returns", None)):
            if isinstance(part, ast.expr):
                assert part.end_lineno is not None
                assert part.end_col_offset is not None
                begin, end = (part.lineno, part.col_offset), (part.end_lineno, part.end_col_offset)
                yield _counted(lines, begin), _counted(lines, end)


def _counted(lines: Sequence[str], place: Place) -> Place:
    """Turn a column in bytes into one in characters."""
    line, column = place
    return line, len(lines[line - 1].encode()[:column].decode())


def sample(mutants: Iterable[Mutant], each: int, seed: str) -> list[Mutant]:
    """Draw mutants from places that all differ, as far as there are so many; in the order of the text.

    Where an operator could become ten others, that is one place, or arithmetic would be most of every sample.
    """
    by_place: dict[Place, list[Mutant]] = {}
    for mutant in sorted(mutants):
        by_place.setdefault(mutant.place, []).append(mutant)
    drawn = random.Random(seed)  # noqa: S311 - a sample that can be drawn again, no secret
    places = drawn.sample(sorted(by_place), min(each, len(by_place)))
    return sorted(drawn.choice(by_place[place]) for place in places)


def changed(diff: str) -> tuple[str, str]:
    """Lines taken out and put in by a unified diff, each as one line without indents."""
    body = [line for line in diff.splitlines() if not line.startswith(("---", "+++", "@@"))]
    old, new = ([line[1:].strip() for line in body if line.startswith(sign)] for sign in "-+")
    return " ".join(old), " ".join(new)


def verdict(module: str, mutant: Mutant, answer: Mapping[str, Any], known: Iterable[Equivalent] = EQUIVALENT) -> Tried:
    """Read the tool's answer. A mutant that survives and is known to compute the same is equivalent."""
    old, new = changed(answer["diff"] or "")
    outcome = answer["test_outcome"] if answer["worker_outcome"] == "normal" else "broken"
    if outcome == "incompetent":
        outcome = "broken"
    if outcome == "survived" and any((k.module, k.old, k.new) == (module, old, new) for k in known):
        outcome = "equivalent"
    return Tried(module, mutant, outcome, old, new)


def score(found: Sequence[Tried]) -> float:
    """Share of the mutants that are not equivalent which the tests killed; NaN where there is none."""
    killed, left = (sum(one.outcome == word for one in found) for word in ("killed", "survived"))
    return killed / (killed + left) if killed + left else float("nan")


def table(found: Sequence[Tried]) -> str:
    """Count the outcomes of each module, and of all."""
    by_module = {one.module: [other for other in found if other.module == one.module] for one in found}
    rows = [*by_module.items(), ("all", list(found))]
    lines = ["| module | tried | killed | survived | equivalent | broken | score |", "|---|--:|--:|--:|--:|--:|--:|"]
    for name, ones in rows:
        counts = [sum(one.outcome == word for one in ones) for word in ("killed", "survived", "equivalent", "broken")]
        cells = [name, *map(str, (len(ones), *counts)), f"{score(ones):.0%}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
