"""How a compiler says no: each complaint with the node it is about, and one error that carries them all."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from attn_export.errors import BackendError

#: Stages at which a build can end, in order.
STAGES = ("start", "parse", "profile", "build")


@dataclass(frozen=True)
class Complaint:
    """One thing that a compiler does not accept.

    Attributes:
        node: name of the node, or empty where none is named.
        op: its operator.
        reason: what the parser or the compiler said.
        code: the parser's error code, or empty.
    """

    node: str
    op: str
    reason: str
    code: str = ""

    def __str__(self) -> str:
        where = " ".join(filter(None, (self.op, repr(self.node) if self.node else "")))
        return f"{where}: {self.reason}" if where else self.reason


class RefusedError(BackendError):
    """A compiler refused a graph, or broke on it.

    Attributes:
        what: who refused what.
        stage: where it ended, one of ``STAGES``.
        complaints: what was said, the parser's in the order of the graph.
        hint: the way out, or empty.
    """

    def __init__(self, what: str, stage: str, complaints: Iterable[Complaint], hint: str = "") -> None:
        self.what, self.stage, self.hint = what, stage, hint
        self.complaints = tuple(complaints)
        shown = "; ".join(map(str, self.complaints[:3])) or "it gave no reason"
        more = f" (and {len(self.complaints) - 3} more)" if len(self.complaints) > 3 else ""
        super().__init__(f"{what}: {shown}{more}" + (f"; {hint}" if hint else ""))

    @property
    def nodes(self) -> tuple[str, ...]:
        """The ONNX nodes that are named, each once."""
        return tuple(dict.fromkeys(c.node for c in self.complaints if c.node))

    def to_dict(self) -> dict[str, Any]:
        """Give the refusal as plain data."""
        return {
            "what": self.what,
            "stage": self.stage,
            "hint": self.hint,
            "complaints": [asdict(c) for c in self.complaints],
        }
