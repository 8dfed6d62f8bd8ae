"""Run a module with the shapes in its signatures checked."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from beartype import beartype
from jaxtyping import jaxtyped
from torch import nn


@contextlib.contextmanager
def checked(module: nn.Module) -> Iterator[None]:
    """Check every ``forward`` of our own classes inside ``module`` against its jaxtyping annotations."""
    classes = {type(part) for part in module.modules() if type(part).__module__.startswith("attn_export.")}
    originals = {cls: cls.__dict__["forward"] for cls in classes if "forward" in cls.__dict__}
    try:
        for cls, forward in originals.items():
            cls.forward = jaxtyped(typechecker=beartype)(forward)  # type: ignore[method-assign]
        yield
    finally:
        for cls, forward in originals.items():
            cls.forward = forward  # type: ignore[method-assign]
