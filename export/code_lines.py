"""Which line of the user's own code an error came from."""

from __future__ import annotations

import linecache
import re
import sysconfig
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import torch
from torch import fx

#: With a separator behind it: torchvision lies beside torch.
_OURS, _TORCH = (str(folder / "_")[:-1] for folder in (Path(__file__).parents[1], Path(torch.__file__).parent))
_PATHS = sysconfig.get_paths()
_STANDARD, _INSTALLED = _PATHS["stdlib"], _PATHS["purelib"]
#: Installed packages that are on the way from the user's code to an operator, and never his own.
_BETWEEN = ("onnxscript", "onnx_ir", "onnx", "numpy")
_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+), in (?P<name>\S+)(?:\n\s+(?P<code>.+))?')


def of_error(error: BaseException) -> str:
    """Say which line of the user's it came from, with its code: the deepest one; nothing where none is known."""
    found = ""
    for cause in chain(error):
        for frame, line in traceback.walk_tb(cause.__traceback__):
            file = frame.f_code.co_filename
            if users(file):
                found = _said(file, line, linecache.getline(file, line))
    return found


def of_frame(frame: FrameType) -> str:
    """Say which line of the user's runs now, the deepest one; nothing where none does."""
    for caller, line in traceback.walk_stack(frame):
        file = caller.f_code.co_filename
        if users(file):
            return _said(file, line, linecache.getline(file, line))
    return ""


def of_trace(text: str) -> str:
    """Say which line of the user's a printed stack trace, such as a traced node's, ends in."""
    frames = [match for match in _FRAME.finditer(text or "") if users(match["file"])]
    return _said(frames[-1]["file"], int(frames[-1]["line"]), frames[-1]["code"] or "") if frames else ""


def node_of(error: BaseException) -> fx.Node | None:
    """Find the traced node that PyTorch's exporter was at when it broke."""
    for cause in chain(error):
        for frame, _ in traceback.walk_tb(cause.__traceback__):
            if isinstance(node := frame.f_locals.get("node"), fx.Node):
                return node
    return None


def chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what it was raised from, down to the first."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


def users(file: str) -> bool:
    """Whether a file is neither ours, PyTorch's nor Python's."""
    if file.startswith(("<", _OURS, _TORCH)):
        return False
    if file.startswith(_INSTALLED):
        return Path(file).relative_to(_INSTALLED).parts[0] not in _BETWEEN
    return not file.startswith(_STANDARD)


def _said(file: str, line: int, code: str) -> str:
    text = " ".join(code.split())
    return f"{Path(file).name}, line {line}" + (f" (`{text[:120]}`)" if text else "")
