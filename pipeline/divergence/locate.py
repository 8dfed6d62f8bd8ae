"""Say where two runs diverge: the graph from another graph, or a backend from the graph's own float64 meaning."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace

import onnx

from attn_export.deploy_tests.backends import DEFAULT
from attn_export.deploy_tests.parity.compare import TOLERANCE
from attn_export.errors import BackendError, ExportError
from attn_export.export.audit.layers import Local, local_errors
from attn_export.export.graph.origin import Origin, trace
from attn_export.pipeline.divergence.divergence import Divergence
from attn_export.pipeline.divergence.runs import Variant, first_difference, in_order, probing
from attn_export.types import Feeds


def between_graphs(
    reference: onnx.ModelProto, suspect: onnx.ModelProto, feeds: Feeds, floor: float | None = None
) -> Divergence | None:
    """Find where ``suspect`` leaves ``reference``, both evaluated in float64; see ``between``."""
    return first_difference(Variant("reference", reference), Variant("suspect", suspect), feeds, floor=floor)


def of_runtime(
    model: onnx.ModelProto,
    backend: str,
    feeds: Feeds,
    tolerance: float = TOLERANCE,
    threads: int = 1,
    meaning: onnx.ModelProto | None = None,
    floor: float | None = None,
) -> Divergence | None:
    """Find where ``backend`` leaves the float64 meaning of ``model``, or of another graph that says what is right."""
    right = Variant("meaning", model if meaning is None else meaning)
    run = Variant(backend, model, backend=backend)
    return first_difference(right, run, feeds, floor=floor, tolerance=tolerance, threads=threads)


def locate(
    model: onnx.ModelProto,
    cases: Iterable[tuple[str, Feeds]],
    backend: str = DEFAULT,
    *,
    reference: onnx.ModelProto | None = None,
    known: Mapping[str, Origin] | None = None,
    snr: float | None = None,
) -> Divergence | None:
    """Find the first divergence over all cases: of the graph from ``reference``, or else of ``backend`` from the graph.

    ``snr`` is the signal-to-noise ratio in dB that a precision below float32 is held to: what stays above is none.
    """
    graph, run = Variant("the graph", model, snr=snr), Variant(backend, model, backend=backend, snr=snr)
    for case in cases:
        found = (
            first_divergence(Variant("its reference", reference), graph, [case], known or {})
            if reference is not None
            else None
        )
        if found := found or first_divergence(graph, run, [case], known or {}):
            return found
    return None


def first_divergence(
    one: Variant, other: Variant, cases: Iterable[tuple[str, Feeds]], known: Mapping[str, Origin]
) -> Divergence | None:
    """Find the first divergence of two variants over all cases, and where in the user's code that node comes from.

    Raises:
        UsageError, ExportError, BackendMissingError, BackendError: as ``between``.
    """
    reference, suspect = in_order(one, other)
    for name, feeds in cases:
        if (found := first_difference(one, other, feeds)) is not None:
            assert suspect.graph is not None
            between = f"{reference.text} and {suspect.text}"
            return replace(found, between=between, case=name, origin=origin_of(suspect.graph, found, known))
    return None


def origin_of(model: onnx.ModelProto, found: Divergence, known: Mapping[str, Origin]) -> Origin | None:
    """Find the origin of the first node of the window that comes from a module with a name, or else of the last."""
    outputs = [model.graph.node[position].output[0] for position in found.window]
    traced = [origin for name in outputs if (origin := trace(model, name, known))]
    return next((origin for origin in traced if origin.module), traced[-1] if traced else None)


def layer_errors(model: onnx.ModelProto, feeds: Feeds, backend: str = DEFAULT) -> tuple[Local, ...]:
    """Every layer against its own float64 meaning on the backend's own inputs, the worst first.

    Layers that cannot be evaluated by themselves end the check: parity has been checked before.
    """
    found: list[Local] = []
    with probing(model, backend, feeds) as probe, suppress(ExportError, BackendError):
        found += local_errors(model, probe, feeds)
    return tuple(sorted(found, key=lambda layer: -layer.error))
