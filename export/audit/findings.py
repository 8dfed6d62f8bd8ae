"""What an audit found."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class AuditFinding:
    """One thing that is not what it was: which check, at which tensor or node, and how it differs."""

    check: str
    where: str
    detail: str


@dataclass(frozen=True)
class Audit:
    """The findings, out of how many things that were compared.

    Attributes:
        checked: how many constants or attributes were looked at.
        findings: what differs from what it must be.
        unmatched: what could not be compared, since an earlier stage computed or rewrote it.
    """

    checked: int
    findings: tuple[AuditFinding, ...]
    unmatched: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether nothing differs."""
        return not self.findings

    def to_dict(self) -> dict[str, Any]:
        """Give the audit as plain data."""
        rows = [asdict(finding) for finding in self.findings]
        return {"ok": self.ok, "checked": self.checked, "findings": rows, "unmatched": list(self.unmatched)}
