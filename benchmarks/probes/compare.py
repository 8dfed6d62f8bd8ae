"""Rules against what the converters did to whole networks: where the two disagree, by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from attn_export.pipeline import lint
from benchmarks.targets import row as rows
from benchmarks.targets.row import Row

#: The rows of ``docs/targets.d`` that each lint target is held against, in the precision that its probes had.
ROWS = {
    "openvino": "openvino",
    "ncnn": "ncnn",
    "litert": "litert",
    "executorch": "executorch",
    "qnn": "qnn:sm8650:float16",
    "rknn": "rknn:rk3588:float16",
    "ethos_u": "ethos-u:ethos-u85-256",
}


@dataclass(frozen=True)
class Compared:
    """One entry on one target.

    Attributes:
        target: of the rules.
        entry: of the catalogue.
        rules: what the rules foresee: ``refused``, ``wrong``, ``left`` (something stays on the CPU), ``unknown``
            (nothing of these, and a node that was not tried) or ``taken``.
        nodes: the operators that they name for it, each once.
        converter: what came of it, in the same words; never ``unknown``.
        reason: what the converter said.
    """

    target: str
    entry: str
    rules: str
    nodes: tuple[str, ...]
    converter: str
    reason: str

    @property
    def verdict(self) -> str:
        """Say how the two stand to each other.

        Taken and left are one where the row does not say which nodes ran where.
        """
        if self.rules == self.converter:
            return "agree"
        return "unknown" if self.rules == "unknown" else "disagree"


def foreseen(found: Iterable[lint.LintFinding]) -> tuple[str, tuple[str, ...]]:
    """Sum up what the rules find in a graph: the worst of it, and the operators behind that."""
    by_level: dict[str, list[str]] = {}
    for finding in found:
        by_level.setdefault(finding.level, []).append(finding.op)
    for level, word in (("refused", "refused"), ("wrong", "wrong"), ("split", "left"), ("unknown", "unknown")):
        if level in by_level:
            return word, tuple(dict.fromkeys(by_level[level]))
    return "taken", ()


def happened(row: Row) -> str | None:
    """Say what came of an entry in the words of ``foreseen``; None where the row says neither."""
    if row.converted is None:
        return None
    if not row.converted or row.ran is False:
        return "refused"
    if row.right is False:
        return "wrong"
    return "left" if row.share_on_accelerator is not None and row.share_on_accelerator < 1 else "taken"


def compared(target: str, bundles: Path, folder: Path) -> list[Compared]:
    """Compare every entry that has a row and a bundle, fused, in ``bundles``."""
    found = []
    for entry, row in sorted(rows.read(rows.file_of(folder, ROWS[target])).items()):
        model = bundles / f"{entry}-{row.preset}-fused" / "model.onnx"
        came = happened(row)
        if came is None or not model.is_file():
            continue
        word, nodes = foreseen(lint.by_rules(lint.load(model), target))
        if word == "left" and row.share_on_accelerator is None:
            word, nodes = "taken", ()  # the row counts no nodes
        found.append(Compared(target, entry, word, nodes, came, row.reason if word != came else ""))
    return found


def to_dict(found: Iterable[Compared]) -> list[Mapping[str, object]]:
    """Give plain data."""
    return [asdict(one) for one in found]


def of_dict(data: Iterable[Mapping[str, object]]) -> list[Compared]:
    """Read what ``to_dict`` gave."""
    return [Compared(**{**one, "nodes": tuple(one["nodes"])}) for one in data]  # type: ignore[arg-type]
