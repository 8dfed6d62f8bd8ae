"""Open a bundle's model on a backend: the one door through which proofs and measurements go."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

from attn_export.bundle import Artifact, Bundle, unchanged
from attn_export.bundle.narrowed import Narrowed
from attn_export.deploy_tests import backends, shapes
from attn_export.deploy_tests.backend import Options, Run
from attn_export.errors import BackendError, BackendMissingError
from attn_export.types import ShapeRange


def accepted(bundle: Bundle, backend: str) -> tuple[Artifact, ...]:
    """List the artifacts of ``bundle`` that ``backend`` takes, in their order.

    Raises:
        UnknownNameError, BackendError: there is no such backend, or it cannot be imported.
    """
    kinds = backends.traits(backend).accepts
    return tuple(artifact for artifact in bundle.artifacts if artifact.kind in kinds)


def missing(bundle: Bundle, backend: str) -> str | None:
    """Say why ``bundle`` cannot run on ``backend`` here, or None: the runtime is not there, or takes none of it."""
    if accepted(bundle, backend):
        return backends.missing(backend)
    kinds, there = " or ".join(backends.traits(backend).accepts), ", ".join(one.summary() for one in bundle.artifacts)
    return f"it takes artifacts of kind {kinds}, and the bundle holds {there}"


def chosen(bundle: Bundle, backend: str, artifact: str | None = None) -> Artifact:
    """Choose what to run on ``backend``: the artifact of that name, or the first that it takes.

    Raises:
        UnknownNameError: there is no such backend or artifact.
        BackendError: the backend takes none of it.
    """
    whole = bundle if artifact is None else bundle.only(bundle.artifact(artifact))
    if not (fitting := accepted(whole, backend)):
        raise BackendError(f"{backend} cannot run {bundle.path}: {missing(whole, backend)}")
    return fitting[0]


def narrowed(bundle: Bundle, artifact: Artifact) -> Narrowed:
    """Say what an artifact of ``bundle`` takes of the sizes that the model takes."""
    return Narrowed(bundle.inputs, bundle.outputs, artifact.narrowed_dims)


def alone(bundle: Bundle, artifact: Artifact) -> Bundle:
    """Give the bundle as if it held one artifact alone, and first a case that it takes in one run, for measuring."""
    index = narrowed(bundle, artifact).whole(bundle.cases)
    first, others = bundle.cases[index], (*bundle.cases[:index], *bundle.cases[index + 1 :])
    return replace(bundle.only(artifact), cases=(first, *others))


def options_for(
    bundle: Bundle,
    artifact: Artifact,
    threads: int = 1,
    ranges: Mapping[str, ShapeRange] | None = None,
    settings: Mapping[str, str] | None = None,
) -> Options:
    """Say how to run an artifact; ``ranges`` are the shapes to prepare for, those of the cases unless given."""
    return Options(
        threads=threads,
        shapes=shapes.of(bundle) if ranges is None else ranges,
        precision=artifact.precision,
        inputs=bundle.inputs,
        outputs=bundle.outputs,
        settings=settings or {},
    )


@contextmanager
def opened(
    bundle: Bundle,
    backend: str,
    threads: int = 1,
    ranges: Mapping[str, ShapeRange] | None = None,
    artifact: str | None = None,
    settings: Mapping[str, str] | None = None,
) -> Iterator[tuple[Run, str, float]]:
    """Open an artifact of the bundle: how to run it, on what, and how many seconds the opening took.

    ``ranges`` are the shapes to prepare for; those of the bundle's cases unless given. ``artifact`` is its name; the
    first that the backend takes unless given. ``settings`` are of the runtime, its usual ones unless given. Of a file
    that takes a smaller batch than the model, a batch is run in pieces.

    Raises:
        UnknownNameError: there is no such backend.
        BackendMissingError: it is not available here.
        BackendError: it refuses the model, or takes none of the bundle's artifacts.
        BundleError: another bundle lies there than was read.
    """
    if why := backends.missing(backend):
        raise BackendMissingError(f"{backend} is not available here: {why}")
    model = chosen(bundle, backend, artifact)
    began = time.perf_counter()
    try:
        with backends.opened(backend, model.path, options_for(bundle, model, threads, ranges, settings)) as run:
            unchanged(bundle)  # the runtime has read the model by itself
            yield narrowed(bundle, model).taking(run), backends.BACKENDS[backend].version(), time.perf_counter() - began
    except BackendError as error:
        unchanged(bundle)
        if model.precision == "float32":
            raise
        why = f"{error}; the model computes in {model.precision}, for which {backend} may lack kernels on this machine"
        raise BackendError(why) from error
