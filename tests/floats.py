"""Numbers for properties: none below the normal ones, which a session of ours flushes to zero, and its thread with it.

A runtime's session may have run in this process before, and then hypothesis refuses to draw them.
"""

from __future__ import annotations

from hypothesis import strategies as st


def floats(low: float | None = None, high: float | None = None) -> st.SearchStrategy[float]:
    """Draw finite numbers, within bounds where they are given."""
    return st.floats(low, high, allow_nan=False, allow_infinity=False, allow_subnormal=False)
