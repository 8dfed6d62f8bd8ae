"""Say where a detector that cannot be traced is to be cut: before it suppresses boxes, whose number no graph knows."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from attn_export.errors import AttnExportError
from attn_export.export import code_lines
from attn_export.export.copies import copied
from attn_export.export.outputs import evaluate, flatten
from attn_export.export.subject import Subject

#: What gives the raw predictions in the detectors that have such parts, by the part that predicts.
_RAW: Mapping[str, str] = {
    "head": "head(list(net.backbone(x).values()))",
    "rpn.head": "rpn.head(list(net.backbone(x).values()))",
}


def cut(subject: Subject) -> str:
    """Say where forward suppresses boxes and what to export instead; nothing where it does not."""
    module, inputs = copied(subject.module), subject.example()
    with _Suppressions() as seen, contextlib.suppress(AttnExportError):
        evaluate(module, inputs)
    if not seen.line:
        return ""
    instead = _raw(module, inputs)
    return (
        f"forward suppresses boxes at {seen.line}, and how many are left depends on the picture; export what enters"
        f" there, boxes and scores of every place, and suppress behind it{f': {instead}' if instead else ''}"
    )


def _raw(module: nn.Module, inputs: Mapping[str, Tensor]) -> str:
    """Find code that gives the raw predictions, and was tried."""
    image = next(iter(inputs.values()))
    for part in _RAW:
        with contextlib.suppress(Exception), torch.no_grad():  # whatever the parts of a stranger's module raise
            flatten(module.get_submodule(part)(list(module.get_submodule("backbone")(image).values())), inputs)
            return f"a module whose forward(self, x) returns self.net.{_RAW[part].replace('net.', 'self.net.')}"
    return ""


class _Suppressions(TorchDispatchMode):
    """Note the first line of the user's that calls an operator of that name."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.line = ""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call an operator."""
        frame = inspect.currentframe()
        if not self.line and frame is not None and func.overloadpacket.__name__.split(".")[-1] == "nms":
            self.line = code_lines.of_frame(frame)
        return func(*args, **(kwargs or {}))
