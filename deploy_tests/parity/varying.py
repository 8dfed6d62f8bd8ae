"""What a model in float16 or bfloat16 keeps of what varies from input to input, beside its usual ratio.

    y = c + d(x), and d is a thousandth of c:    60 dB of y may be 0 dB of d

Where an output is a large constant and a little that depends on the input, the usual ratio is that of the constant: a
MobileOne with random weights has 72 dB in float16, and 7 dB of what varies. So half of the images must reach 20 dB of
what varies in each output, as int8 must. The images are the user's data where there are two or more, else what was
drawn as ever, at one size or another: a constant frame or an input a hundred thousand times too large has another mean.

Where less than a hundredth varies and too little of it is kept, the weights or inputs decide nothing: networks that
nobody trained are like that. That is said, and is neither a pass nor a failure.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from attn_export.bundle import HALVES, VARYING_DB, Case
from attn_export.deploy_tests.parity import centred
from attn_export.deploy_tests.parity.centred import Centred
from attn_export.errors import InconclusiveError
from attn_export.types import Array, Dim, TensorSpec
from attn_export.untrusted.text import one_line

#: The cases that are drawn as ever: as traced, once more with another seed, and at other sizes.
_AS_EVER = re.compile(r"as traced|seed \d+|\w+=\d+(, \w+=\d+)*")
#: What the reference is called.
AGAINST = "the original in float64"


@dataclass(frozen=True)
class Wanted:
    """What is asked of a model below float32.

    Attributes:
        precision: what it computes in.
        names: of the cases whose images are compared.
        batched: whether the first dimension of every output counts images.
        limit_db: what half of the images must reach.
    """

    precision: str
    names: frozenset[str]
    batched: bool
    limit_db: float


def wanted(
    precision: str,
    cases: Sequence[Case],
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
    dims: Collection[Dim],
    *,
    data: Collection[str] = (),
    limit: float | None = None,
) -> Wanted | None:
    """Say what is asked of a model in ``precision``: nothing unless it is float16 or bfloat16.

    Args:
        precision: what the model computes in.
        cases: what it is proven on.
        inputs: of the model.
        outputs: of the model.
        dims: the dimensions that may vary.
        data: names of the cases that are the user's own; all are where none was drawn as ever.
        limit: what half of the images must reach, in dB; 20 unless given.
    """
    if precision not in HALVES:
        return None
    many = centred.batched(inputs, outputs, dims)
    own = [case for case in cases if case.name in data]
    # Two at least: one image has no mean but itself.
    enough = len(own) > 1 or (many and own and any(len(value) > 1 for value in own[0].reference.values() if value.ndim))
    names = {case.name for case in own} if enough else {c.name for c in cases if _AS_EVER.fullmatch(c.name)}
    names = names or {case.name for case in cases}
    return Wanted(precision, frozenset(names), many, VARYING_DB if limit is None else limit)


def judge(
    asked: Wanted, cases: Sequence[Case], runs: Sequence[Mapping[str, Array]], outputs: Sequence[TensorSpec]
) -> Centred:
    """Compare what was run with what varies of the references; ``cases`` are those that are asked for.

    What cannot be centred is left out, which may be all of it: then no output is in what is returned.
    """
    return centred.collect(cases, runs, outputs, batched=asked.batched, against=AGAINST, limit=asked.limit_db)


def summary(found: Centred) -> str:
    """Say what is kept of what varies, or why nothing is known of that."""
    if not found.outputs:
        why = f": {found.left_out[0]}" if found.left_out else ""
        return f"what varies from input to input could not be judged{why}"
    least = found.least
    if least.worst.failure:
        return found.summary()
    kept = f"of what varies in {least.output}, {least.share:.2g} of its energy, {least.median_db:.1f} dB are kept"
    text = f"{kept} at the median of {len(least.images)} inputs (limit {found.limit_db:g} dB)"
    return "; ".join(filter(None, [text, found.unproven()]))


def refuse_undecided(asked: Wanted, found: Centred) -> None:
    """Refuse to decide where next to nothing of any output varies, and too little of that is kept.

    Raises:
        InconclusiveError: it is so.
    """
    if not found.outputs or found.judged:
        return
    least = found.least
    raise InconclusiveError(
        f"these weights or inputs prove nothing about {asked.precision}: only {least.share:.2g} of the energy of"
        f" {one_line(least.output)} varies with the input, expected at least {centred.VARIES:g}, and of what varies"
        f" {asked.precision} keeps {least.median_db:.1f} dB (at least {asked.limit_db:g} dB); use trained weights"
        " (--weights) and inputs that differ (--data)"
    )
