"""What converters and compilers said of single nodes, kept by the form of the node, and the rules that follow.

The files ``probed/NAME.json`` are written by ``python -m benchmarks.probes``. A form that is in none of their lists was
not tried: it is unknown, and said to be so.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from attn_export.export.graph.index import GraphIndex
from attn_export.export.lint._form import Form, Forms
from attn_export.export.lint._rule import Hit, Rule

FOLDER = Path(__file__).resolve().parent / "probed"
#: What may be said of a form, with the level that a finding has; what is taken is no finding.
LEVELS = {"refused": "refused", "wrong": "wrong", "cpu": "split", "unknown": "unknown"}
TAKEN = "taken"


@dataclass(frozen=True)
class Probed:
    """The answers of one target.

    Attributes:
        target: whose.
        tools: what answered, with its version.
        machine: where.
        date: of the last answer.
        answers: what was said of each form, and why; the reason of what is taken is empty.
    """

    target: str
    tools: Mapping[str, str]
    machine: str
    date: str
    answers: Mapping[str, tuple[str, str]] = field(repr=False)

    @classmethod
    def read(cls, file: Path) -> Probed:
        """Read a file.

        Raises:
            ValueError: it holds what no file of answers holds, or one form twice.
        """
        data: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        told = [(form, TAKEN, "") for form in data.pop(TAKEN)]
        for kind in LEVELS:
            told += [(form, kind, reason) for reason, forms in data.pop(kind).items() for form in forms]
        answers = {form: (kind, reason) for form, kind, reason in told}
        if len(answers) != len(told) or data.keys() != {"target", "tools", "machine", "date"}:
            raise ValueError(f"{file}: expected answers, each form once, got {', '.join(data)} and {len(told)} forms")
        return cls(answers=answers, **data)

    def write(self, file: Path) -> None:
        """Write the file anew, whole or not at all."""
        forms: dict[str, dict[str, list[str]]] = {kind: {} for kind in LEVELS}
        for form, (kind, reason) in sorted(self.answers.items()):
            if kind != TAKEN:
                forms[kind].setdefault(reason, []).append(form)
        data = {
            "target": self.target,
            "tools": dict(self.tools),
            "machine": self.machine,
            "date": self.date,
            TAKEN: sorted(form for form, (kind, _) in self.answers.items() if kind == TAKEN),
            **{kind: dict(sorted(reasons.items())) for kind, reasons in forms.items()},
        }
        file.parent.mkdir(exist_ok=True)
        partial = file.with_name(f".{file.name}.partial")
        partial.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        partial.replace(file)

    def with_answers(self, more: Mapping[str, tuple[str, str]], date: str) -> Probed:
        """Give these answers and further ones, which hold where both speak."""
        return replace(self, answers={**self.answers, **more}, date=date)

    @cached_property
    def _by_operator(self) -> dict[str, list[tuple[Form, str]]]:
        found: dict[str, list[tuple[Form, str]]] = {}
        for text, (kind, _) in self.answers.items():
            form = Form.of(text)
            found.setdefault(form.op, []).append((form, kind))
        return found

    def answer(self, form: Form) -> tuple[str, str]:
        """Say what is known of a form: the kind of answer, and why."""
        if (told := self.answers.get(str(form))) is not None:
            return told
        others = [kind for _, kind in self._by_operator.get(form.op, [])]
        if not others:
            return "unknown", "no form of this operator was tried"
        taken = others.count(TAKEN)
        return "unknown", f"this form was not tried; of {len(others)} others of the operator {taken} are taken"

    def remedy(self, form: Form) -> str:
        """Say what form of the same operator was taken, by the fewest differences."""
        taken = [other for other, kind in self._by_operator.get(form.op, []) if kind == TAKEN]
        if not taken:
            return "no form of it was taken: write it in other operators"
        nearest = min(taken, key=lambda other: (len(form.differences(other)), str(other)))
        changes = [
            f"{name} {theirs or 'not given'} in place of {ours or 'not given'}"
            for name, ours, theirs in form.differences(nearest)
        ]
        return f"taken with {', '.join(changes)}"

    @property
    def source(self) -> str:
        """Say who answered, and when."""
        return f"{', '.join(self.tools.values())} [ran {self.date}]"


def rules(name: str) -> list[Rule]:
    """Make the rules of a target of its answers: a rule for each level."""
    probed = Probed.read(FOLDER / f"{name}.json")
    return [_rule(probed, name, kind, level) for kind, level in LEVELS.items()]


def _rule(probed: Probed, name: str, kind: str, level: str) -> Rule:
    def find(graph: GraphIndex) -> Iterator[Hit]:
        for node, form in Forms(graph.model):
            told, reason = probed.answer(form)
            if told == kind:
                yield node, f"{reason} (form: {form})", "" if kind == "unknown" else probed.remedy(form)

    return Rule(f"{name.replace('_', '-')}-{kind}", level, probed.source, find)
