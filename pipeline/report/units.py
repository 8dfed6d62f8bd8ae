"""Units for people."""

from __future__ import annotations


def size(count: float) -> str:
    """Write bytes for people.

    >>> size(512), size(33_000_000)
    ('512 B', '33.0 MB')
    """
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
