"""The cases of a bundle: written, read, and held to what can be a proof at all."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from attn_export.bundle import elements, rows, slices
from attn_export.bundle.format import PER_ELEMENT, SHARE, Case, Selection
from attn_export.errors import BundleError, InconclusiveError
from attn_export.types import Array, TensorSpec
from attn_export.untrusted import arrays

_KEY = re.compile(r"(0|[1-9][0-9]{0,6})\.(input|reference|float32_error|slice_error\.[0-9]{1,2})\.(.+)", re.DOTALL)
#: What adding up squares in another order may move a norm, relative.
_SAME = 1e-6


def write_cases(file: Path, cases: Sequence[Case]) -> None:
    """Write cases as one npz: ``<i>.input.<name>``, ``<i>.reference.<name>`` and so on, as the format has them.

    Where nobody measured the slices of an output, its error counts as spread evenly.
    """
    found: dict[str, Array] = {"names": np.array([case.name for case in cases])}
    for index, case in enumerate(cases):
        found |= {f"{index}.input.{name}": value for name, value in case.inputs.items()}
        found |= {f"{index}.reference.{name}": value for name, value in case.reference.items()}
        found |= {f"{index}.float32_error.{name}": np.asarray(value) for name, value in case.float32_error.items()}
        for name, by_axis in _spread(case).items():
            found |= {f"{index}.slice_error.{axis}.{name}": value for axis, value in by_axis.items()}
    np.savez(file, **found)  # type: ignore[arg-type]  # the stub reads ** as the keyword allow_pickle


def _spread(case: Case) -> dict[str, Mapping[int, Array]]:
    return {
        name: case.slice_error.get(name)
        or {
            axis: np.full(reference.shape[axis], case.float32_error[name] / math.sqrt(reference.shape[axis] or 1))
            for axis in slices.axes(reference.ndim)
        }
        for name, reference in case.reference.items()
    }


def case_names(file: Path) -> list[str]:
    """Read the names of the cases in a file that ``write_cases`` has just written."""
    with np.load(file, allow_pickle=False) as archive:
        return [str(name) for name in archive["names"]]


def read_cases(file: Path) -> tuple[Case, ...]:
    """Read what ``write_cases`` wrote.

    Raises:
        BundleError: it is damaged, holds no cases, or more than cases.
    """
    found = arrays.read_npz(file, BundleError)
    names = found.pop("names", None)
    if names is not None and not names.size:
        raise BundleError(f"{file} holds no cases, so nothing could be proven with it")
    if names is None or names.dtype.kind != "U" or names.ndim != 1:
        raise BundleError(f"{file} cannot be read: expected a list of the cases' names in it; write the bundle again")
    parts: list[dict[str, dict[str, Array]]] = [defaultdict(dict) for _ in names]
    for key, value in found.items():
        match = _KEY.fullmatch(key)
        if not match or int(match[1]) >= len(parts):
            raise BundleError(f"{file}: {key[:80]!r} is of no case; write the bundle again")
        parts[int(match[1])][match[2]][match[3]] = value
    pairs = zip(names.tolist(), parts, strict=True)
    return tuple(
        Case(name, p["input"], p["reference"], _figures(file, name, p["float32_error"]), _by_axis(p))
        for name, p in pairs
    )


def _by_axis(parts: Mapping[str, Mapping[str, Array]]) -> dict[str, dict[int, Array]]:
    found: dict[str, dict[int, Array]] = defaultdict(dict)
    for kind, values in parts.items():
        part, _, axis = kind.partition(".")
        if part == "slice_error":
            for name, value in values.items():
                found[name][int(axis)] = value
    return dict(found)


def _figures(file: Path, case: str, values: Mapping[str, Array]) -> dict[str, float]:
    for name, value in values.items():
        if value.ndim or value.dtype.kind not in "fiu" or not np.isfinite(value) or value < 0:
            raise BundleError(
                f"{file}: case {case[:80]!r}: expected one finite number, not negative, as the float32 error of"
                f" {name[:80]!r}; write the bundle again"
            )
    return {name: float(value) for name, value in values.items()}


def fit(
    file: Path, cases: Sequence[Case], names: Sequence[str], inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> None:
    """Hold cases against the model's ports, and against the names that the manifest counts.

    Raises:
        BundleError: one is missing, or one has not every input and output in its type and rank.
    """
    if tuple(case.name for case in cases) != tuple(names):
        raise BundleError(f"{file} holds other cases than the manifest counts ({len(names)}); copy the bundle again")
    for case in cases:
        where = f"{file}: case {case.name[:80]!r}"
        _fit(f"{where}, input", case.inputs, inputs)
        _fit(f"{where}, reference", case.reference, outputs, any_type=True)
        if case.float32_error.keys() != case.reference.keys():
            raise BundleError(
                f"{where}: expected one float32 error for every output, and nothing else; write the bundle again"
            )
        if why := _misfit(case) or loose(case):
            raise BundleError(f"{where}: {why}; write the bundle again")


def _misfit(case: Case) -> str:
    """Why the float32 errors of slices are not what an honest bundle has, or nothing.

    A slice never strays further than the whole, so that a forged one grants no more than the whole is granted.
    """
    for name, reference in case.reference.items():
        own = case.slice_error.get(name, {})
        if set(own) != set(slices.axes(reference.ndim)):
            axes = ", ".join(map(str, slices.axes(reference.ndim))) or "no axis"
            return f"expected float32 errors of {name[:80]!r} along {axes}, got {sorted(own)}"
        for axis, values in own.items():
            if values.shape != (reference.shape[axis],) or values.dtype.kind != "f":
                return (
                    f"expected {reference.shape[axis]} float32 errors along axis {axis} of {name[:80]!r}, got"
                    f" {values.shape} of {values.dtype}"
                )
            most = case.float32_error[name] * (1 + _SAME)
            if not (np.isfinite(values) & (values >= 0) & (values <= most)).all():
                return f"a float32 error along axis {axis} of {name[:80]!r} is not between 0 and {most:.3g}"
    if strange := sorted(set(case.slice_error) - set(case.reference)):
        return f"it has float32 errors of {strange[0][:80]!r}, which is no output"
    return ""


def _fit(where: str, values: Mapping[str, Array], ports: Sequence[TensorSpec], *, any_type: bool = False) -> None:
    if values.keys() != {port.name for port in ports}:
        wanted, came = (", ".join(sorted(names))[:200] for names in ({port.name for port in ports}, values))
        raise BundleError(f"{where}: expected {wanted}, got {came or 'none'}; write the bundle again")
    for port in ports:
        value, place = values[port.name], f"{where} {port.name!r}"
        same = elements.holds(value, port.dtype) or (any_type and value.dtype.kind in "biuf")
        if not same:
            raise BundleError(f"{place}: {elements.strange(value, port.dtype)}; write the bundle again")
        fixed = zip(port.shape, value.shape, strict=False)
        if value.ndim != len(port.shape) or any(isinstance(n, int) and n != came for n, came in fixed):
            wanted = "x".join(map(str, port.shape))[:200] or "one number"
            raise BundleError(f"{place}: expected {wanted}, got the shape {value.shape}; write the bundle again")


def case_of(
    name: str,
    inputs: Mapping[str, Array],
    reference: Mapping[str, Array],
    runs: Sequence[Mapping[str, Array]],
    selections: tuple[Selection, ...] = (),
) -> Case:
    """Measure how far correct float32 runs stray from the reference, over each output and over each of its slices.

    What is not finite, in the reference or in a run, is no measure of the rest. Rows of ``selections`` are compared
    with the rows that they are, wherever they stand; where a run chose others, its error is infinite.
    """
    runs = [rows.matched(run, reference, selections) for run in runs]
    unsettled = any(rows.apart(run, reference, selections) > SHARE for run in runs)
    whole: dict[str, float] = {}
    sliced: dict[str, dict[int, Array]] = {}
    for key, truth in reference.items():
        strays = [_difference(run[key], truth) for run in runs if run[key].shape == truth.shape]
        whole[key] = max((norm(stray) for stray in strays), default=0.0)
        if unsettled and any(key in one.rows for one in selections):
            whole[key] = math.inf
        sliced[key] = {
            axis: np.max([slices.norms(stray, axis) for stray in strays] or [np.zeros(truth.shape[axis])], axis=0)
            for axis in slices.axes(truth.ndim)
        }
    return Case(name, inputs, reference, whole, sliced, selections)


def _difference(run: Array, reference: Array) -> Array:
    with np.errstate(invalid="ignore", over="ignore"):
        return np.asarray(run.astype(np.float64) - reference.astype(np.float64))


def norm(values: Array) -> float:
    """Euclidean norm of what is finite, in float64."""
    wide = values.astype(np.float64).ravel()
    with np.errstate(over="ignore"):
        return float(np.linalg.norm(wide[np.isfinite(wide)]))


def loose(case: Case) -> str:
    """Why a float32 error is too large to measure by, or nothing."""
    for name, stray in case.float32_error.items():
        size = norm(case.reference[name])
        if not math.isfinite(size):
            return f"the reference of {name[:80]!r} is too large to compute with"
        if stray == math.inf:
            return f"correct float32 runs choose other rows of {name[:80]!r}: what decides is equal up to rounding"
        if not stray <= max(SHARE * size, min(size / 8, PER_ELEMENT * math.sqrt(case.reference[name].size))):
            came = f"{stray / size:.2g} of its norm" if size else "its reference is zero"
            return (
                f"the float32 error of {name[:80]!r} is {stray:.3g}, {came}, and at most {SHARE:g} of it is believed:"
                " where correct float32 evaluations stray so far, parity would prove nothing"
            )
    return ""


def refuse_loose(cases: Iterable[Case]) -> None:
    """Refuse to go on with cases that nobody would believe.

    Raises:
        InconclusiveError: the model's own float32 evaluations stray too far from its float64 reference.
    """
    for case in cases:
        if why := loose(case):
            raise InconclusiveError(
                f"case {case.name!r}: {why}; look for randomness, or use other weights and inputs (--weights, --data)"
            )


def idle(cases: Iterable[Case], outputs: Iterable[TensorSpec]) -> tuple[str, ...]:
    """List the outputs whose reference is zero, or not finite, in every case: what zeros would pass proves nothing."""
    names, moved = [port.name for port in outputs], set[str]()
    for case in cases:
        moved |= {name for name in names if name not in moved and norm(case.reference[name]) > 0}
    return tuple(name for name in names if name not in moved)
