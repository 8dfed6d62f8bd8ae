"""List the nodes that a target will refuse, cast, split or not fuse, before the model is on the device.

There are two sources: our own rules, and a real compiler for the target where one is installed. Every finding names
which; where they disagree, both are listed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx

from attn_export.bundle import SNR
from attn_export.deploy_tests import backends
from attn_export.deploy_tests.backend import CompileOptions
from attn_export.deploy_tests.refusal import RefusedError
from attn_export.export.graph.index import GraphIndex
from attn_export.export.graph.origin import origins
from attn_export.export.lint import RULES
from attn_export.export.onnx.read import read_model
from attn_export.export.precision.accumulators import accumulated
from attn_export.export.precision.float16_policy import observe
from attn_export.export.precision.hazards import hazards, too_few_bits
from attn_export.export.precision.rounded16 import Confirmation, confirm, culprits
from attn_export.types import Feeds, ShapeRange


@dataclass(frozen=True)
class LintFinding:
    """One node that a target does not take as it is.

    Attributes:
        node: its name in the graph, or of its first output where it has none.
        op: its operator.
        level: ``refused``, ``wrong``, ``cast``, ``split``, ``not fused`` or ``unknown``.
        reason: why.
        remedy: what to do, or empty.
        source: who says so.
        rule: name of the rule, or ``parser``.
        where: module and line it is from, or empty.
    """

    node: str
    op: str
    level: str
    reason: str
    remedy: str
    source: str
    rule: str
    where: str = ""

    def __str__(self) -> str:
        place = f" ({self.where})" if self.where else ""
        way = f"; {self.remedy}" if self.remedy else ""
        return f"{self.level}: {self.op} {self.node!r}{place}: {self.reason}{way} [{self.source}]"

    @property
    def breaks(self) -> bool:
        """Whether the target does not run the model, or not this model."""
        return self.level in ("refused", "wrong")

    def to_dict(self) -> dict[str, Any]:
        """Give the finding as plain data."""
        return asdict(self)


def load(path: Path) -> onnx.ModelProto:
    """Read an ONNX file without its external weights, which no rule looks at.

    Raises:
        SubjectError: it is not an ONNX file, or not a valid one.
    """
    return read_model(path, weights=False)


def by_rules(model: onnx.ModelProto, target: str) -> list[LintFinding]:
    """List what our rules find, in the order of the graph.

    Raises:
        UnknownNameError: there are no rules for the target.
    """
    graph, came_from = GraphIndex(model, propagate=True), origins(model)
    order = {id(node): index for index, node in enumerate(graph.nodes)}
    found: list[tuple[int, LintFinding]] = []
    for rule in RULES[target]:
        for node, reason, remedy in rule.find(graph):
            origin = next((came_from[name] for name in node.output if name in came_from), None)
            where = origin.summary() if origin else ""
            name = name_of(node)
            finding = LintFinding(name, node.op_type, rule.level, reason, remedy, rule.source, rule.name, where)
            found.append((order[id(node)], finding))
    return [finding for _, finding in sorted(found, key=lambda item: item[0])]


def by_ranges(model: onnx.ModelProto, feeds: Sequence[Feeds]) -> tuple[list[LintFinding], Confirmation]:
    """List what breaks where all is computed in float16, by the ranges that a float32 run on ``feeds`` shows.

    The list is confirmed: the graph runs rounded to float16 throughout, and with the listed nodes in float32.

    Raises:
        ExportError: the model does not run on them, or there are none.
    """
    came_from, seen = origins(model), observe(model, feeds)
    named = list(hazards(model, seen, accumulated(model, seen, feeds)))
    confirmed = confirm(model, seen, feeds, [hazard.index for hazard in named])
    if confirmed.kept_db is None or confirmed.kept_db < SNR["float16"]:
        kept = [hazard.index for hazard in named]
        named += [too_few_bits(model, one) for one in culprits(model, seen, feeds, kept, SNR["float16"])]
        confirmed = confirm(model, seen, feeds, [hazard.index for hazard in named])
    found = []
    for hazard in sorted(named, key=lambda one: one.index):
        node = hazard.node
        origin = next((came_from[name] for name in node.output if name in came_from), None)
        where = origin.summary() if origin else ""
        source = f"a float32 run of {len(feeds)} inputs"
        name, rule = name_of(node), hazard.rule
        found.append(LintFinding(name, node.op_type, "cast", hazard.reason, hazard.remedy, source, rule, where))
    return found, confirmed


def by_parser(
    path: Path, compiler: str, *, device: str = "", shapes: Mapping[str, ShapeRange] | None = None
) -> list[LintFinding]:
    """List what a backend that compiles for a ``device`` refuses of a file.

    Raises:
        BackendMissingError: its compiler is not installed.
        BackendError: the build did not end.
        UnknownNameError: it compiles nothing.
    """
    try:
        backends.compile_only(compiler, path, CompileOptions(device, shapes or {}))
    except RefusedError as refusal:
        source = refusal.what.partition(" does not parse")[0].partition(" parses but")[0]
        return [
            LintFinding(c.node, c.op, "refused", c.reason, refusal.hint, f"{source}, {refusal.stage}", "parser")
            for c in refusal.complaints
        ]
    return []


@dataclass(frozen=True)
class Agreement:
    """Where rules and parser report refusals: nodes both name, and nodes only one does."""

    both: tuple[str, ...]
    only_rules: tuple[str, ...]
    only_parser: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether they agree."""
        return not self.only_rules and not self.only_parser


def agreement(rules: Iterable[LintFinding], parser: Iterable[LintFinding]) -> Agreement:
    """Compare the two sources by node; what is not a refusal the parser cannot contradict."""
    ours = {finding.node for finding in rules if finding.level == "refused"}
    theirs = {finding.node for finding in parser}
    return Agreement(*(tuple(sorted(nodes)) for nodes in (ours & theirs, ours - theirs, theirs - ours)))


def name_of(node: onnx.NodeProto) -> str:
    """Give a node's name; where it has none, that of its first output."""
    return node.name or next(iter(node.output), "")
