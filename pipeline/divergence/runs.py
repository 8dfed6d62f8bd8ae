"""Two runs, and where they part: of a module, of a graph in float64, or of a graph on a backend; any two of these.

What is nearer to the user's code is held true: the eager module before a graph, a graph before its run. The graph that
is walked is the suspect's. Tensors are matched by name, which the stages keep for what they do not rewrite.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import numpy_helper

from attn_export.deploy_tests.backend import Options
from attn_export.deploy_tests.backends import opened
from attn_export.deploy_tests.parity.compare import FLOOR, TOLERANCE
from attn_export.errors import UsageError
from attn_export.export.graph.cut import Probe, exposed
from attn_export.export.onnx.save import save
from attn_export.pipeline.divergence.bisect import bisect, derived, relative, relative_error
from attn_export.pipeline.divergence.divergence import Divergence
from attn_export.reparam.evaluate.onnx import OnnxEvaluator
from attn_export.types import Array, Feeds

if TYPE_CHECKING:
    from attn_export.export.traced import Traced


#: Two float64 evaluations of graphs with the same constants agree to this.
SAME = 1e-10


@dataclass(frozen=True)
class Variant:
    """One of two runs.

    Attributes:
        text: what the user calls it.
        graph: None for the eager module.
        original: the eager module, tensor by tensor.
        backend: what runs the graph; None for its meaning in float64.
        snr: what its precision is held to, in dB; None for float32.
    """

    text: str
    graph: onnx.ModelProto | None = None
    original: Traced | None = None
    backend: str | None = None
    snr: float | None = None

    @property
    def rank(self) -> int:
        """How far it is from the user's code."""
        return 0 if self.graph is None else 1 if self.backend is None else 2

    @property
    def names(self) -> frozenset[str]:
        """The tensors that it has."""
        if self.graph is None:
            assert self.original is not None
            return self.original.names
        return frozenset(name for node in self.graph.graph.node for name in node.output if name)


def in_order(one: Variant, other: Variant) -> tuple[Variant, Variant]:
    """Return the side that is held true, and the suspect."""
    return (one, other) if one.rank <= other.rank else (other, one)


def first_difference(
    one: Variant,
    other: Variant,
    feeds: Feeds,
    *,
    floor: float | None = None,
    tolerance: float = TOLERANCE,
    threads: int = 1,
) -> Divergence | None:
    """Find the first tensor at which two runs differ by more than correct ones do, or None.

    ``floor`` is the relative error that is none. By default that is float64 noise between two graphs (float32 rounding
    where one's constants are recomputed from the other's), what the coarser side's precision is held to, or else what
    a second float32 evaluation differs by at each tensor.

    Raises:
        UsageError: neither has a graph to walk.
        ExportError: a node cannot be evaluated, or no output of theirs has the same name.
        BackendMissingError, BackendError: as the backend.
    """
    reference, suspect = in_order(one, other)
    if suspect.graph is None:
        raise UsageError(f"expected two different runs, got {one.text} and {other.text}, which are the same")
    classes = [side.snr for side in (reference, suspect) if side.snr is not None]
    least = 10 ** (-min(classes) / 20) if classes else floor
    if reference.rank == suspect.rank == 1:
        assert reference.graph is not None
        rule = relative(_noise(reference.graph, suspect.graph) if least is None else least)
        stray = None
    else:
        tolerance *= 2 if reference.backend else 1  # each of two runs has an error
        stray = dict[str, float]()
        rule = derived(stray.__getitem__, tolerance, FLOOR if least is None else least / tolerance)
    float32_error = suspect if reference.backend else reference
    first, second = meaning(float32_error, feeds), meaning(float32_error, feeds, single=True)

    with _probing(suspect, feeds, threads) as probe, _probing(reference, feeds, threads) as right:

        def true(names: Sequence[str]) -> Iterator[tuple[str, Array]]:
            if stray is not None:
                singles = dict(second(names))
                for name, want in first(names):
                    stray[name] = relative_error(singles.pop(name), want)
                    if not reference.backend:
                        yield name, want
            if stray is None or reference.backend:
                yield from right(names)

        return bisect(suspect.graph, probe, true, rule, reference.names)


def meaning(side: Variant, feeds: Feeds, *, single: bool = False) -> Probe:
    """Its tensors in float64, or in float32 by other kernels than a backend's."""
    if side.graph is None:
        import torch

        assert side.original is not None
        original, dtype = side.original, torch.float32 if single else torch.float64
        return lambda names: original.visit(feeds, names, dtype)
    exact = OnnxEvaluator(side.graph, np.float32 if single else np.float64)
    return lambda names: exact.visit(feeds, names)


@contextmanager
def _probing(side: Variant, feeds: Feeds, threads: int) -> Iterator[Probe]:
    if side.backend is None:
        yield meaning(side, feeds)
        return
    assert side.graph is not None
    with probing(side.graph, side.backend, feeds, threads) as probe:
        yield probe


@contextmanager
def probing(model: onnx.ModelProto, backend: str, feeds: Feeds, threads: int = 1) -> Iterator[Probe]:
    """Give a probe that runs ``model`` on ``backend``, cut open at the tensors asked for."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "cut.onnx")

        def probe(names: Sequence[str]) -> Iterable[tuple[str, Array]]:
            cut = exposed(model, names)
            save(cut, path)
            read = {value.name for value in cut.graph.input}
            with opened(backend, path, Options(threads=threads)) as run:
                return list(run({name: value for name, value in feeds.items() if name in read}).items())

        yield probe


def _noise(reference: onnx.ModelProto, suspect: onnx.ModelProto) -> float:
    """Float64 noise, unless more than one constant, and more than one in ten, is not bit for bit one of the other's."""
    known = {numpy_helper.to_array(tensor).tobytes() for tensor in reference.graph.initializer}
    own = [numpy_helper.to_array(tensor) for tensor in suspect.graph.initializer]
    floats = [value for value in own if value.dtype.kind == "f"]
    other = sum(value.tobytes() not in known for value in floats)
    return TOLERANCE * FLOOR if other > max(1, len(floats) / 10) else SAME
