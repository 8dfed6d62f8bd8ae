"""Where a node came from: the module and the Python line, from what the exporter notes on it.

The simplifier drops these notes, so they are read from the model before it and looked up by tensor name.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from functools import cache
from pathlib import Path, PurePath
from typing import Any

import onnx

from attn_export.reparam.adapters.onnx.nodes import inputs_of

_SCOPES = "pkg.torch.onnx.name_scopes"
_CLASSES = "pkg.torch.onnx.class_hierarchy"
_TRACE = "pkg.torch.onnx.stack_trace"
#: What lies at the root of a project.
_ROOTS = ("pyproject.toml", "setup.py", ".git")


@dataclass(frozen=True)
class Origin:
    """A place in the user's code: module path, its class, and the innermost line outside of PyTorch."""

    module: str
    kind: str
    file: str = ""
    line: int = 0
    code: str = ""

    def summary(self) -> str:
        """Say it in one line."""
        kind = f" ({self.kind.rpartition('.')[2]})" if self.kind else ""
        place = f"{self.module or 'the module itself'}{kind}"
        return f"{place}, {self.file}:{self.line}: {self.code}" if self.file else place


def origins(model: onnx.ModelProto) -> dict[str, Origin]:
    """Where each tensor was made, and each constant first read, as far as the exporter has noted it."""
    found: dict[str, Origin] = {}
    constants = {tensor.name for tensor in model.graph.initializer}
    for node in model.graph.node:
        if origin := noted(node):
            found |= dict.fromkeys((name for name in node.output if name), origin)
            for name in constants.intersection(node.input):
                found.setdefault(name, origin)
    return found


def trace(model: onnx.ModelProto, tensor: str, known: Mapping[str, Origin]) -> Origin | None:
    """Find the origin of ``tensor``; where a stage renamed it, of its node's weights, its readers, or what it reads."""
    if tensor in known:
        return known[tensor]
    makers = [node for node in model.graph.node if tensor in node.output]
    weights = {t.name for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT and any(t.dims)}
    for name in (name for node in makers for name in node.input if name in weights and name in known):
        return known[name]
    for node in model.graph.node:  # in order, so the nearest reader comes first
        if tensor in inputs_of(node):
            for name in node.output:
                if name in known:
                    return known[name]
    return next((known[name] for node in makers for name in inputs_of(node) if name in known), None)


def record(model: onnx.ModelProto, known: Mapping[str, Origin]) -> dict[str, list[object]]:
    """Write the origins of a model's own tensors as plain data, for a manifest: the deployed model carries no notes."""
    made = [name for node in model.graph.node for name in node.output if name]
    found = {name: trace(model, name, known) for name in made}
    return {name: list(astuple(origin)) for name, origin in found.items() if origin}


def recall(recorded: Mapping[str, Sequence[Any]]) -> dict[str, Origin]:
    """Read what ``record`` gave."""
    return {name: Origin(*values) for name, values in recorded.items()}


def noted(node: onnx.NodeProto) -> Origin | None:
    """Read what the exporter has noted on a node; None where it has not."""
    notes = {entry.key: entry.value for entry in node.metadata_props}
    scopes, classes = _list(notes.get(_SCOPES, "")), _list(notes.get(_CLASSES, ""))
    if not scopes:
        return None
    classes = classes if len(classes) == len(scopes) else [""] * len(scopes)
    scopes = ["" if scope.startswith("_empty_nn_module_stack") else scope for scope in scopes]
    # The last of each is the operator; before it stand the modules, outermost first.
    module, kind = (scopes[-2], classes[-2]) if len(scopes) > 1 else ("", classes[0])
    return located(module, kind, notes.get(_TRACE, ""))


def located(module: str, kind: str, trace: str) -> Origin:
    """Find the place that a stack trace as the exporter prints it names: its innermost line outside of PyTorch."""
    lines = re.findall(r'File "(.+?)", line (\d+), in .*?\n\s*(.*)', trace)
    lines = [entry for entry in lines if not entry[0].startswith("<")]  # what PyTorch wrote while it traced
    own = [entry for entry in lines if "/site-packages/torch/" not in entry[0]] or lines
    if not own:
        return Origin(module, kind)
    file, number, code = own[-1]
    return Origin(module, kind, portable(file), int(number), code.strip())


@cache
def portable(file: str) -> str:
    """Name a source file without the folders of this machine: by its distribution, project, package, or own name.

    A bundle is read elsewhere; where it was built is nobody's business, and two builds of one commit are to be equal.

    >>> portable("/home/someone/venv/lib/python3.11/site-packages/timm/layers/se.py")
    'timm/layers/se.py'
    >>> portable("/nowhere/net.py")
    'net.py'
    """
    path = Path(file)
    if "site-packages" in path.parts:
        last = len(path.parts) - path.parts[::-1].index("site-packages")
        return PurePath(*path.parts[last:]).as_posix()
    if not path.is_absolute():
        return path.as_posix()
    path = path.resolve()  # our own folders are reached through links
    for folder in path.parents:
        if any((folder / name).exists() for name in _ROOTS):
            return path.relative_to(folder).as_posix()
    inner = path.parent
    while (inner / "__init__.py").is_file():
        inner = inner.parent
    return path.relative_to(inner).as_posix()


def _list(text: str) -> list[str]:
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return []
    return [str(item) for item in value] if isinstance(value, list) else []
