"""Make a subject of the user's own network: ``package.module:factory`` or ``path/to/file.py:Class``."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from torch import nn

from attn_export.errors import SubjectError, UnknownNameError, UsageError
from attn_export.export.sources.guest import guest
from attn_export.export.subject import Subject, build
from attn_export.export.weights import checkpoint
from attn_export.export.weights.randomize import randomize
from attn_export.mechanisms.spec import Dtype, Input
from attn_export.types import Dim

_DTYPES: tuple[Dtype, ...] = ("float32", "int64", "bool")
#: Letters of one input's description, its elements and its axes.
_LONGEST, _MOST, _AXES = 1000, 1 << 31, 64


def from_code(
    text: str,
    shapes: Sequence[str],
    *,
    arguments: dict[str, object] | None = None,
    weights: Path | None = None,
    strict: bool = True,
    keep_fresh: bool = False,
    seed: int = 0,
    weights_key: str | None = None,
) -> Subject:
    """Import, build and describe a network of the user's.

    Args:
        text: ``package.module:name`` or ``file.py:name``; the name is a class, a function that gives a module, or
            a module.
        shapes: one text for each input, as ``parse_input`` reads it.
        arguments: keyword arguments of the class or function.
        weights: a checkpoint; taken as it is.
        strict: whether names that do not fit are an error.
        keep_fresh: without a checkpoint, keep the weights that the constructor gave instead of awakening them.
        seed: for the constructor and for awakening.
        weights_key: the part of the checkpoint to take, keys joined by dots.

    Raises:
        SubjectError: it cannot be imported or found.
        UsageError: no shapes, or shapes that cannot be read.
        CheckpointError: the weights do not fit.
    """
    if not shapes:
        raise UsageError(f"{text}: say what goes in, for example --input 1x3x224x224")
    source, _, name = text.rpartition(":")
    found = _find(_import(source), source, name)
    if isinstance(found, nn.Module):
        with guest(f"{text} cannot be put into eval mode"):
            module = found.eval()
    elif callable(found):
        module = _built(text, found, arguments or {}, seed)
    else:
        raise SubjectError(f"{text} is a {type(found).__name__}; wanted a class or function that gives a module")
    if weights is not None:
        origin = checkpoint.into(module, weights, weights_key, strict=strict)
    elif keep_fresh:
        origin = f"as the constructor gave them, seed {seed}"
    else:
        randomize(module, seed)
        origin = f"awakened from seed {seed}"
    inputs, sizes = inputs_of(shapes, _parameters(module))
    named = dict.fromkeys(dim for item in inputs for dim in item.shape if isinstance(dim, str))
    return Subject(name, module, inputs, sizes, tuple(Dim(dim) for dim in named), origin)


def inputs_of(texts: Sequence[str], names: Sequence[str]) -> tuple[tuple[Input, ...], dict[str, int]]:
    """Read the inputs' descriptions; those without a name take ``forward``'s parameter names, in order.

    Raises:
        UsageError: one cannot be read, or two of them contradict each other.

    >>> inputs_of(["b=2x3x8x8"], ["image"])
    ((Input(name='image', shape=('b', 3, 8, 8), dtype='float32', high=2),), {'b': 2})
    """
    sizes: dict[str, int] = {}
    items = list[Input]()
    for index, text in enumerate(texts):
        name, shape, dtype, named = parse_input(text)
        name = name or (names[index] if index < len(names) else f"x{index}")
        if name in {item.name for item in items}:
            raise UsageError(f"--input describes {name!r} twice")
        for dim, size in named.items():
            if sizes.setdefault(dim, size) != size:
                raise UsageError(f"--input says {dim}={sizes[dim]} and {dim}={size}; one dimension has one size")
        items.append(Input(name, shape, dtype))
    return tuple(items), sizes


def parse_input(text: str) -> tuple[str, tuple[int | str, ...], Dtype, dict[str, int]]:
    """Read one input: ``[name:]shape[:dtype]``, the shape as ``1x3x224x224``, ``[1,3,224,224]`` or ``1,3,224,224``.

    A size written ``b=2`` is a dimension called ``b`` that may vary and is traced at 2.

    Raises:
        UsageError: it is none of these.

    >>> parse_input("x:[b=2,3,8,8]")
    ('x', ('b', 3, 8, 8), 'float32', {'b': 2})
    >>> parse_input("tokens:1x16:int64")
    ('tokens', (1, 16), 'int64', {})
    """
    wanted = "wanted [name:]shape[:dtype] such as x:1x3x224x224, [1,3,224,224] or b=2x3x224x224"
    if len(text) > _LONGEST:
        raise UsageError(f"{wanted}; came {len(text)} letters")
    wanted = f"{wanted}; came {text!r}"
    match = re.fullmatch(r"(?:(?P<name>[A-Za-z_]\w*):)?(?P<shape>\[?[\w=,\s]+\]?)(?::(?P<dtype>\w+))?", text.strip())
    if not match:
        raise UsageError(wanted)
    body = match["shape"].strip("[] ")
    sizes: dict[str, int] = {}
    shape: list[int | str] = []
    count = 1
    for part in re.split(r"\s*,\s*" if "," in body else r"x", body):
        dim, _, size = part.strip().rpartition("=")
        if not re.fullmatch(r"[0-9]{1,18}", size) or int(size) < 1 or (dim and not dim.isidentifier()):
            raise UsageError(wanted)
        if dim in sizes and sizes[dim] != int(size):
            raise UsageError(f"{wanted}, where {dim!r} has two sizes: give two dimensions two names")
        count *= int(size)
        shape.append(dim or int(size))
        if dim:
            sizes[dim] = int(size)
    if count > _MOST or len(shape) > _AXES:
        raise UsageError(f"{wanted}: that is {len(shape)} axes and {count} elements; at most {_AXES} and 2³¹ are drawn")
    dtype = match["dtype"] or "float32"
    if dtype not in _DTYPES:
        raise UnknownNameError("input type", dtype, _DTYPES)
    return match["name"] or "", tuple(shape), dtype, sizes


def _import(source: str) -> ModuleType:
    """Import the user's module; what lies beside it, or in the current folder, is found after everything installed.

    ``python -m`` puts that folder first. Here a ``numpy.py`` in it would then be what *we* import later.
    """
    if not source:
        raise SubjectError("expected package.module:name or file.py:name, got no module before the colon")
    with guest(f"{source} cannot be imported"):
        if not source.endswith(".py"):
            _find_last(str(Path.cwd()))
            return importlib.import_module(source)
        path = Path(source).resolve()
        if not path.is_file():
            raise SubjectError(f"there is no file {source}")
        name = _free(path)
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        _find_last(str(path.parent))
        sys.modules[name] = module
        spec.loader.exec_module(module)
        return module


def _find_last(folder: str) -> None:
    """Let modules of a folder be found, after all others."""
    if folder not in sys.path:
        sys.path.append(folder)


def _free(path: Path) -> str:
    """The name to import a file under: its own, unless that is another module's."""
    known = sys.modules.get(path.stem)
    if known is not None:
        return path.stem if getattr(known, "__file__", None) == str(path) else f"_user_{path.stem}"
    return f"_user_{path.stem}" if importlib.util.find_spec(path.stem) is not None else path.stem


def _find(module: ModuleType, source: str, name: str) -> object:
    with guest(f"{source} has no {name!r}"):
        try:
            return getattr(module, name)
        except AttributeError:
            known = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
            message = str(UnknownNameError(f"name in {source}", name, known))
            raise SubjectError(message) from None


def _built(text: str, factory: object, arguments: dict[str, object], seed: int) -> nn.Module:
    with guest(f"{text} cannot be built"):
        return build(factory, arguments, seed)


def _parameters(module: nn.Module) -> list[str]:
    with guest(f"the parameters of {type(module).__name__}.forward cannot be read"):
        return [p.name for p in inspect.signature(module.forward).parameters.values() if p.kind is not p.VAR_KEYWORD]
