"""Two runs, and where they part: of a module, of a graph in float64, or of a graph on a backend; any two of these.

What is nearer to the user's code is held true: the eager module before a graph, a graph before its run. The graph that
is walked is the suspect's. Tensors are matched by name, which the stages keep for what they do not rewrite.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx

from attn_export.deploy_tests.backend import Options
from attn_export.deploy_tests.backends import DEFAULT, opened
from attn_export.deploy_tests.parity.compare import FLOOR, TOLERANCE
from attn_export.errors import ExportError, UsageError
from attn_export.export.graph.cut import Probe, exposed
from attn_export.export.onnx.save import save
from attn_export.export.onnx.shared_weights import shared
from attn_export.pipeline.divergence.bisect import bisect, derived, relative, relative_error
from attn_export.pipeline.divergence.divergence import Divergence
from attn_export.pipeline.divergence.pairing import false_partners
from attn_export.pipeline.divergence.rounding import new_constants, rounded
from attn_export.reparam.evaluate import transcendental
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

    ``floor`` is the relative error that is none. By default that is what the coarser side's precision is held to;
    between two graphs what rounding does that only one of them had done to its constants, tensor by tensor, or float64
    noise; else what a second float32 evaluation differs by at each tensor.

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
    stray, doubts = dict[str, float](), list[tuple[Variant, Probe]]()
    if suspect.rank > 1 or reference.rank < 1:
        tolerance *= 2 if reference.backend else 1  # each of two runs has an error
        rule = derived(stray.__getitem__, tolerance, FLOOR if least is None else least / tolerance)
        doubtful = suspect if reference.backend else reference
        doubts = [(doubtful, run) for run in float32_runs(doubtful, feeds)]
    elif least is not None:
        rule = relative(least)
    else:
        doubts = list(_roundings(reference, suspect, feeds))
        rule = derived(lambda name: stray.get(name, 0.0), TOLERANCE, SAME / TOLERANCE)

    with _probing(suspect, feeds, threads) as probe, _probing(reference, feeds, threads) as right:

        def true(names: Sequence[str]) -> Iterator[tuple[str, Array]]:
            values = dict(right(names))
            for side, other_run in doubts:
                exact = values if side is reference and not side.backend else dict(meaning(side, feeds)(names))
                for name, value in other_run(names):
                    stray[name] = max(stray.get(name, 0.0), relative_error(value, exact[name]))
            yield from values.items()

        found = bisect(suspect.graph, probe, true, rule, reference.names)
        if found is not None and reference.graph is not None and (false := _false(reference, suspect, feeds)):
            return bisect(suspect.graph, probe, true, rule, reference.names - false)
        return found


def _false(reference: Variant, suspect: Variant, feeds: Feeds) -> set[str]:
    """Find names that do not mean the same in two graphs; none where they are one, or cannot be evaluated."""
    assert suspect.graph is not None
    assert reference.graph is not None
    if reference.graph is suspect.graph:
        return set()
    with suppress(ExportError):
        return false_partners(suspect.graph, reference.graph, feeds)
    return set()


def _roundings(reference: Variant, suspect: Variant, feeds: Feeds) -> Iterator[tuple[Variant, Probe]]:
    """Give each of two graphs that has constants of its own, with a run in which those are rounded another way."""
    for side, other in ((reference, suspect), (suspect, reference)):
        assert side.graph is not None
        assert other.graph is not None
        if new := new_constants(side.graph, other.graph):
            run = rounded(side.graph, new)
            yield side, partial(run.visit, feeds)


def meaning(side: Variant, feeds: Feeds) -> Probe:
    """Its tensors in float64."""
    if side.graph is None:
        assert side.original is not None
        return partial(side.original.visit, feeds)
    return partial(OnnxEvaluator(side.graph).visit, feeds)


def float32_runs(side: Variant, feeds: Feeds) -> Iterator[Probe]:
    """Give runs in float32 that are right, by other kernels than a backend's: one, and some with coarse functions."""
    if side.graph is None:
        import torch

        from attn_export.export.float32_runs import coarse_functions

        original = side.original
        assert original is not None

        def coarse(way: transcendental.Way, names: Sequence[str]) -> list[tuple[str, Array]]:
            with coarse_functions(original.subject.module, {}, way):
                return list(original.visit(feeds, names, torch.float32))

        yield lambda names: original.visit(feeds, names, torch.float32)
        yield partial(coarse, "either")
        yield partial(coarse, "up")
        return
    yield partial(OnnxEvaluator(side.graph, np.float32).visit, feeds)
    if transcendental.found_in(side.graph):
        yield partial(OnnxEvaluator(side.graph, np.float32, coarse="either").visit, feeds)
        yield partial(OnnxEvaluator(side.graph, np.float32, coarse="up").visit, feeds)


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
        light = shared(model, Path(folder)) if backend == DEFAULT else model  # which maps weights that lie apart

        def probe(names: Sequence[str]) -> Iterable[tuple[str, Array]]:
            cut = exposed(light, names)
            save(cut, path)
            read = {value.name for value in cut.graph.input}
            with opened(backend, path, Options(threads=threads)) as run:
                return list(run({name: value for name, value in feeds.items() if name in read}).items())

        yield probe
