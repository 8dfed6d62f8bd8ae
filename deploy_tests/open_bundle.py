"""Open a bundle's model on a backend: the one door through which proofs and measurements go."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from attn_export.bundle import Bundle, unchanged
from attn_export.deploy_tests import backends, shapes
from attn_export.deploy_tests.backend import Options, Run
from attn_export.errors import BackendError, BackendMissingError
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
