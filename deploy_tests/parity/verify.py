"""Prove a bundle on this machine: read it whole, run its cases on a backend, compare with its reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from attn_export.bundle import Artifact, Bundle, Case, idle
from attn_export.deploy_tests.open_bundle import chosen, narrowed, opened
from attn_export.deploy_tests.parity import slices, varying
from attn_export.deploy_tests.parity.centred import batched
from attn_export.deploy_tests.parity.compare import Parity, prove
from attn_export.deploy_tests.parity.int8 import prove_int8, prove_others
from attn_export.errors import InconclusiveError
from attn_export.types import ShapeRange


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
    artifact: str | None = None,
    settings: Mapping[str, str] | None = None,
) -> Parity:
    """Prove parity of ``bundle`` on ``backend``, on its own cases or on others, prepared for ``ranges`` of shapes.

    ``artifact`` is the name of what is run, and judged by its own precision; the first that the backend takes unless
    given. ``settings`` are of the runtime, its usual ones unless given. ``tolerance`` and ``snr`` are what the user of
    this machine holds it to, instead of what the bundle says. A model that was made int8 from the user's data is proven
    on that data, against its own meaning and the original.

    Raises:
        InconclusiveError: the reference of every output is zero in every case, so that zeros would pass; or the
            artifact takes none of the cases; or of a model below float32, next to nothing varies in them.
        UnknownNameError, BackendMissingError, BackendError, BundleError: as ``opened``.
    """
    model = chosen(bundle, backend, artifact)
    if model.meaning:
        return _verify_int8(bundle, backend, model, cases, threads, ranges, tolerance, snr, atol, rtol, settings)
    known = bundle.cases if cases is None else [replace(case, selections=bundle.selections) for case in cases]
    known, left_out = narrowed(bundle, model).fitting(known)
    if left_out and not known:
        raise InconclusiveError(f"{model.summary()} takes none of the cases, so nothing is known of it: {left_out[0]}")
    refuse_idle(known, bundle)
    with opened(bundle, backend, threads, ranges, model.name, settings) as (run, name, _):
        found = prove(
            run,
            known,
            bundle.outputs,
            backend=name,
            tolerance=model.normalized_limit if tolerance is None else tolerance,
            snr=snr if snr is not None or tolerance is not None else model.snr_db_limit,
            atol=atol,
            rtol=rtol,
            classics=True,
            shares=slices.shares((*bundle.cases, *(() if cases is None else cases))),
            images=images(bundle, model, known, snr) if tolerance is None else None,
        )
    return replace(found, left_out=left_out)


def images(bundle: Bundle, model: Artifact, known: Sequence[Case], snr: float | None = None) -> varying.Wanted | None:
    """Say what is asked of what varies; the limit is the user's where he has one."""
    ports, dims = (bundle.inputs, bundle.outputs), bundle.dynamic_dims
    own = (bundle.manifest.get("data") or {}).get("files") or {}
    return varying.wanted(model.precision, known, *ports, dims, data=own, limit=snr)


def _verify_int8(
    bundle: Bundle,
    backend: str,
    model: Artifact,
    cases: Sequence[Case] | None,
    threads: int,
    ranges: Mapping[str, ShapeRange] | None,
    tolerance: float | None,
    snr: float | None,
    atol: float | None,
    rtol: float | None,
    settings: Mapping[str, str] | None,
) -> Parity:
    """Prove an int8 model on the cases of the user's data, or on others by what varies of them alone."""
    limit = model.centred_db_limit if snr is None else snr
    many = batched(bundle.inputs, bundle.outputs, bundle.dynamic_dims)
    with opened(bundle, backend, threads, ranges, model.name, settings) as (run, name, _):
        if cases is not None:
            known = [replace(case, selections=bundle.selections) for case in cases]
            asked = model.asked_db if snr is None else snr  # what was measured is of the bundle's own images
            return prove_others(run, known, bundle.outputs, backend=name, batched=many, limit=asked)
        meaning, left = narrowed(bundle, model).fitting(model.meaning)
        if left and not meaning:
            raise InconclusiveError(f"{model.summary()} takes none of the user's data: {left[0]}")
        return prove_int8(
            run,
            meaning,
            bundle.cases,
            bundle.outputs,
            backend=name,
            batched=many,
            snr=None if tolerance is not None else model.snr_db_limit,
            limit=limit,
            tolerance=model.normalized_limit if tolerance is None else tolerance,
            atol=atol,
            rtol=rtol,
        )


def refuse_idle(cases: Sequence[Case], bundle: Bundle) -> None:
    """Refuse cases that a model of zeros would pass.

    Raises:
        InconclusiveError: the reference of every output is zero, or not finite, in all of them.
    """
    if bundle.outputs and len(idle(cases, bundle.outputs)) == len(bundle.outputs):
        raise InconclusiveError(
            f"the reference of every output of {bundle.path} is zero in every case, so zeros would pass and parity"
            " proves nothing; use inputs on which the model does something (--data)"
        )
