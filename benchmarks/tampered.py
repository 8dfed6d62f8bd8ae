"""Tamper with the model of a bundle in ways that honest bugs do, and see whether ``verify`` notices.

    python -m benchmarks.tampered BUNDLE [BUNDLE ...]

Each tampered bundle is a copy with all hashes right, so that only its cases speak against it. What cannot be done to a
model (a batch that is fixed cannot be 5) is left out of its column.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from attn_export import bundle
from attn_export.bundle import versions
from attn_export.deploy_tests.backends import DEFAULT
from attn_export.deploy_tests.parity.verify import verify
from attn_export.export.graph.index import GraphIndex
from attn_export.export.mutants.outputs import detach
from attn_export.types import Array


class Tamper:
    """Writes nodes before the first output of a graph: ``y`` is what it was, and ``result`` what it becomes."""

    def __init__(self, model: onnx.ModelProto) -> None:
        index = GraphIndex(model)
        self.graph = model.graph
        self.name, self.input = model.graph.output[0].name, index.inputs[0].name
        self.batch_is_free = isinstance((index.shape(self.input) or (0,))[0], str)
        self.y = detach(model.graph, self.name)
        self._count = 0

    def constant(self, value: object, dtype: type = np.float32) -> str:
        """Hold a constant; its name."""
        name = self._fresh()
        self.graph.initializer.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def node(self, op: str, *inputs: str, **attributes: Any) -> str:
        """Append a node; the name of what it makes."""
        name = self._fresh()
        self.graph.node.append(helper.make_node(op, list(inputs), [name], name, **attributes))
        return name

    def end(self, result: str) -> None:
        """Let ``result`` be the output."""
        self.graph.node.append(helper.make_node("Identity", [result], [self.name], "tampered"))

    def where(self, condition: str, wrong: str | None = None) -> str:
        """Give twice the output, or ``wrong``, where a condition holds."""
        return self.node("Where", condition, wrong or self.node("Add", self.y, self.y), self.y)

    def batch(self) -> str:
        """Take the batch of the first input."""
        return self.node("Gather", self.node("Shape", self.input), self.constant(0, np.int64))

    def extreme(self, op: str) -> str:
        """Take the smallest or largest number of the first input."""
        return self.node(op, self.input, keepdims=0)

    def _fresh(self) -> str:
        self._count += 1
        return f"tamper.{self._count}"


def _compared(op: str, reduced: str, number: float) -> Callable[[Tamper, tuple[int, ...]], str]:
    return lambda t, _: t.where(t.node(op, t.extreme(reduced), t.constant(number)))


def _at_batch(op: str, size: int) -> Callable[[Tamper, tuple[int, ...]], str]:
    return lambda t, _: t.where(t.node(op, t.batch(), t.constant(size, np.int64)))


def _not_negative(t: Tamper, _: tuple[int, ...]) -> str:
    return t.where(t.node("Not", t.node("Less", t.extreme("ReduceMin"), t.constant(0.0))))


def _is_constant(t: Tamper, _: tuple[int, ...]) -> str:
    return t.where(t.node("Equal", t.extreme("ReduceMin"), t.extreme("ReduceMax")))


def _nan(t: Tamper, _: tuple[int, ...]) -> str:
    return t.where(t.node("Greater", t.extreme("ReduceMax"), t.constant(1e4)), t.node("Mul", t.y, t.constant(np.nan)))


def _factor(change: Callable[[Array], None]) -> Callable[[Tamper, tuple[int, ...]], str]:
    """Multiply by ones that ``change`` alters; the axis of channels is the first of its argument."""

    def tampered(t: Tamper, shape: tuple[int, ...]) -> str:
        value = np.ones((shape[1], 1), np.float32)
        change(value)
        return t.node("Mul", t.y, t.constant(value.reshape(-1, *(1,) * (len(shape) - 2))))

    return tampered


def _set(values: Array, index: int | slice, to: float) -> None:
    values[index] = to


def _moved(by: float) -> Callable[[Tamper, tuple[int, ...]], str]:
    """Add to a single number of the first item, where smaller sizes have it too."""

    def tampered(t: Tamper, shape: tuple[int, ...]) -> str:
        place = t.constant([[0, shape[1] * 2 // 3, *(min(1, size - 1) for size in shape[2:])]], np.int64)
        moved = t.node("Add", t.node("GatherND", t.y, place), t.constant([by]))
        return t.node("ScatterND", t.y, place, moved)

    return tampered


def _swapped(t: Tamper, shape: tuple[int, ...]) -> str:
    order = np.arange(shape[1])
    order[-2:] = order[-2:][::-1]
    return t.node("Gather", t.y, t.constant(order, np.int64), axis=1)


def _parts(t: Tamper, axis: int) -> tuple[str, str]:
    """Cut off the last column."""
    ends = {
        "axes": t.constant([axis], np.int64),
        "last": t.constant([-1], np.int64),
        "all": t.constant([2**31], np.int64),
    }
    first = t.node("Slice", t.y, t.constant([0], np.int64), ends["last"], ends["axes"])
    return first, t.node("Slice", t.y, ends["last"], ends["all"], ends["axes"])


def _rolled(t: Tamper, shape: tuple[int, ...]) -> str:
    first, last = _parts(t, len(shape) - 1)
    return t.node("Concat", last, first, axis=len(shape) - 1)


def _last_dead(t: Tamper, shape: tuple[int, ...]) -> str:
    first, last = _parts(t, len(shape) - 1)
    return t.node("Concat", first, t.node("Mul", last, t.constant(0.0)), axis=len(shape) - 1)


#: By name; whether it needs a free batch.
TAMPERS: Mapping[str, tuple[bool, Callable[[Tamper, tuple[int, ...]], str]]] = {
    "wrong beyond batch 8": (True, _at_batch("Greater", 8)),
    "wrong at batch 5": (True, _at_batch("Equal", 5)),
    "wrong at batch 6": (True, _at_batch("Equal", 6)),
    "wrong where all is negative": (False, _compared("Less", "ReduceMax", 0.0)),
    "wrong where nothing is negative": (False, _not_negative),
    "wrong on constant frames": (False, _is_constant),
    "wrong above 50": (False, _compared("Greater", "ReduceMax", 50.0)),
    "NaN above 10,000": (False, _nan),
    "one class dead": (False, _factor(lambda v: _set(v, -1, 0.0))),
    "all scores dead": (False, _factor(lambda v: _set(v, slice(len(v) // 5, None), 0.0))),
    "one class +1 %": (False, _factor(lambda v: _set(v, -1, 1.01))),
    "two classes swapped": (False, _swapped),
    "one score off by 0.01": (False, _moved(0.01)),
    "one pixel off by 0.001": (False, _moved(1e-3)),
    "moved by one along the last axis": (False, _rolled),
    "the last column dead": (False, _last_dead),
    "all of it x 1.00001": (False, lambda t, _: t.node("Mul", t.y, t.constant(1.00001))),
}


def noticed(path: Path, name: str) -> str:
    """Tamper with a copy, and say what became of it: ``caught``, ``missed``, ``-`` (cannot be done)."""
    whole = bundle.read(path)
    model = onnx.load(whole.model)
    tamper = Tamper(model)
    needs_batch, change = TAMPERS[name]
    shape = whole.cases[0].reference[tamper.name].shape
    if (needs_batch and not tamper.batch_is_free) or len(shape) < 2 or (change is _swapped and shape[1] < 2):
        return "-"
    tamper.end(change(tamper, shape))
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "copy")
        shutil.copytree(path, copy)
        onnx.save(model, copy / bundle.MODEL)
        facts = json.loads((copy / bundle.MANIFEST).read_text(encoding="utf-8"))
        bundle.write_manifest(copy, {k: v for k, v in facts.items() if k not in ("files", "cases", versions.KEY)})
        return "missed" if verify(bundle.read(copy), DEFAULT).ok else "caught"


def main() -> None:
    """Print a row for each way to tamper, and how many were caught."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", nargs="+", type=Path)
    paths: list[Path] = parser.parse_args().bundles
    print(f"| tampered | {' | '.join(path.name for path in paths)} |\n|{'---|' * (len(paths) + 1)}")
    found: dict[Path, list[str]] = {path: [] for path in paths}
    for name in TAMPERS:
        for path in paths:
            found[path].append(noticed(path, name))
        print(f"| {name} | {' | '.join(found[path][-1] for path in paths)} |", flush=True)
    scores = [f"{row.count('caught')} of {row.count('caught') + row.count('missed')}" for row in found.values()]
    print(f"| **caught** | {' | '.join(scores)} |")


if __name__ == "__main__":
    main()
