"""After which line of the user's code a value is another one: for the messages of a run that has failed already."""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch

_TORCH, OURS = str(Path(torch.__file__).parent), str(Path(__file__).parents[1])
_NUMPY, _STANDARD = str(Path(np.__file__).parent), sysconfig.get_paths()["stdlib"]
_INSTALLED = sysconfig.get_paths()["purelib"]


def torchs(frame: FrameType) -> bool:
    """Whether a frame runs PyTorch's code, or what calls it on our side."""
    return frame.f_code.co_filename.startswith((_TORCH, OURS))


def standard(frame: FrameType) -> bool:
    """Whether a frame runs Python's own library, or NumPy."""
    file = frame.f_code.co_filename
    return file.startswith(_NUMPY) or (file.startswith(_STANDARD) and not file.startswith(_INSTALLED))


def place(frame: FrameType, line: int | None = None) -> str:
    """Say where a frame is: method, file and line."""
    code, own = frame.f_code, frame.f_locals.get("self")
    kind = f"{type(own).__name__}." if own is not None else ""
    return f"{kind}{code.co_name} ({Path(code.co_filename).name}, line {line or frame.f_lineno})"


def writers(watch: Callable[[], Mapping[str, object]], run: Callable[[], object]) -> dict[str, str]:
    """Run, and say for each value that ``watch`` names after which line it was another one first."""
    known, found, last = dict(watch()), dict[str, str](), dict[FrameType, int]()

    def line(frame: FrameType, _event: str, _: object) -> Any:
        if (at := last.get(frame)) is not None:
            fresh = watch()
            for name in (name for name in fresh if fresh[name] != known.get(name)):
                found.setdefault(name, place(frame, at))
                known[name] = fresh[name]
        last[frame] = frame.f_lineno
        return line

    def call(frame: FrameType, _event: str, _: object) -> Any:
        return None if torchs(frame) or standard(frame) else line

    before = sys.gettrace()
    sys.settrace(call)
    try:
        run()
    finally:
        sys.settrace(before)
    return found
