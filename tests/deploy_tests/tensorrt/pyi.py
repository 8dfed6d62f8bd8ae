"""Type stubs from the signatures that pybind11 writes into docstrings.

    f(self: m.A, x: typing.SupportsInt = 0) -> m.B     →     def f(self, x: typing.SupportsInt = ...) -> B: ...

What a docstring cannot say is added by hand and listed in ``BY_HAND``; a type that is not known becomes ``Any``.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterable
from typing import Any

HEADER = """\
# mypy: disable-error-code="overload-cannot-match,overload-overlap,override,misc"
import typing
import collections.abc
from typing import Any, Iterator, overload

__version__: str
"""
#: Known from NVIDIA's documentation and from builds with TensorRT for RTX, not from docstrings.
BY_HAND = {
    "Dims": ["def __iter__(self) -> Iterator[int]: ..."],  # iterates by __getitem__, which typing does not see
    "IHostMemory": ["def __buffer__(self, flags: int, /) -> memoryview: ..."],  # has the buffer protocol
    "IExecutionContext": ["profiler: IProfiler"],  # a property whose docstring has no signature
}
RENAMED = {"IParserError": "ParserError", "buffer": "bytes", "Buffer": "bytes", "capsule": "Any", "object": "Any"}
#: pybind11 converts these on the way in.
WIDER = {"Dims": "Dims | collections.abc.Sequence[int]"}
BARE = {"tuple": "tuple[Any, ...]", "list": "list[Any]", "dict": "dict[Any, Any]", "set": "set[Any]"}
BUILTIN = {"int", "str", "bool", "float", "bytes", "None", "type", "Any"}


def write(dump: dict[str, Any]) -> str:
    """The text of a stub module."""
    known = dict.fromkeys(dump["classes"])
    parts = [HEADER]
    for name in _ordered(dump["classes"]):
        parts += _class(name, dump["classes"][name], set(known), name, 0)
    return "\n".join(parts) + "\n"


def _ordered(classes: dict[str, Any]) -> list[str]:
    """Bases first."""
    done: list[str] = []

    def put(name: str) -> None:
        if name in classes and name not in done:
            for base in classes[name]["bases"]:
                put(base)
            done.append(name)

    for name in classes:
        put(name)
    return done


def _class(name: str, info: dict[str, Any], known: set[str], path: str, depth: int) -> Iterable[str]:
    pad = "    " * depth
    bases = ", ".join(base for base in info["bases"] if base in known)
    lines = [f"{pad}class {name}({bases}):" if bases else f"{pad}class {name}:"]
    inner = pad + "    "
    if info["enum"]:
        lines += [f"{inner}__members__: dict[str, {path}]", f"{inner}@property\n{inner}def name(self) -> str: ..."]
        lines += [f"{inner}@property\n{inner}def value(self) -> int: ...", f"{inner}def __int__(self) -> int: ..."]
        lines += [f"{inner}{member}: {path}" for member in info["enum"] if not keyword.iskeyword(member)]
    by_hand = {re.split(r"[(:]", line.removeprefix("def "))[0] for line in BY_HAND.get(path, [])}
    for member, what in info["members"].items():
        if info["enum"] and member in (*info["enum"], "name", "value"):
            continue
        if what["kind"] == "class":
            lines += _class(member, what, known, f"{path}.{member}", depth + 1)
        elif member in by_hand or member.startswith("_pybind11") or not _writable(member):
            continue
        elif what["kind"] == "property":
            lines += [inner + line for line in _property(member, what, known)]
        else:
            lines += [inner + line for line in _methods(member, what, known)]
    lines += [inner + line for line in BY_HAND.get(path, [])]
    return [*lines, f"{inner}..."]


def _writable(name: str) -> bool:
    return name.isidentifier() and not keyword.iskeyword(name)


def _property(name: str, what: dict[str, Any], known: set[str]) -> list[str]:
    found = re.search(r"-> (.+)", what["doc"])
    kind = _type(found[1], known, wide=False) if found else "Any"
    lines = ["@property", f"def {name}(self) -> {kind}: ..."]
    if what["settable"]:
        wide = _type(found[1], known, wide=True) if found else "Any"
        lines += [f"@{name}.setter", f"def {name}(self, value: {wide}) -> None: ..."]
    return lines


def _methods(name: str, what: dict[str, Any], known: set[str]) -> list[str]:
    found = re.findall(rf"^(?:\d+\. )?{re.escape(name)}\((.*)\) -> (.+)$", what["doc"], re.MULTILINE)
    found = [pair for pair in found if pair[0] != "*args, **kwargs"]
    if not found:
        result = "None" if name == "__init__" else "Any"
        return [f"def {name}(self, *args: Any, **kwargs: Any) -> {result}: ..."]
    lines = []
    for parameters, result in found:
        if len(found) > 1:
            lines.append("@overload")
        if what["static"]:
            lines.append("@staticmethod")
        # Where tuple and list have overloads of their own, the Dims one is not widened: it would hide them.
        taken = _parameters(parameters, known, wide=len(found) == 1)
        lines.append(f"def {name}({taken}) -> {_type(result, known, wide=False)}: ...")
    return lines


def _parameters(text: str, known: set[str], *, wide: bool) -> str:
    done = []
    for part in _split(text):
        name, _, rest = part.partition(":")
        if not name.strip().isidentifier() and not name.startswith("*"):
            done.append(name)  # the markers / and *
            continue
        kind, default, _ = rest.partition(" = ")
        if name in ("self", "arg0") and not done:
            done.append("self")
        elif keyword.iskeyword(name):
            done.append(f"_{name}: Any")
        else:
            done.append(f"{name}: {_type(kind, known, wide=wide)}" + (" = ..." if default else ""))
    # Bindings may declare a parameter without a default behind one with: Python cannot, so the earlier one loses its.
    last = max((i for i, part in enumerate(done) if ":" in part and not part.endswith("= ...")), default=-1)
    return ", ".join(part.removesuffix(" = ...") if i < last else part for i, part in enumerate(done))


def _split(text: str) -> list[str]:
    parts, depth, start = [], 0, 0
    for index, char in enumerate(text):
        depth += (char in "[(<{") - (char in "])}" or (char == ">" and text[index - 1] != "-"))
        if char == "," and depth == 0:
            parts.append(text[start:index].strip())
            start = index + 1
    return [part for part in [*parts, text[start:].strip()] if part]


def _type(text: str, known: set[str], *, wide: bool) -> str:
    text = text.strip()
    if match := re.fullmatch(r"([\w.:]+)\[(.*)\]", text):
        outer = match[1].split(".")[-1]
        inside = ", ".join(_type(part, known, wide=wide) for part in _split(match[2]))
        head = {"List": "list", "Dict": "dict", "Tuple": "tuple", "Sequence": "collections.abc.Sequence"}.get(
            outer, outer
        )
        if head in ("Optional", "Union", "Callable"):
            return "Any" if head == "Callable" else f"typing.{head}[{inside}]"
        return f"{head}[{inside}]" if head in ("list", "dict", "tuple", "collections.abc.Sequence") else "Any"
    nested = re.sub(r"^(tensorrt(_rtx)?_bindings\.)?tensorrt(_rtx)?\.", "", text)
    nested = re.sub(r"^(\w+::)+", "", nested)
    name = RENAMED.get(nested.split(".")[-1] if nested.split(".")[-1] in RENAMED else nested, nested)
    if name.split(".")[0] in known:
        return WIDER.get(name, name) if wide else name
    if name in BUILTIN or name in BARE:
        return BARE.get(name, name)
    return name if name in ("typing.SupportsInt", "typing.SupportsFloat") else "Any"
