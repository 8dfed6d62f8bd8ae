"""What the stages made of a subject and what proves it, as one value that can be kept: the long part of the job.

Injected faults, measurements and the bundle come after it. What is kept is plain data, arrays and ONNX graphs: nothing
is pickled, and only dataclasses of ours are made of it again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import io
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnx

from attn_export.bundle import Case
from attn_export.deploy_tests.data.inputs import UserInputs
from attn_export.pipeline.stage import Made
from attn_export.untrusted import plain_json

_OURS = "attn_export."


@dataclass(frozen=True)
class Built:
    """The stages' models with their proofs, and the cases.

    Attributes:
        made: what each stage gave.
        warnings: what was said on the way, of the state.
        said: those of them that were said aloud.
        cases: inputs with their float64 reference.
        data: the files of the user's own inputs; their values are in the cases.
        seconds: of wall time, by stage.
        processor: seconds of the processor, by stage.
        spent: seconds of the processor for all of it.
    """

    made: tuple[Made, ...]
    warnings: tuple[str, ...]
    said: tuple[str, ...]
    cases: tuple[Case, ...]
    data: UserInputs | None
    seconds: Mapping[str, float]
    processor: Mapping[str, float]
    spent: float


class Shelf(Protocol):
    """Where it may lie already, for the very subject and options of a job."""

    def take(self) -> Built | None:
        """Give what an earlier run has put there; None where there is nothing."""

    def put(self, built: Built) -> None:
        """Keep it for a later run, where that can be done."""


def write(built: Built, keep: Callable[[bytes], str]) -> str:
    """Write it as JSON; ``keep`` takes what is no JSON and gives its name.

    Raises:
        TypeError, ValueError: it holds what cannot be written.
    """
    written = json.dumps(_plain(built, keep), allow_nan=False)
    plain_json.parse(written)
    return written


def read(text: str, kept: Callable[[str], bytes]) -> Built:
    """Make it again from what ``write`` has given.

    Raises:
        KeyError, TypeError, ValueError, AttributeError, ImportError: it is something else.
    """
    built = _value(plain_json.parse(text), kept)
    if not isinstance(built, Built):
        raise TypeError(f"expected what stages have made, got {type(built).__name__}")
    return built


def _plain(value: object, keep: Callable[[bytes], str]) -> Any:
    if value is None or type(value) in (bool, int, str):
        return value
    if type(value) is float:
        return value if math.isfinite(value) else {"float": repr(value)}
    if type(value) in (tuple, list):
        return {type(value).__name__: [_plain(item, keep) for item in value]}  # type: ignore[attr-defined]
    if isinstance(value, Mapping):
        return {"dict": [[_plain(key, keep), _plain(item, keep)] for key, item in value.items()]}
    if dataclasses.is_dataclass(value) and type(value).__module__.startswith(_OURS):
        fields = {field.name: _plain(getattr(value, field.name), keep) for field in dataclasses.fields(value)}
        return {"of": f"{type(value).__module__}:{type(value).__qualname__}", "fields": fields}
    if isinstance(value, Path):
        return {"path": str(value)}
    if isinstance(value, onnx.ModelProto):
        return {"model": keep(value.SerializeToString())}
    if isinstance(value, bytes):
        return {"bytes": keep(value)}
    if isinstance(value, np.ndarray | np.generic) and value.dtype.isbuiltin == 1 and value.dtype != object:
        page = io.BytesIO()
        np.save(page, value, allow_pickle=False)
        return {"array" if isinstance(value, np.ndarray) else "number": keep(page.getvalue())}
    raise TypeError(f"a {type(value).__name__} is not kept")


def _value(plain: Any, kept: Callable[[str], bytes]) -> Any:
    if not isinstance(plain, dict):
        return plain
    if "of" in plain:
        module, _, name = plain["of"].partition(":")
        kind = getattr(importlib.import_module(module), name) if module.startswith(_OURS) else None
        if not (isinstance(kind, type) and dataclasses.is_dataclass(kind)):
            raise TypeError(f"{plain['of']} is no dataclass of ours")
        return kind(**{field: _value(item, kept) for field, item in plain["fields"].items()})
    ((kind, content),) = plain.items()
    return _MAKERS[kind](content, kept)


def _array(name: str, kept: Callable[[str], bytes]) -> Any:
    return np.load(io.BytesIO(kept(name)), allow_pickle=False)


_MAKERS: dict[str, Callable[[Any, Callable[[str], bytes]], Any]] = {
    "float": lambda content, _: float(content),
    "tuple": lambda content, kept: tuple(_value(item, kept) for item in content),
    "list": lambda content, kept: [_value(item, kept) for item in content],
    "dict": lambda content, kept: {_value(key, kept): _value(item, kept) for key, item in content},
    "path": lambda content, _: Path(content),
    "bytes": lambda content, kept: kept(content),
    "model": lambda content, kept: onnx.ModelProto.FromString(kept(content)),
    "array": _array,
    "number": lambda content, kept: _array(content, kept)[()],
}


def named(content: bytes) -> str:
    """Name what is kept by its content."""
    return hashlib.sha256(content).hexdigest()
