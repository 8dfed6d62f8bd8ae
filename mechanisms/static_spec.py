"""Read a mechanism's file without running it, so that listing and showing need no torch.

The docstring gives the sentence and the formula, the literal ``MECHANISM = Spec(...)`` the rest, and the
constructor's signature its options.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from attn_export.errors import LoadError
from attn_export.mechanisms.spec import Dim, Input, Paper, Preset, Source, Spec

_CALLS: dict[str, Any] = {c.__name__: c for c in (Spec, Paper, Input, Dim, Preset, Source)} | {"dict": dict}


@dataclass(frozen=True)
class StaticSpec:
    """What can be said of an entry without importing it. In ``spec``, functions stand as stand-ins by name."""

    summary: str
    formula: str
    spec: Spec
    options: tuple[str, ...]


class Named:
    """Stands for a function or class that was not imported; only its name is known."""

    def __init__(self, name: str) -> None:
        self.__name__ = name

    def __call__(self, *_: object, **__: object) -> Any:
        """Refuse: there is nothing behind the name."""
        raise TypeError(f"{self.__name__} was read, not imported; take the entry from its shelf to build it")


def summary(path: Path) -> str:
    r"""Return the first line of the file's docstring; reads no further.

    >>> import tempfile; f = Path(tempfile.mkdtemp(), "se.py"); _ = f.write_text('\"\"\"Scale.\n...')
    >>> summary(f)
    'Scale.'
    """
    with path.open(encoding="utf-8") as file:
        return file.readline().strip().strip('"')


def read(path: Path) -> StaticSpec:
    """Read the whole card.

    Raises:
        LoadError: the file has no literal ``MECHANISM = Spec(...)``.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    head, _, formula = (ast.get_docstring(tree) or "").partition("\n\n")
    constants: dict[str, Any] = {}
    for node in tree.body:
        match node:
            case ast.Assign(targets=[ast.Name(id="MECHANISM")], value=value):
                try:
                    spec = _evaluate(value, constants)
                except ValueError as error:
                    raise LoadError(f"{path}: MECHANISM must be a literal Spec(...): {error}") from error
                if not isinstance(spec, Spec):
                    break
                return StaticSpec(" ".join(head.split()), formula.rstrip(), spec, _options(tree, spec))
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                try:
                    constants[name] = _evaluate(value, constants)
                except ValueError:
                    continue
    raise LoadError(f"{path}: no MECHANISM = Spec(...) at the top level")


def unnamed(spec: Spec) -> Spec:
    """Replace functions by their names, so that a Spec that was read compares equal to the imported one."""

    def bare(preset: Preset) -> Preset:
        return replace(preset, build=preset.build and preset.build.__name__)  # type: ignore[arg-type]

    def named(source: Source) -> Source:
        return replace(source, convert=source.convert and source.convert.__name__)  # type: ignore[arg-type]

    return replace(
        spec,
        build=spec.build.__name__,  # type: ignore[arg-type]
        convert=spec.convert and spec.convert.__name__,  # type: ignore[arg-type]
        sources={k: named(s) for k, s in spec.sources.items()},
        presets={k: bare(p) for k, p in spec.presets.items()},
        variants={k: bare(p) for k, p in spec.variants.items()},
    )


def _evaluate(node: ast.expr, constants: dict[str, Any]) -> Any:
    """Evaluate literals, our own dataclasses and names of earlier constants; other names become ``Named``."""
    match node:
        case ast.Constant(value=value):
            return value
        case ast.Tuple(elts=items):
            return tuple(_evaluate(item, constants) for item in items)
        case ast.List(elts=items):
            return [_evaluate(item, constants) for item in items]
        case ast.Dict(keys=keys, values=entries):
            result: dict[Any, Any] = {}
            for key, entry in zip(keys, entries, strict=True):
                if key is None:  # {**other}
                    result.update(_evaluate(entry, constants))
                else:
                    result[_evaluate(key, constants)] = _evaluate(entry, constants)
            return result
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_evaluate(operand, constants)
        case ast.Name(id=name):
            return constants.get(name, Named(name))
        case ast.Call(func=ast.Name(id=name), args=args, keywords=keywords) if name in _CALLS:
            named = {k.arg: _evaluate(k.value, constants) for k in keywords if k.arg}
            return _CALLS[name](*(_evaluate(a, constants) for a in args), **named)
        case _:
            raise ValueError(f"line {node.lineno}: {ast.unparse(node)} is not literal")


def _options(tree: ast.Module, spec: Spec) -> tuple[str, ...]:
    """Read the constructor's parameters as written, such as ``channels: int = 64``."""
    functions = {n.name: n for n in tree.body if isinstance(n, ast.FunctionDef)}
    for kind in (n for n in tree.body if isinstance(n, ast.ClassDef)):
        for function in (f for f in kind.body if isinstance(f, ast.FunctionDef) and f.name == "__init__"):
            functions[kind.name] = function
    found = functions.get(spec.build.__name__)
    if found is None:
        return ()
    arguments = found.args
    names = [*arguments.args, *arguments.kwonlyargs]
    defaults = [None] * (len(arguments.args) - len(arguments.defaults)) + [*arguments.defaults, *arguments.kw_defaults]
    return tuple(
        f"{a.arg}{f': {ast.unparse(a.annotation)}' if a.annotation else ''}{f' = {ast.unparse(d)}' if d else ''}"
        for a, d in zip(names, defaults, strict=True)
        if a.arg != "self"
    )
