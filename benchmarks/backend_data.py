"""The ONNX project's own backend test data, as its installed package holds it: models, inputs and right outputs.

Most of it the package makes on the spot from its definitions of cases (the same that its source distribution keeps as
files), the rest lies there as files: graphs that PyTorch wrote, and whole networks.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, TypeProto, ValueInfoProto, numpy_helper

DATA = Path(onnx.__file__).parent / "backend" / "test" / "data"
#: Folders of files; ``simple`` is made on the spot too, and ``real`` would have to be fetched.
_FOLDERS = ("pytorch-converted", "pytorch-operator")


@dataclass(frozen=True)
class BackendCase:
    """A model with what comes of some inputs; values are arrays, lists of arrays (sequences) or None (optionals)."""

    name: str
    kind: str
    model: ModelProto
    runs: tuple[tuple[dict[str, Any], dict[str, Any]], ...]


def cases() -> tuple[BackendCase, ...]:
    """All of it, in order of kind and name; about 2,000, in some seconds."""
    return (*made(), *(case for folder in _FOLDERS for case in _filed(folder)), *_light())


@cache
def made() -> tuple[BackendCase, ...]:
    """Make what the package makes: one for each example in the standard, and its models of several nodes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it divides by zero and overflows on purpose
        from onnx.backend.test.case import model, node

        found = [*node.collect_testcases(None), *(case for case in model.collect_testcases() if case.kind == "simple")]
    return tuple(
        BackendCase(case.name, case.kind, case.model, _runs(case.model, case.data_sets))
        for case in found
        if case.model is not None and case.data_sets is not None
    )


def _runs(model: ModelProto, sets: Sequence[tuple[Sequence[Any], Sequence[Any]]]) -> tuple[Any, ...]:
    return tuple((_named(model.graph.input, given), _named(model.graph.output, wanted)) for given, wanted in sets)


def _named(ports: Sequence[ValueInfoProto], values: Sequence[Any]) -> dict[str, Any]:
    return {port.name: plain(value) for port, value in zip(ports, values, strict=False)}


def plain(value: Any) -> Any:
    """Return an array, a list of such, or None, whatever protobuf it came in."""
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    if isinstance(value, onnx.SequenceProto):
        return numpy_helper.to_list(value)
    if isinstance(value, onnx.OptionalProto):
        return numpy_helper.to_optional(value)
    return value


def _filed(folder: str) -> Iterator[BackendCase]:
    for path in sorted((DATA / folder).glob("*/model.onnx")):
        model = onnx.load(path)
        folders = sorted(path.parent.glob("test_data_set_*"))
        sets = [(_read(f, "input", model.graph.input), _read(f, "output", model.graph.output)) for f in folders]
        yield BackendCase(path.parent.name, folder, model, tuple(sets))


def _read(folder: Path, what: str, ports: Sequence[ValueInfoProto]) -> dict[str, Any]:
    """Read inputs or outputs, by the number in a file's name; initializers that are inputs too have no file."""
    return {
        port.name: _parsed(path, port.type)
        for number, port in enumerate(ports)
        if (path := folder / f"{what}_{number}.pb").is_file()
    }


def _parsed(path: Path, kind: TypeProto) -> Any:
    holders: dict[str, Callable[[], Any]] = {"sequence_type": onnx.SequenceProto, "optional_type": onnx.OptionalProto}
    proto = holders.get(kind.WhichOneof("value") or "", onnx.TensorProto)()
    proto.ParseFromString(path.read_bytes())
    return plain(proto)


def _light() -> Iterator[BackendCase]:
    """Whole networks whose weights are constants, and whose input counts up (as the package's own runner has it)."""
    for path in sorted((DATA / "light").glob("*.onnx")):
        model = onnx.load(path)
        (port,) = [v for v in model.graph.input if v.name not in {t.name for t in model.graph.initializer}]
        yield BackendCase(path.stem, "light", model, ((_counting(port), _light_output(path, model)),))


def _counting(port: ValueInfoProto) -> dict[str, Any]:
    shape = [dim.dim_value for dim in port.type.tensor_type.shape.dim]
    size = int(np.prod(shape))
    return {port.name: (np.arange(size).reshape(shape) / size).astype(np.float32)}


def _light_output(path: Path, model: ModelProto) -> dict[str, Any]:
    return {model.graph.output[0].name: _parsed(path.with_name(f"{path.stem}_output_0.pb"), TypeProto())}
