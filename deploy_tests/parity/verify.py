"""Prove a bundle on this machine: read it whole, run its cases on a backend, compare with its truth."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from attn_export.bundle import Bundle, Case, idle, unchanged
from attn_export.deploy_tests import backends, shapes
from attn_export.deploy_tests.backend import Options, Run
from attn_export.deploy_tests.latency.measure import Latency, Protocol, measure_latency
from attn_export.deploy_tests.parity.compare import Parity, prove
from attn_export.errors import BackendError, BackendMissingError, InconclusiveError
from attn_export.types import ShapeRange


@contextmanager
def opened(
    bundle: Bundle, backend: str, threads: int = 1, ranges: Mapping[str, ShapeRange] | None = None
) -> Iterator[tuple[Run, str, float]]:
    """Open the bundle's model: how to run it, on what, and how many seconds the opening took.

    ``ranges`` are the shapes to prepare for; those of the bundle's cases unless given.

    Raises:
        UnknownNameError: there is no such backend.
        BackendMissingError: it is not available here.
        BackendError: it refuses the model.
        BundleError: another bundle lies there than was read.
    """
    if why := backends.missing(backend):
        raise BackendMissingError(f"{backend} is not available here: {why}")
    began = time.perf_counter()
    ranges = shapes.of(bundle) if ranges is None else ranges
    try:
        with backends.opened(backend, bundle.model, Options(threads=threads, shapes=ranges)) as run:
            unchanged(bundle)  # the runtime has read the model by itself
            yield run, backends.BACKENDS[backend].version(), time.perf_counter() - began
    except BackendError as error:
        unchanged(bundle)
        precision = bundle.precision
        if precision == "float32":
            raise
        why = f"{error}; the model computes in {precision}, for which {backend} may lack kernels on this machine"
        raise BackendError(why) from error


def verify(
    bundle: Bundle,
    backend: str,
    *,
    threads: int = 1,
    atol: float | None = None,
    rtol: float | None = None,
    cases: Sequence[Case] | None = None,
    ranges: Mapping[str, ShapeRange] | None = None,
    tolerance: float | None = None,
    snr: float | None = None,
) -> Parity:
    """Prove parity of ``bundle`` on ``backend``, on its own cases or on others, prepared for ``ranges`` of shapes.

    ``tolerance`` and ``snr`` are what the user of this machine holds it to, instead of what the bundle says.

    Raises:
        InconclusiveError: the truth of every output is zero in every case, so that zeros would pass.
        UnknownNameError, BackendMissingError, BackendError, BundleError: as ``opened``.
    """
    chosen = bundle.cases if cases is None else cases
    refuse_idle(chosen, bundle)
    with opened(bundle, backend, threads, ranges) as (run, name, _):
        return prove(
            run,
            chosen,
            bundle.outputs,
            backend=name,
            tolerance=bundle.tolerance if tolerance is None else tolerance,
            snr=snr if snr is not None or tolerance is not None else bundle.snr,
            atol=atol,
            rtol=rtol,
            classics=True,
        )


def refuse_idle(cases: Sequence[Case], bundle: Bundle) -> None:
    """Refuse cases that a model of zeros would pass.

    Raises:
        InconclusiveError: the truth of every output is zero, or not finite, in all of them.
    """
    if bundle.outputs and len(idle(cases, bundle.outputs)) == len(bundle.outputs):
        raise InconclusiveError(
            f"the truth of every output of {bundle.path} is zero in every case, so zeros would pass and parity proves"
            " nothing; use inputs on which the model does something (--data)"
        )


def latency(
    bundle: Bundle,
    backend: str,
    *,
    threads: int = 1,
    protocol: Protocol | None = None,
    ranges: Mapping[str, ShapeRange] | None = None,
) -> Latency:
    """Measure the bundle's first case on ``backend``, prepared for ``ranges`` of shapes.

    Raises:
        UnknownNameError, BackendMissingError, BackendError: as ``opened``.
    """
    with opened(bundle, backend, threads, ranges) as (run, _, seconds):
        return measure_latency(run, bundle.cases[0].inputs, threads=threads, cold_start=seconds, protocol=protocol)
