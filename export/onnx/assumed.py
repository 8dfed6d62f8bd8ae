"""What tracing assumed about sizes: the exporter's range constraints and guards, as ranges of our dimensions.

The exporter notes a branch on a size (``if x.shape[0] <= 8``) as a bound of a symbol, or as an assertion over several.
Beyond it the graph computes the branch that was traced, and the module another. It also notes what only PyTorch's own
kernels asked ("not 1"), where the graph is right all the same: so each condition is tried where it does not hold.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import sympy  # type: ignore[import-untyped]
import torch
from torch.utils._sympy.printers import PythonPrinter

from attn_export.export.subject import Subject
from attn_export.types import Dim

#: Steps from the traced size that are tried one by one, and multiples of the step that are tried as a step.
_NEAR, _STEPS = 256, 64
#: Sizes at which a condition is tried where it does not hold.
_TRIED = 3
#: Further away, these.
_FAR = (500, 1_000, 1_023, 2_048, 4_099, 10_000, 65_536)


@dataclass(frozen=True)
class _Condition:
    """One assumption, over the dimensions that it names; ``holds`` takes their sizes."""

    dims: frozenset[str]
    holds: Callable[[Mapping[str, int]], bool]


def narrowed(
    program: torch.export.ExportedProgram, subject: Subject, agrees: Callable[[Mapping[str, int]], bool]
) -> tuple[Dim, ...]:
    """Return the subject's dimensions, within what its trace assumed; ``agrees`` runs graph and module at some sizes.

    A condition on several dimensions gives a range to each, so that it holds for all their combinations; what is no
    range of multiples (all sizes but 5) is narrowed to one around the traced size.
    """
    symbols = _symbols(program, subject)
    conditions = [one for one in _conditions(program, symbols) if not _idle(one, subject, agrees)]
    done: dict[str, Dim] = {}
    for dim in subject.dynamic:
        mine = [condition for condition in conditions if dim.name in condition.dims]
        done[dim.name] = _narrowed(dim, mine, done, subject.sizes) if mine else dim
    return tuple(done.values())


def _symbols(program: torch.export.ExportedProgram, subject: Subject) -> dict[sympy.Symbol, tuple[str, int]]:
    """Map the exporter's symbols to a dimension and how many times the symbol it is."""
    steps = {dim.name: dim.step for dim in subject.dynamic}
    wanted = set(program.graph_signature.user_inputs)
    ports = [node for node in program.graph.nodes if node.op == "placeholder" and node.name in wanted]
    found = {}
    for item, node in zip(subject.inputs, ports, strict=False):
        for name, size in zip(item.shape, node.meta["val"].shape, strict=False):
            if isinstance(size, torch.SymInt) and isinstance(name, str) and name in steps:
                for symbol in size.node.expr.free_symbols:
                    found[symbol] = name, steps[name]
    return found


def _conditions(
    program: torch.export.ExportedProgram, symbols: Mapping[sympy.Symbol, tuple[str, int]]
) -> Iterator[_Condition]:
    for expression in _expressions(program):
        known = expression.free_symbols
        if known and known <= set(symbols):
            names = frozenset(symbols[symbol][0] for symbol in known)
            yield _Condition(names, _holds(expression, {s: symbols[s] for s in known}))


def _idle(condition: _Condition, subject: Subject, agrees: Callable[[Mapping[str, int]], bool]) -> bool:
    """Whether graph and module agree where a condition does not hold: at the first sizes below and above."""
    tried = False
    for dim in (dim for dim in subject.dynamic if dim.name in condition.dims):
        traced = subject.sizes[dim.name]
        near = (traced + sign * n * dim.step for n in range(1, _NEAR) for sign in (-1, 1))
        rows = ({**subject.sizes, dim.name: size} for size in near if size > 0 and dim.admits(size))
        for sizes in itertools.islice((row for row in rows if not condition.holds(row)), _TRIED):
            tried = True
            if not agrees({dim.name: sizes[dim.name]}):
                return False
    return tried


def _expressions(program: torch.export.ExportedProgram) -> Iterator[Any]:
    """List what the exporter holds to be true of its symbols."""
    for symbol, bounds in program.range_constraints.items():
        if bounds.upper.is_finite:
            yield sympy.Le(symbol, bounds.upper)
        if bounds.lower > 1:
            yield sympy.Ge(symbol, bounds.lower)
    sized = (node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder")
    modes = {id(v.fake_mode): v.fake_mode for v in sized if getattr(v, "fake_mode", None) is not None}
    for mode in modes.values():
        if (env := mode.shape_env) is not None:
            for asserted in env.deferred_runtime_asserts.values():
                yield from (one.expr for one in asserted)
            yield from (guard.expr for guard in env.guards)


def _holds(expression: Any, symbols: Mapping[sympy.Symbol, tuple[str, int]]) -> Callable[[Mapping[str, int]], bool]:
    """Make a function of sizes; what cannot be decided holds."""

    def slowly(sizes: Mapping[str, int]) -> bool:
        put = {symbol: sympy.Integer(sizes[name] // step) for symbol, (name, step) in symbols.items()}
        return bool(expression.xreplace(put) != False)  # noqa: E712  # sympy's own

    names = [str(symbol) for symbol in symbols]
    try:  # thousands of sizes are tried, and sympy takes milliseconds
        text = PythonPrinter().doprint(expression)
        quick = eval(f"lambda {', '.join(names)}: {text}", {"math": math})  # noqa: S307  # of the exporter's own symbols
    except Exception:  # an expression that the printer does not know
        return slowly

    def holds(sizes: Mapping[str, int]) -> bool:
        try:
            return bool(quick(*(sizes[name] // step for name, step in symbols.values())))
        except Exception:
            return slowly(sizes)

    return holds


def _narrowed(dim: Dim, mine: Sequence[_Condition], done: Mapping[str, Dim], traced: Mapping[str, int]) -> Dim:
    """Find the range around the traced size in which all conditions hold, with the other dimensions in theirs."""
    known: dict[int, bool] = {}

    def ok(size: int) -> bool:
        if size not in known:
            known[size] = all(condition.holds(sizes) for condition in mine for sizes in _around(size, condition))
        return known[size]

    def _around(size: int, condition: _Condition) -> Iterator[dict[str, int]]:
        others = sorted(condition.dims - {dim.name})
        lists = [_samples(done[name], traced[name]) if name in done else [traced[name]] for name in others]
        for sizes in itertools.product(*lists):
            yield {**dict(zip(others, sizes, strict=True)), dim.name: size}

    middle = traced[dim.name]
    for times in range(1, _STEPS + 1):
        if middle % (dim.step * times) == 0:
            found, count = _run(replace(dim, step=dim.step * times), middle, ok)
            if count > 1:  # multiples of more would only step over what does not hold
                return found
    return replace(dim, min=middle, max=middle)


def _run(dim: Dim, middle: int, ok: Callable[[int], bool]) -> tuple[Dim, int]:
    """Go down and up from the traced size as long as all is well; count the sizes nearby."""
    low = high = middle
    while dim.admits(low - dim.step) and low > dim.step and middle - low < _NEAR * dim.step and ok(low - dim.step):
        low -= dim.step
    while dim.admits(high + dim.step) and high - middle < _NEAR * dim.step and ok(high + dim.step):
        high += dim.step
    count = (high - low) // dim.step + 1
    least = dim.min if not dim.admits(low - dim.step) or low <= dim.step else low
    if not dim.admits(high + dim.step):
        return replace(dim, min=least), count
    if high - middle < _NEAR * dim.step:
        return replace(dim, min=least, max=high), count
    far = [n // dim.step * dim.step for n in (*_FAR, *(middle * k for k in (2, 3, 8)))]
    wrong = [n for n in far if n > high and dim.admits(n) and not ok(n)]
    return replace(dim, min=least, max=_last(high, min(wrong), dim.step, ok) if wrong else dim.max), count


def _last(good: int, bad: int, step: int, ok: Callable[[int], bool]) -> int:
    """Find the last good size before a bad one."""
    while bad - good > step:
        middle = (good + bad) // 2 // step * step
        middle = middle if middle > good else good + step
        good, bad = (middle, bad) if ok(middle) else (good, middle)
    return good


def _samples(dim: Dim, traced: int) -> list[int]:
    """Take the ends of a range, the traced size and sizes beside it."""
    sizes = (
        dim.min,
        dim.min + dim.step,
        traced,
        traced + dim.step,
        3 * traced,
        dim.max or _FAR[-2] // dim.step * dim.step,
    )
    return sorted({size for size in sizes if size > 0 and dim.admits(size)})
