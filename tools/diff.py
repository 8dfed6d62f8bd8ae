"""Say where two runs part: the graph from another graph, or a backend from the graph's own float64 meaning."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from attn_export.deploy_tests.backend import Options
from attn_export.deploy_tests.backends import BACKENDS
from attn_export.deploy_tests.parity import FLOOR, TOLERANCE
from attn_export.errors import BackendError, ConversionError, ExportError
from attn_export.export.bisect import Departure, Probe, bisect, derived, relative, strays
from attn_export.export.cut import declared, exposed, extract, reads
from attn_export.export.layers import Local, local_errors
from attn_export.export.origin import Origin, trace
from attn_export.export.save import save
from attn_export.reparam.exact import Exact

Array = NDArray[Any]
Feeds = Mapping[str, Array]

#: Two float64 evaluations of graphs with the same constants agree to this.
SAME = 1e-10


@dataclass(frozen=True)
class Parting:
    """Where two runs part, on which case, and where in the user's code that node comes from."""

    between: str
    case: str
    departure: Departure
    origin: Origin | None

    def sentence(self) -> str:
        """Say it in one line."""
        text = f"{self.between}, case '{self.case}': {self.departure.sentence()}"
        return f"{text}; from {self.origin.sentence()}" if self.origin else text

    def as_json(self) -> dict[str, Any]:
        """The finding as plain data."""
        found, origin = self.departure, self.origin
        finite = [(name, error if np.isfinite(error) else None) for name, error in found.growth]
        return {
            "between": self.between,
            "case": self.case,
            "node": found.node,
            "op": found.op,
            "tensor": found.tensor,
            "shape": list(found.shape),
            "window": list(found.window),
            "error": found.error if np.isfinite(found.error) else None,
            "bound": found.bound,
            "growth": [{"tensor": name, "error": error} for name, error in finite],
            "runs": found.runs,
            "origin": {"module": origin.module, "class": origin.kind, "file": origin.file, "line": origin.line}
            if origin
            else None,
        }


def between_graphs(
    reference: onnx.ModelProto, suspect: onnx.ModelProto, feeds: Feeds, floor: float | None = None
) -> Departure | None:
    """Find where ``suspect`` leaves ``reference``, both evaluated in float64; tensors are matched by name.

    ``floor`` is the relative error that is none; by default float64 noise, or float32 rounding where one graph's
    constants are recomputed from the other's.

    Raises:
        ExportError: a node cannot be evaluated, or no output of theirs has the same name.
    """
    one, other = Exact(reference), Exact(suspect)
    partners = {name for node in reference.graph.node for name in node.output if name}
    rule = relative(_noise(reference, suspect) if floor is None else floor)
    return bisect(
        suspect, lambda names: other.visit(feeds, names), lambda names: one.visit(feeds, names), rule, partners
    )


def of_runtime(
    model: onnx.ModelProto,
    backend: str,
    feeds: Feeds,
    tolerance: float = TOLERANCE,
    threads: int = 1,
    meaning: onnx.ModelProto | None = None,
    floor: float = FLOOR,
) -> Departure | None:
    """Find where ``backend`` leaves the float64 meaning of ``model``, by what another float32 evaluation strays.

    ``floor`` is the relative error granted to any correct run, times ``tolerance``; coarser precisions need more.
    ``meaning`` is the graph that says what is right, by tensor names; by default ``model`` itself.

    Raises:
        ExportError: a node cannot be evaluated.
        BackendMissingError, BackendError: as the backend.
    """
    right = model if meaning is None else meaning
    exact, single = Exact(right), Exact(right, np.float32)
    partners = {name for node in right.graph.node for name in node.output if name}
    stray: dict[str, float] = {}

    def truth(names: Sequence[str]) -> Iterator[tuple[str, Array]]:
        singles = dict(single.visit(feeds, names))
        for name, want in exact.visit(feeds, names):
            stray[name] = strays(singles.pop(name), want)
            yield name, want

    with probing(model, backend, feeds, threads) as probe:
        return bisect(model, probe, truth, derived(stray.__getitem__, tolerance, floor), partners)


def locate(
    model: onnx.ModelProto,
    cases: Iterable[tuple[str, Feeds]],
    backend: str = "onnxruntime",
    *,
    reference: onnx.ModelProto | None = None,
    known: Mapping[str, Origin] | None = None,
    snr: float | None = None,
) -> Parting | None:
    """Find the first parting over all cases: of the graph from ``reference``, or else of ``backend`` from the graph.

    ``snr`` is the signal-to-noise ratio in dB that a precision below float32 is held to: what stays above is none.
    """
    least = None if snr is None else 10 ** (-snr / 20)
    for name, feeds in cases:
        found, between = None, "the graph and its reference, both in float64"
        if reference is not None:
            found = between_graphs(reference, model, feeds, least)
        if found is None:
            floor = FLOOR if least is None else least / TOLERANCE
            found, between = of_runtime(model, backend, feeds, floor=floor), f"{backend} and the graph in float64"
        if found is not None:
            return Parting(between, name, found, _origin(model, found, known or {}))
    return None


def _origin(model: onnx.ModelProto, found: Departure, known: Mapping[str, Origin]) -> Origin | None:
    """The origin of the first node of the window that comes from a module with a name, or else of the last."""
    outputs = [model.graph.node[position].output[0] for position in found.window]
    traced = [origin for name in outputs if (origin := trace(model, name, known))]
    return next((origin for origin in traced if origin.module), traced[-1] if traced else None)


@contextmanager
def probing(model: onnx.ModelProto, backend: str, feeds: Feeds, threads: int = 1) -> Iterator[Probe]:
    """Give a probe that runs ``model`` on ``backend``, cut open at the tensors asked for."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "cut.onnx")

        def probe(names: Sequence[str]) -> Iterable[tuple[str, Array]]:
            cut = exposed(model, names)
            save(cut, path)
            read = {value.name for value in cut.graph.input}
            with BACKENDS[backend].open(path, Options(threads=threads)) as run:
                return list(run({name: value for name, value in feeds.items() if name in read}).items())

        yield probe


def layer_errors(model: onnx.ModelProto, feeds: Feeds, backend: str = "onnxruntime") -> tuple[Local, ...]:
    """Every layer against its own float64 meaning on the backend's own inputs, the worst first.

    Layers that cannot be evaluated by themselves end the check: it is the second tier, and parity is the first.
    """
    found: list[Local] = []
    with probing(model, backend, feeds) as probe, suppress(ExportError, BackendError):
        found += local_errors(model, probe, feeds)
    return tuple(sorted(found, key=lambda layer: -layer.error))


def write_repro(
    model: onnx.ModelProto, departure: Departure, feeds: Feeds, folder: Path, reference: onnx.ModelProto | None = None
) -> int:
    """Write the smallest part of ``model`` that still departs: ``part.onnx``, ``inputs.npz`` and ``repro.py``.

    The inputs are those that ``reference`` (by default the graph itself) has in float64, rounded to the types the
    graph declares; ``expected`` is the truth on them. Returns how many nodes the part has.
    """
    truth = Exact(reference if reference is not None else model)
    made = {name for node in truth.nodes for name in node.output} | set(feeds)
    first = departure.window[0]
    size = departure.position + 1 - first
    while True:
        positions = _ancestors(model, range(max(0, first), departure.position + 1), departure.tensor)
        wanted = reads(model, positions)
        if all(name in made for name in wanted):
            values = dict(truth.visit(feeds, [*wanted, departure.tensor]))
            expected = values.pop(departure.tensor)
            inputs = {name: values[name].astype(declared(model, name)) for name in wanted}
            part = extract(model, positions, inputs, [departure.tensor])
            if _shows(part, inputs, expected, departure) or first <= 0:
                break
        if first <= 0:
            raise ConversionError(f"no part of the graph before {departure.tensor!r} can be fed from its reference")
        first, size = departure.position + 1 - 2 * size, 2 * size
    folder.mkdir(parents=True, exist_ok=True)
    save(part, folder / "part.onnx")
    np.savez(folder / "inputs.npz", **inputs, expected=expected)  # type: ignore[arg-type]  # ** as allow_pickle
    (folder / "repro.py").write_text(_SCRIPT.format(bound=max(departure.bound, FLOOR)), encoding="utf-8")
    return len(positions)


_SCRIPT = '''"""Run this part of the graph under ONNX Runtime and compare it with its float64 truth."""
import sys
import numpy as np
import onnxruntime

inputs = dict(np.load("inputs.npz"))
expected = inputs.pop("expected")
came = onnxruntime.InferenceSession("part.onnx").run(None, inputs)[0]
error = np.linalg.norm(came - expected) / np.linalg.norm(expected)
print(f"relative error {{error:.3e}}, bound {bound:.3e}")
sys.exit(int(error > {bound:.3e}))
'''


def _shows(part: onnx.ModelProto, inputs: Feeds, expected: Array, departure: Departure) -> bool:
    with probing(part, "onnxruntime", inputs) as probe:
        ((_, came),) = probe([departure.tensor])
    return came.shape != expected.shape or not strays(came, expected) <= max(departure.bound, FLOOR)


def _ancestors(model: onnx.ModelProto, positions: Iterable[int], tensor: str) -> list[int]:
    """Those of the positions that ``tensor`` depends on."""
    live, kept = {tensor}, []
    for position in reversed(list(positions)):
        node = model.graph.node[position]
        if live & set(node.output):
            kept.append(position)
            live |= set(node.input)
    return kept[::-1]


def _noise(reference: onnx.ModelProto, suspect: onnx.ModelProto) -> float:
    """Float64 noise, unless more than one constant, and more than one in ten, is not bit for bit one of the other's."""
    known = {numpy_helper.to_array(tensor).tobytes() for tensor in reference.graph.initializer}
    own = [numpy_helper.to_array(tensor) for tensor in suspect.graph.initializer]
    floats = [value for value in own if value.dtype.kind == "f"]
    other = sum(value.tobytes() not in known for value in floats)
    return TOLERANCE * FLOOR if other > max(1, len(floats) / 10) else SAME
