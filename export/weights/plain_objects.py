"""Plain objects that trainers save beside the weights; torch's weights-only reader takes them, and no code runs.

Each is a container of values: building it calls nothing but itself. Paths become their pure kind, which touches no
disk.
"""

from __future__ import annotations

import argparse
import types
from contextlib import AbstractContextManager
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import torch

_PATHS = [
    (kind, f"{module}.{name}")
    for module in ("pathlib", "pathlib._local")
    for kind, names in (
        (PurePosixPath, ("PosixPath", "PurePosixPath")),
        (PureWindowsPath, ("WindowsPath", "PureWindowsPath")),
    )
    for name in names
]
_NUMBERS = [
    np.dtype,
    *(type(np.dtype(code)) for code in "?bhilqBHILQefd"),
    *(
        (type(np.float64(0)).__reduce__(np.float64(0))[0], f"numpy.{core}.multiarray.scalar")
        for core in ("core", "_core")
    ),
]
PLAIN: list[Any] = [argparse.Namespace, types.SimpleNamespace, *_PATHS, *_NUMBERS]


def allowed() -> AbstractContextManager[Any]:
    """Let ``torch.load(weights_only=True)`` read them inside the block, and only there."""
    return torch.serialization.safe_globals(PLAIN)
