"""Run ``torch.cond`` as the ``if`` that it is: where all values are at hand there is nothing to compile.

PyTorch would compile it even then, and refuses to under a dispatch mode such as those that widen and count here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest.mock import patch

import torch


@contextlib.contextmanager
def eager_branches() -> Iterator[None]:
    """Let everything inside that calls ``torch.cond`` take its branch."""
    with patch.object(torch, "cond", _cond):
        yield


def _cond(pred: Any, true_fn: Callable[..., Any], false_fn: Callable[..., Any], operands: Sequence[Any] = ()) -> Any:
    return (true_fn if pred else false_fn)(*operands)
