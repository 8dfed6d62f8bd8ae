"""What a lint rule is: a function from a graph to the nodes it is about."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import onnx

from attn_export.export.graph.index import GraphIndex

#: A node, why, and what to do about it.
Hit = tuple[onnx.NodeProto, str, str]


@dataclass(frozen=True)
class Rule:
    """One rule.

    Attributes:
        name: what it is called in reports.
        level: ``refused``, ``wrong`` (taken, and something else), ``cast``, ``split``, ``not fused`` or ``unknown``.
        source: what it rests on.
        find: gives the nodes it is about.
    """

    name: str
    level: str
    source: str
    find: Callable[[GraphIndex], Iterator[Hit]]


Find = Callable[[GraphIndex], Iterator[Hit]]


def recorder(rules: list[Rule]) -> Callable[[str, str], Callable[[Find], Find]]:
    """Make a decorator that puts a function on a list of rules, by level and source."""

    def rule(level: str, source: str) -> Callable[[Find], Find]:
        def put(find: Find) -> Find:
            rules.append(Rule(find.__name__.replace("_", "-"), level, source, find))
            return find

        return put

    return rule
