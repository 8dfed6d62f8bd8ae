"""Prove an int8 model twice: that it runs as its graph says, and that what the graph says is still the original.

    run against the graph's own meaning in float64    integer kernels round elsewhere: at least 20 dB, centred, and no
                                                      less than the meaning itself keeps of the original
    run against the original in float64               what was lost to eight bits: the limit that was asked for

So a runtime may add no more noise than quantising did. A kernel that rounds a share f of the codes to the neighbour
adds 12 f of what rounding to codes adds at all; on trained networks ONNX Runtime was seen 6 to 19 dB above the limit,
OpenVINO 90 dB.

Both are on the cases of the user's data alone. Ranges were learnt from such inputs, so that a drawn one, an impulse or
an extreme, says nothing: all of it may lie beyond them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from attn_export.bundle import Case
from attn_export.deploy_tests.backend import Run
from attn_export.deploy_tests.parity import centred
from attn_export.deploy_tests.parity.compare import TOLERANCE, Parity, prove
from attn_export.types import Array, Feeds, TensorSpec

#: What the two references are called.
MEANING, ORIGINAL = "its own meaning in float64", "the original in float64"


def prove_int8(
    run: Run,
    meaning: Sequence[Case],
    cases: Sequence[Case],
    outputs: Sequence[TensorSpec],
    *,
    backend: str,
    batched: bool,
    snr: float | None,
    limit: float | None,
    tolerance: float = TOLERANCE,
    atol: float | None = None,
    rtol: float | None = None,
) -> Parity:
    """Run an int8 model on the cases that it has a meaning for, and compare with that and with the original.

    Args:
        run: the model; each case is run once.
        meaning: cases of the user's data, with what the graph means as reference.
        cases: of the bundle, with the original as reference; those without a meaning are left out.
        outputs: of the model.
        backend: what runs it.
        batched: whether the first dimension of every output counts images.
        snr: what it is held to against its meaning, in dB; None where ``tolerance`` on k is asked for.
        limit: what it is held to against the original, in dB; None for nothing.
        tolerance: limit of k, where ``snr`` is None.
        atol: the user's own absolute tolerance against the meaning.
        rtol: the same, relative.

    Raises:
        BackendError: the backend breaks on a case.
        InconclusiveError: next to nothing varies, so that neither says anything.
    """
    outputs, once = tuple(outputs), _Once(run)
    by_name = {case.name: case for case in cases}
    own = [by_name[case.name] for case in meaning]
    rows = prove(
        once,
        meaning,
        outputs,
        backend=backend,
        tolerance=tolerance,
        snr=snr,
        atol=atol,
        rtol=rtol,
        shares={},  # one code more or less is much of a slice that is nearly nothing
    )
    if snr is not None:
        kept = centred.compare(own, _as_runs(meaning, outputs), outputs, batched=batched, against=ORIGINAL)
        least = max(snr, kept.least.median_db)
    both = (
        centred.measure(once, own, outputs, batched=batched, against=ORIGINAL, limit=limit),
        centred.measure(once, meaning, outputs, batched=batched, against=MEANING, limit=None if snr is None else least),
    )
    others = len(cases) - len(own)
    left = (f"{others} drawn cases: ranges were learnt from data, so int8 is judged on data alone",) if others else ()
    return Parity(backend, tolerance, rows.comparisons, snr, left, both)


def _as_runs(meaning: Sequence[Case], outputs: Sequence[TensorSpec]) -> list[dict[str, Array]]:
    """Give what the graph means as if a runtime had given it."""
    return [{port.name: case.reference[port.name].astype(port.dtype) for port in outputs} for case in meaning]


def prove_others(
    run: Run, cases: Sequence[Case], outputs: Sequence[TensorSpec], *, backend: str, batched: bool, limit: float | None
) -> Parity:
    """Compare an int8 model with other cases' references by what varies alone: of these its meaning is not known.

    Raises:
        BackendError, InconclusiveError: as ``prove_int8``.
    """
    found = centred.measure(run, cases, outputs, batched=batched, against="the reference", limit=limit)
    return Parity(backend, TOLERANCE, (), None, (), (found,))


class _Once:
    """Runs each input once, and gives again what came."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._known: dict[tuple[tuple[str, bytes], ...], dict[str, Array]] = {}

    def __call__(self, feeds: Feeds) -> dict[str, Array]:
        key = tuple(sorted((name, hashlib.sha256(value.tobytes()).digest()) for name, value in feeds.items()))
        if key not in self._known:
            self._known[key] = {name: value.copy() for name, value in self._run(feeds).items()}
        return dict(self._known[key])
