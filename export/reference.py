"""The float64 reference of a subject, its cases, and how much correct float32 runs differ from it."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from attn_export.bundle import Case, case_of, loose
from attn_export.errors import InconclusiveError
from attn_export.export.determinism import two_runs
from attn_export.export.float32_runs import Float32Runs
from attn_export.export.outputs import evaluate
from attn_export.export.subject import Subject
from attn_export.process import activity
from attn_export.types import Dim

SCALES = (0.05, 8.0)
BATCHES = (1, 3, 4)
MOVES = (1, -1, 3)


def plan(subject: Subject, seed: int = 0) -> list[tuple[str, int, float, dict[str, int]]]:
    """Choose the cases: name, seed, scale and sizes of each.

    The first is the one that latency is measured on, with a batch of one where that may vary. Then the traced
    sizes, two other scales, and for the batch and for the other dynamic dimensions three sizes each that the
    exporter has not seen.
    """
    free = {dim.name: dim for dim in subject.dynamic}
    batches = [size for size in BATCHES if "b" in free and free["b"].admits(size) and size != subject.sizes["b"]]
    single = {"b": 1} if 1 in batches else {}
    rows: list[tuple[str, float, dict[str, int]]] = [("b=1", 1.0, single)] if single else []
    rows.append(("as traced", 1.0, {}))
    if any(item.dtype == "float32" for item in subject.inputs) and not subject.fixed_scale:
        rows += [(f"scale {scale:g}", scale, single) for scale in SCALES]
    rows += [(f"b={size}", 1.0, {"b": size}) for size in batches if size != 1]
    spatial = [dim for name, dim in free.items() if name != "b"]
    for steps in MOVES if spatial else ():
        # Each dimension moves by a different amount, so that a height taken for a width shows.
        sizes = {dim.name: _moved(dim, subject.sizes[dim.name], steps, by) for by, dim in enumerate(spatial)}
        rows.append((", ".join(f"{name}={size}" for name, size in sizes.items()), 1.0, single | sizes))
    rows = list({name: (name, scale, sizes) for name, scale, sizes in rows}.values())  # a short range has few sizes
    return [(name, seed + index, scale, sizes) for index, (name, scale, sizes) in enumerate(rows)]


def _moved(dim: Dim, traced: int, steps: int, by: int) -> int:
    """Move the traced size by some steps, and one more for each dimension before this one; else the other way."""
    far = steps + (by if steps > 0 else -by)
    candidates = [traced + n * dim.step for n in (far, steps, -steps, -far, 2 * abs(far))]
    return next((size for size in candidates if dim.admits(size) and size > 1), traced)


def cases(subject: Subject, seed: int = 0, said: Callable[[str], None] = lambda _: None) -> tuple[Case, ...]:
    """Evaluate the subject on its cases: the float64 reference, and the largest error of correct float32 runs.

    ``said`` is told what was left out.

    Raises:
        SubjectError: the module does not run on its own inputs.
        InconclusiveError: float32 itself is not finite, or strays too far, on every one of them.
    """
    planned = plan(subject, seed)
    drawn = ((name, subject.example(seed=n, scale=scale, sizes=sizes)) for name, n, scale, sizes in planned)
    return on(subject, drawn, said)


def on(
    subject: Subject,
    feeds: Iterable[tuple[str, Mapping[str, Tensor]]],
    said: Callable[[str], None] = lambda _: None,
) -> tuple[Case, ...]:
    """Evaluate the subject on inputs by name of the case, such as a user's own data.

    Raises:
        SubjectError: the module does not run on them.
        InconclusiveError: float32 itself is not finite, or strays too far, on every one of them.
    """
    exact = copy.deepcopy(subject.module).double()
    single = Float32Runs(copy.deepcopy(subject.module), said)
    result, lost = [], list[tuple[str, str]]()
    for name, inputs in feeds:
        activity.alive()
        wide = {k: v.double() if v.is_floating_point() else v for k, v in inputs.items()}
        reference = two_runs.twice(exact, functools.partial(evaluate, exact, wide))
        runs = single(inputs)
        truth = {key: value.contiguous().numpy() for key, value in reference.items()}
        found = [{key: value.numpy() for key, value in run.items()} for run in runs]
        case = case_of(name, {k: v.numpy() for k, v in inputs.items()}, truth, found)
        if why := _unbounded(runs[0], reference) or loose(case):
            lost.append((name, why))
        else:
            result.append(case)
    if lost and not result:
        name, why = lost[0]
        raise InconclusiveError(
            f"case {name!r}: {why}, and likewise in every case; look for randomness, or use other weights and inputs"
            " (--weights, --data)"
        )
    for name, why in lost:
        said(f"case {name!r} is left out: {why}")
    return tuple(result)


def _unbounded(run: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> str:
    """Why correct float32 says nothing here, or nothing."""
    for name, value in run.items():
        if value.shape == reference[name].shape and value.is_floating_point():
            count = int((~torch.isfinite(value) & torch.isfinite(reference[name])).sum())
            if count:
                return (
                    f"{count} of {value.numel()} values of {name} are NaN or infinite in PyTorch's own float32, so that"
                    " no runtime could be held to it"
                )
    return ""


def refuse_dice(subject: Subject, seed: int = 0) -> None:
    """Refuse what is no function of its inputs, before anything else is blamed for it.

    Raises:
        GateError: two runs differ, the module changes itself, or a node of the graph draws random numbers.
        SubjectError: the module does not run on its own inputs.
    """
    if subject.graph is not None:
        two_runs.refuse_random_nodes(subject.graph, subject.name)
        return
    inputs = subject.example(seed=seed, sizes=plan(subject)[0][3])
    two_runs.check(subject.module, lambda module: evaluate(module, inputs))
