"""Prove a bundle on this machine: read it whole, run its cases on a backend, compare with its reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from attn_export.bundle import Bundle, Case, idle
from attn_export.deploy_tests.open_bundle import chosen, narrowed, opened
from attn_export.deploy_tests.parity import slices
from attn_export.deploy_tests.parity.compare import Parity, prove
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
) -> Parity:
    """Prove parity of ``bundle`` on ``backend``, on its own cases or on others, prepared for ``ranges`` of shapes.

    ``artifact`` is the name of what is run, and judged by its own precision; the first that the backend takes unless
    given. ``tolerance`` and ``snr`` are what the user of this machine holds it to, instead of what the bundle says.

    Raises:
        InconclusiveError: the reference of every output is zero in every case, so that zeros would pass; or the
            artifact takes none of the cases.
        UnknownNameError, BackendMissingError, BackendError, BundleError: as ``opened``.
    """
    model = chosen(bundle, backend, artifact)
    known = bundle.cases if cases is None else [replace(case, selections=bundle.selections) for case in cases]
    known, left_out = narrowed(bundle, model).fitting(known)
    if left_out and not known:
        raise InconclusiveError(f"{model.summary()} takes none of the cases, so nothing is known of it: {left_out[0]}")
    refuse_idle(known, bundle)
    with opened(bundle, backend, threads, ranges, model.name) as (run, name, _):
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
        )
    return replace(found, left_out=left_out)


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
