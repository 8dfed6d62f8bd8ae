"""Choose an entry for a place: what fits the task, the shape, the budget and the target, cheapest first; free of torch.

What is known of an entry has four sources, and each says where it is from:

| what | from |
|---|---|
| cost at common shapes | ``common_shapes.jsonl``, measured |
| targets, TensorRT layers | ``choosing.json``, from the tables of docs/targets.md and docs/tensorrt.md |
| how it grows, published accuracy | the same file: counted by PyTorch, and as the named paper prints it |
| tasks | the entry's Spec: those that its paper reports on |
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, get_args

from attn_export.errors import UnknownNameError, UsageError
from attn_export.mechanisms import MECHANISMS, static_spec
from attn_export.mechanisms.spec import Task
from attn_export.tools.common_shapes import BUDGETS, NETWORKS, SHAPES, ShapeRow, read

FACTS = Path(__file__).with_name("choosing.json")
TASKS: tuple[str, ...] = get_args(Task)
#: What a target gave that is a reason to choose an entry: it ran and is right, or it compiled where nothing runs.
HOLDS = ("right", "compiled")


@dataclass(frozen=True)
class Question:
    """What a user asks.

    Attributes:
        shape: one of ``SHAPES``.
        task: that the paper reports on.
        budget: at most this: ``free``, ``light`` or ``heavy``.
        max_ratio: the largest time over the yardstick's, by the upper end of the interval.
        target: as ``targets`` names it, or the beginning: ``qnn``, ``qnn:sm8650:int8``, ``tensorrt``.
        families: of the catalogue; all without any.
    """

    shape: str = SHAPES[1]
    task: str | None = None
    budget: str | None = None
    max_ratio: float | None = None
    target: str | None = None
    families: tuple[str, ...] = ()

    def checked(self) -> Question:
        """Give it back where it can be asked.

        Raises:
            UsageError: a shape at which nothing is measured, a task, budget or target that is none.
        """
        if self.shape not in SHAPES:
            raise UsageError(f"--shape: expected {', '.join(SHAPES)}, where entries are measured; got {self.shape!r}")
        for kind, value, known in (
            ("task", self.task, TASKS),
            ("budget", self.budget, BUDGETS),
            *(("family", one, {place.family for place in MECHANISMS.entries.values()}) for one in self.families),
        ):
            if value is not None and value not in known:
                raise UnknownNameError(kind, value, known)
        targets = {name for fact in facts().values() for name in fact.get("targets", {})}
        if self.target is not None and not any(matches(name, self.target) for name in targets):
            raise UnknownNameError("target", self.target, targets | {name.partition(":")[0] for name in targets})
        return self


@dataclass(frozen=True)
class Choice:
    """One entry that fits, with its row and what else is known of it."""

    row: ShapeRow
    tasks: tuple[str, ...]
    targets: Mapping[str, str]
    grows: str = ""
    published: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """What fits, cheapest first, and which entries were not looked at, by the reason."""

    choices: tuple[Choice, ...]
    not_measured: tuple[str, ...]
    left_out: Mapping[str, int]


def answer(question: Question, rows: Mapping[tuple[str, str], ShapeRow] | None = None) -> Answer:
    """Rank what fits by the upper end of its ratio.

    An entry without a row, or without a row of the target, is no answer: it is listed as not measured.
    """
    question = question.checked()
    known = read() if rows is None else rows
    found: list[Choice] = []
    lacking: list[str] = []
    left: dict[str, int] = {}
    for name, place in MECHANISMS.entries.items():
        if place.path is None or (question.families and place.family not in question.families):
            continue
        fact = facts().get(name, {})
        row = known.get((name, question.shape))
        kinds = {kind(shape) for entry, shape in known if entry == name}
        if row is None and kinds and kind(question.shape) not in kinds:
            why = "take no tensor of this kind"
        elif row is None:
            lacking.append(name)
            continue
        elif row.ratio is None:
            why = "cannot take this shape"
        else:
            tasks = static_spec.read(place.path).spec.tasks
            targets = _targets(fact, question.target)
            if question.target is not None and not targets:
                lacking.append(name)
                continue
            why = _unfit(question, row, tasks, targets)
            if not why:
                found.append(Choice(row, tasks, targets, fact.get("grows", ""), fact.get("published", {})))
        if why:
            left[why] = left.get(why, 0) + 1
    found.sort(key=lambda choice: (choice.row.high or 0.0, choice.row.entry))
    return Answer(tuple(found), tuple(lacking), left)


def _targets(fact: Mapping[str, Any], wanted: str | None) -> dict[str, str]:
    return {name: state for name, state in fact.get("targets", {}).items() if wanted is None or matches(name, wanted)}


def _unfit(question: Question, row: ShapeRow, tasks: Iterable[str], targets: Mapping[str, str]) -> str:
    assert row.high is not None
    assert row.budget is not None
    if question.task is not None and question.task not in tasks:
        return f"have no {question.task} in their paper"
    if question.budget is not None and BUDGETS.index(row.budget) > BUDGETS.index(question.budget):
        return f"cost more than {question.budget}"
    if question.max_ratio is not None and row.high > question.max_ratio:
        return f"may cost more than {question.max_ratio:g}"
    if question.target is not None and not any(state in HOLDS for state in targets.values()):
        return f"are not right on {question.target}"
    return ""


def kind(shape: str) -> str:
    """Say what is measured at a shape.

    >>> [kind(shape) for shape in SHAPES]
    ['maps', 'maps', 'tokens', 'images']
    """
    return "images" if shape == NETWORKS else "maps" if shape.count("x") == 3 else "tokens"


def matches(name: str, wanted: str) -> bool:
    """Whether a target is what was asked for, or below it.

    >>> matches("qnn:sm8650:int8", "qnn"), matches("qnn:sm8650:int8", "qnn:sm8650"), matches("ort", "o")
    (True, True, False)
    """
    return name == wanted or name.startswith(f"{wanted}:")


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Give the places of the points that no other is both below (first) and above (second) of: the Pareto front.

    >>> front([(1, 1), (2, 3), (3, 2), (4, 4)])
    [0, 1, 3]
    """
    return [
        index
        for index, (cost, gain) in enumerate(points)
        if not any(c <= cost and g >= gain and (c, g) != (cost, gain) for c, g in points)
    ]


@cache
def facts() -> dict[str, dict[str, Any]]:
    """Read what is known of entries beside their cost; nothing where there is no file."""
    if not FACTS.is_file():
        return {}
    found: dict[str, dict[str, Any]] = json.loads(FACTS.read_text(encoding="utf-8"))
    return found
