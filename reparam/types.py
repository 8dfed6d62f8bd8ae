"""What every room of the fuser speaks of beside operators: the size of an axis."""

from __future__ import annotations

#: The size of one axis of a tensor: a number, the name of a symbol, or None where nothing is known.
Dim = int | str | None
