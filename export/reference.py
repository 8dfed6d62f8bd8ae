"""The float64 reference of a subject, its cases, and how much correct float32 runs differ from it."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from attn_export.bundle import Case, Selection, case_of, loose, rows
from attn_export.errors import ExportError, InconclusiveError, SubjectError
from attn_export.export.arrays import array, arrays
from attn_export.export.cases.doubt import doubtful, unsettled
from attn_export.export.cases.kinds import LARGE, UNIFORM, UNSTEADY
from attn_export.export.cases.plan import CasePlan, again, left_out, plan, single, smaller
from attn_export.export.cases.work import measure
from attn_export.export.copies import copied
from attn_export.export.determinism import two_runs
from attn_export.export.exact_run import ExactRun
from attn_export.export.float32_runs import Float32Runs
from attn_export.export.outputs import evaluate
from attn_export.export.rounded_runs import ROUNDING
from attn_export.export.subject import Subject
from attn_export.process import activity

Said = Callable[[str], None]
#: What to do about a forward that ran when it was loaded, and does not at another size that it is to take.
_FIXED = (
    "it runs at the sizes of --input, so forward is made for these: take sizes from x.shape, or type them without a"
    " name (2 instead of b=2)"
)


def _nobody(_: str) -> None:
    """Tell nobody."""


def cases(
    subject: Subject,
    seed: int = 0,
    said: Said = _nobody,
    noted: Said = _nobody,
    *,
    float16: bool = False,
    spread: bool = False,
    selections: tuple[Selection, ...] = (),
) -> tuple[Case, ...]:
    """Evaluate the subject on its cases: the float64 reference, and the largest error of correct float32 runs.

    ``said`` is told what the user should know; ``noted``, which of the optional cases there are not, and why.
    What is to be computed in ``float16`` is not asked for what only float32 can hold; where ``spread`` is asked for,
    there are at least some draws of one size, which tell what varies from input to input. Rows of ``selections`` are
    compared wherever they stand; a case in which rounding decides which of them are chosen is drawn once more, some
    times over.

    Raises:
        SubjectError: the module does not run on its own inputs.
        InconclusiveError: float32 itself is not finite, or strays too far, on every one of them.
    """
    work = measure(subject, single(subject))
    runs, made = _Runs(subject, said, selections), list[tuple[str, Case | str]]()
    gone = dict[str, list[str]]()
    small = _small(subject, runs.plain) if left_out(subject, work) else {}
    for row in (*plan(subject, seed, work, small), *(again(subject, seed) if spread else ())):
        if float16 and row.kind in UNSTEADY:
            gone.setdefault("float16 holds no such numbers, or not well enough", []).append(row.name)
        elif not row.optional:
            made.append((row.name, _drawn(runs, row)))
        elif any(isinstance(case, Case) for _, case in made):
            case = _optional(runs, row, jumps=work.jumps)
            if case == _NO_MEASURE and row.kind == LARGE:  # what one draw leaves next to nothing of, another may not
                case = _optional(runs, replace(row, seed=row.seed + _ANOTHER), jumps=work.jumps)
            if isinstance(case, str):
                gone.setdefault(case, []).append(row.name)
            else:
                made.append((row.name, case))
    if dear := left_out(subject, work, small):
        noted(f"cases that were not tried, as the model is large: {', '.join(dear)}")
    for why, names in gone.items():
        noted(f"cases that are left out, as {why}: {', '.join(names)}")
    return _held(made, said)


def on(
    subject: Subject,
    feeds: Iterable[tuple[str, Mapping[str, Tensor]]],
    said: Said = _nobody,
    selections: tuple[Selection, ...] = (),
) -> tuple[Case, ...]:
    """Evaluate the subject on inputs by name of the case, such as a user's own data.

    Raises:
        SubjectError: the module does not run on them.
        InconclusiveError: float32 itself is not finite, or strays too far, on every one of them.
    """
    runs = _Runs(subject, said, selections)
    return _held([(name, runs.case(name, inputs)) for name, inputs in feeds], said)


def refuse_dice(subject: Subject, seed: int = 0) -> None:
    """Refuse what is no function of its inputs, before anything else is blamed for it.

    Raises:
        GateError: two runs differ, the module changes itself, or a node of the graph draws random numbers.
        SubjectError: the module does not run on its own inputs.
        ExportError: an operator of the graph is none that the evaluation knows.
    """
    inputs = subject.example(seed=seed, sizes=single(subject))
    if subject.graph is not None:
        two_runs.refuse_random_nodes(subject.graph, subject.name)
        _Runs(subject, _nobody).exact_run(inputs)
        return
    try:
        two_runs.check(subject.module, lambda module: evaluate(module, inputs))
    except SubjectError as error:
        if not subject.dynamic:
            raise
        raise SubjectError(f"{error}; {_FIXED}") from error


_NO_MEASURE = "correct float32 runs are no measure there"
#: What a seed is moved by for another draw.
_ANOTHER = 1000
#: Draws of a case of a network that chooses among what it found.
_DRAWS = 4
#: Where inputs are of one piece, correct runs round alike, so that they show too little of what is magnified. What they
#: stray counts so many times: ONNX Runtime was off by up to 8 times as much (EMSA and S2 on one bright pixel).
_TIMES = 4


class _Runs:
    """One subject in float64 and in float32."""

    def __init__(self, subject: Subject, said: Said, selections: tuple[Selection, ...] = ()) -> None:
        self.subject, self.selections = subject, selections
        self.plain = copied(subject.module)
        self.exact_run = ExactRun(subject, self.plain, said)
        self.single = Float32Runs(self.plain, said)

    def case(self, name: str, inputs: Mapping[str, Tensor], *, uniform: bool = False) -> Case | str:
        """Make a case, or say why correct float32 is no measure there; ``uniform`` inputs may magnify rounding unseen.

        Raises:
            SubjectError: the module does not run on these inputs.
        """
        activity.alive()
        reference = two_runs.twice(self.exact_run.module, functools.partial(self.exact_run, inputs))
        runs = self.single(inputs)
        if self.selections:
            if why := unsettled(reference, self.selections, inputs, self.exact_run):
                return why
            runs = [_in_order(run, reference, self.selections) for run in runs]
        if uniform:
            runs = [_further(run, reference) for run in (*runs, self.single.rounded(inputs, step=ROUNDING))]
        truth = {key: array(value.contiguous()) for key, value in reference.items()}
        case = case_of(name, arrays(inputs), truth, list(map(arrays, runs)), self.selections)
        return _unbounded(runs[0], reference) or loose(case) or case


def _in_order(
    run: Mapping[str, Tensor], reference: Mapping[str, Tensor], selections: tuple[Selection, ...]
) -> dict[str, Tensor]:
    """Put the chosen rows of a run in the order of the reference's."""
    came, wanted = arrays(run), arrays(reference)
    return {name: torch.from_numpy(value) for name, value in rows.matched(came, wanted, selections).items()}


def _further(run: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Move what a run gave several times as far from the reference."""
    return {
        name: value
        if value.shape != reference[name].shape or not value.is_floating_point()
        else reference[name] + _TIMES * (value.double() - reference[name])
        for name, value in run.items()
    }


def _small(subject: Subject, module: nn.Module) -> Mapping[str, int]:
    """Find smaller sizes at which the module runs, for cases that are dear at full size; none where there are none."""
    for sizes in smaller(subject):
        with contextlib.suppress(SubjectError, ExportError):
            evaluate(module, subject.example(sizes={**single(subject), **sizes}))
            return sizes
    return {}


def _drawn(runs: _Runs, row: CasePlan) -> Case | str:
    """Make a case, of another draw where rounding decides what is chosen in the first ones; or say why there is none.

    Raises:
        SubjectError: the module does not run on these inputs.
    """
    made = runs.case(row.name, row.inputs(runs.subject))
    for time in range(1, _DRAWS if runs.selections else 1):
        if isinstance(made, Case):
            break
        made = runs.case(row.name, replace(row, seed=row.seed + time * _ANOTHER).inputs(runs.subject))
    return made


def _optional(runs: _Runs, row: CasePlan, *, jumps: bool) -> Case | str:
    """Make a case, or say why correct runs say nothing on it."""
    inputs = row.inputs(runs.subject)
    try:
        case = runs.case(row.name, inputs, uniform=row.kind in UNIFORM)
    except (SubjectError, ExportError):
        return "the module does not run there"
    if isinstance(case, str):
        return _NO_MEASURE
    return doubtful(case, row.kind, runs.exact_run, jumps=jumps) or case


def _held(made: Iterable[tuple[str, Case | str]], said: Said) -> tuple[Case, ...]:
    """Keep the cases, and say what became of the others.

    Raises:
        InconclusiveError: there are only others.
    """
    rows = list(made)
    found = tuple(case for _, case in rows if isinstance(case, Case))
    lost = [(name, why) for name, why in rows if isinstance(why, str)]
    if lost and not found:
        name, why = lost[0]
        raise InconclusiveError(
            f"case {name!r}: {why}, and likewise in every case; look for randomness, or use other weights and inputs"
            " (--weights, --data)"
        )
    for name, why in lost:
        said(f"case {name!r} is left out: {why}")
    return found


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
