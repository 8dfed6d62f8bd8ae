"""The cases of a subject: their names, and what each is drawn from.

The first is the one that latency is measured on. The first few are for every model; the others (kinds of inputs, and
sizes at and beyond what tracing knew) cost a share of what one run costs, so a large model gets fewer of them, or gets
them at a smaller height and width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from attn_export.export.cases import kinds
from attn_export.export.cases.work import Work
from attn_export.export.subject import Subject, whole
from attn_export.mechanisms.spec import Input
from attn_export.types import Dim

SCALES = (0.05, 8.0)
BATCHES = (1, 3)
MOVES = (1, -1, 3)
#: Sizes that tell a limit that nobody has written down, the most telling first.
PROBES = (9, 5, 6, 4, 17, 33, 8, 16, 7, 2, 1)
_TELLING = 3
#: How many times what all sizes may cost one may that must be tried.
_DEAR = 5
#: Operations that kinds and sizes may take beside the first few cases, each, and bytes of a bundle.
KINDS, SIZES, BYTES = 8_000_000_000, 8_000_000_000, 8 << 20
#: Kinds that every model is proven on, whatever it costs: at its full size; of code half of them at a smaller one.
LEAST = 4
#: What the seeds of further draws lie apart, beyond those of all other cases.
_APART = 10_000
#: Shares of the traced size at which dear cases are tried, the smallest first.
_SHARES = (10, 5, 2)
#: Further draws at the traced size, for a measure of what varies from input to input: with the first there are four.
AGAIN = 3


@dataclass(frozen=True)
class CasePlan:
    """One case.

    Attributes:
        name: as it stands in the bundle.
        seed: of what is drawn.
        scale: of normal numbers.
        sizes: of dimensions that are not at their traced size.
        kind: of the inputs, see ``kinds``; empty for normal numbers.
        optional: whether it is left out where correct runs say nothing.
    """

    name: str
    seed: int
    scale: float = 1.0
    sizes: Mapping[str, int] = field(default_factory=dict)
    kind: str = ""
    optional: bool = False

    def inputs(self, subject: Subject) -> dict[str, Tensor]:
        """Draw its inputs."""
        if not self.kind:
            return subject.example(seed=self.seed, scale=self.scale, sizes=self.sizes)
        known = {**subject.sizes, **self.sizes}
        return {item.name: kinds.draw_kind(self.kind, item, known, self.seed) for item in subject.inputs}


def single(subject: Subject) -> dict[str, int]:
    """Take a batch of one where that may vary: the sizes of the first case."""
    free = {dim.name: dim for dim in subject.dynamic}
    return {"b": 1} if "b" in free and free["b"].admits(1) and subject.sizes["b"] != 1 else {}


def smaller(subject: Subject) -> Iterator[Mapping[str, int]]:
    """Give smaller sizes of every dimension but the batch, the smallest first, no two alike; none where none is free.

    What is dear at full size is tried there: a kind of input and a batch are wrong at any height and width.
    """
    spatial = [dim for dim in subject.dynamic if dim.name != "b"]
    for share in _SHARES if spatial else ():
        yield {dim.name: _from(dim, subject.sizes[dim.name] // share, by) for by, dim in enumerate(spatial)}


def _from(dim: Dim, least: int, by: int) -> int:
    """Take the smallest admitted size that is not below ``least``, and ``by`` steps more."""
    first = -(-max(dim.min, least, 1) // dim.step) * dim.step
    return next((size for size in (first + by * dim.step, first) if dim.admits(size)), dim.max or dim.min)


def plan(
    subject: Subject, seed: int = 0, work: Work | None = None, small: Mapping[str, int] | None = None
) -> list[CasePlan]:
    """Choose the cases that ``work`` of one run allows, all of them where it is not given; dear ones are ``small``."""
    found = list({row.name: row for row in _first(subject)}.values())  # a short range has few sizes
    known = {_at(subject, row) for row in found if row.scale == 1.0}
    small = small or {}
    found += _kinds(subject, work, small)
    for row in _sizes(subject, work, small):
        if _at(subject, row) not in known:
            known.add(_at(subject, row))
            found.append(row)
    return [CasePlan(r.name, seed + i, r.scale, r.sizes, r.kind, r.optional) for i, r in enumerate(found)]


def again(subject: Subject, seed: int = 0) -> list[CasePlan]:
    """List further draws at the traced size, of a subject that has no batches to compare the images of."""
    if any(dim.name == "b" and (dim.max or BATCHES[-1]) > AGAIN for dim in subject.dynamic):
        return []
    return [CasePlan(f"seed {seed + n}", _APART * n + seed, optional=True) for n in range(1, AGAIN + 1)]


def _at(subject: Subject, row: CasePlan) -> tuple[tuple[str, int], ...]:
    return tuple(sorted({**subject.sizes, **row.sizes}.items()))


def left_out(subject: Subject, work: Work, small: Mapping[str, int] | None = None) -> list[str]:
    """Name the cases that a smaller subject would have."""
    kept = {
        row.name.partition(",")[0] if row.sizes.keys() > {"b"} else row.name for row in plan(subject, 0, work, small)
    }
    return [row.name for row in plan(subject) if row.name not in kept]


def _first(subject: Subject) -> Iterator[CasePlan]:
    """List those of every model: a batch of one, as traced, two scales, two batches, three moves of other sizes."""
    free = {dim.name: dim for dim in subject.dynamic}
    one = single(subject)
    if one:
        yield CasePlan("b=1", 0, sizes=one)
    yield CasePlan("as traced", 0)
    if any(item.dtype == "float32" for item in subject.inputs) and not subject.fixed_scale:
        for scale in SCALES:
            yield CasePlan(f"scale {scale:g}", 0, scale, one)
    if "b" in free:
        for size in BATCHES:
            if free["b"].admits(size) and size not in (1, subject.sizes["b"]):
                yield CasePlan(f"b={size}", 0, sizes={"b": size})
    spatial = [dim for name, dim in free.items() if name != "b"]
    for steps in MOVES if spatial else ():
        # Each dimension moves by a different amount, so that a height taken for a width shows.
        sizes = {dim.name: _moved(dim, subject.sizes[dim.name], steps, by) for by, dim in enumerate(spatial)}
        yield CasePlan(_named(sizes), 0, sizes=one | sizes)


def _moved(dim: Dim, traced: int, steps: int, by: int) -> int:
    """Move the traced size by some steps, and one more for each dimension before this one; else the other way."""
    far = steps + (by if steps > 0 else -by)
    candidates = [traced + n * dim.step for n in (far, steps, -steps, -far, 2 * abs(far))]
    return next((size for size in candidates if dim.admits(size) and size > 1), traced)


def _named(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{name}={size}" for name, size in sizes.items())


def _kinds(subject: Subject, work: Work | None, small: Mapping[str, int]) -> Iterator[CasePlan]:
    """Every kind that an input has, those of all inputs by turns, as many as may be."""
    lists = [kinds.kinds_of(item) for item in subject.inputs]
    turns = [names[place] for place in range(max(map(len, lists), default=0)) for names in lists if place < len(names)]
    wanted = [
        kind for kind in dict.fromkeys(turns) if not (subject.fixed_scale and kind in (kinds.BRIGHT, kinds.LARGE))
    ]
    one = single(subject)
    most = len(wanted)
    if work is not None:
        # A file was trained, and may see nothing in a small image.
        most = max(
            LEAST // 2 if small and subject.graph is None else LEAST,
            min(KINDS // max(1, work.calls + work.operations), BYTES // max(1, work.bytes)),
        )
    for kind in wanted[:most]:
        sizes = one | (_turns(subject, work) if kind == kinds.TURNS else {})
        yield CasePlan(kind, 0, sizes=sizes, kind=kind, optional=True)
    if small:
        purse = _Purse(subject, work)
        for kind in wanted[most:]:
            if purse.takes(sizes := {**one, **small}, False):
                yield CasePlan(kind, 0, sizes=sizes, kind=kind, optional=True)


def _turns(subject: Subject, work: Work | None) -> dict[str, int]:
    """Choose a batch in which every integer has its turn, as far as that is cheap."""
    if not any(dim.name == "b" and dim.admits(1) for dim in subject.dynamic):
        return {}
    wanted = [
        math.ceil((whole(item)[1] - whole(item)[0]) / max(1, _elements(subject, (item,), {"b": 1})))
        for item in subject.inputs
        if kinds.TURNS in kinds.kinds_of(item) and "b" in item.shape
    ]
    budget = SIZES // 4 // max(1, work.operations) if work else 64
    most = next(dim.max for dim in subject.dynamic if dim.name == "b")
    return {"b": max(1, min(max(wanted, default=1), budget, most or budget))}


def _sizes(subject: Subject, work: Work | None, small: Mapping[str, int]) -> Iterator[CasePlan]:
    """Sizes at the limits and beyond the usual ones, as long as they are cheap; limits even where they are dear."""
    free = {dim.name: dim for dim in subject.dynamic}
    purse = _Purse(subject, work)
    if "b" in free:
        for size in _probes(free["b"]):
            if purse.takes(sizes := {"b": size}, free["b"].max == size):
                yield CasePlan(f"b={size}", 0, sizes=sizes, optional=True)
            elif small and (purse.takes(sizes := {"b": size, **small}, False) or purse.is_small(sizes, size)):
                yield CasePlan(_named(sizes), 0, sizes=sizes, optional=True)
    spatial = [dim for name, dim in free.items() if name != "b"]
    lists = [_probes(dim) for dim in spatial]
    for place in range(max(map(len, lists), default=0)):
        # Neighbours in the list, so that no two dimensions are alike.
        sizes = {d.name: p[(place + by) % len(p)] for by, (d, p) in enumerate(zip(spatial, lists, strict=True)) if p}
        if purse.takes(whole := single(subject) | sizes, False):
            yield CasePlan(_named(sizes), 0, sizes=whole, optional=True)


def _probes(dim: Dim) -> list[int]:
    """List the sizes to try of a dimension: its own limits first."""
    limits = [dim.max] if dim.max is not None else []
    low = max(1, -(-max(dim.min, 1) // dim.step) * dim.step)
    sizes: Sequence[int] = [*limits, *PROBES, low, low + dim.step]
    return list(dict.fromkeys(size for size in sizes if size > 0 and dim.admits(size)))


class _Purse:
    """What sizes may still cost, in operations and in bytes of the bundle."""

    def __init__(self, subject: Subject, work: Work | None) -> None:
        self.subject, self.work = subject, work
        self.operations, self.bytes = SIZES, BYTES
        self.usual = _elements(subject, subject.inputs, single(subject))

    def is_small(self, sizes: Mapping[str, int], batch: int) -> bool:
        """Whether a telling batch costs less than one usual run."""
        return batch in PROBES[:_TELLING] and _elements(self.subject, self.subject.inputs, sizes) < self.usual

    def takes(self, sizes: Mapping[str, int], must: bool) -> bool:
        """Whether a case of these sizes is afforded, which is paid then; what must be tried may cost more."""
        if self.work is None:
            return True
        share = _elements(self.subject, self.subject.inputs, sizes) / max(1, self.usual)
        operations, size = self.work.calls + int(self.work.operations * share), int(self.work.bytes * share)
        if must and operations <= _DEAR * SIZES and size <= _DEAR * BYTES:
            return True
        if operations > self.operations or size > self.bytes:
            return False
        self.operations -= operations
        self.bytes -= size
        return True


def _elements(subject: Subject, items: Sequence[Input], sizes: Mapping[str, int]) -> int:
    known = {**subject.sizes, **sizes}
    return sum(math.prod(known[d] if isinstance(d, str) else d for d in item.shape) for item in items)
