"""The main job's part on a model in int8, before and behind its stage.

asked for what can be ──► data that varies ──► (stage and gate) ──► accuracy ──► injected faults ──► record
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attn_export.bundle import Case
from attn_export.deploy_tests.data import inputs as user_inputs
from attn_export.deploy_tests.data import labels as labelled
from attn_export.deploy_tests.data import split as divided
from attn_export.deploy_tests.parity import centred
from attn_export.deploy_tests.parity.accuracy import Accuracy, refuse
from attn_export.errors import UsageError
from attn_export.export.converters import INT8, Converted, is_int8
from attn_export.export.onnx.save import save
from attn_export.pipeline import int8, int8_mutants, manifest, stages
from attn_export.pipeline.accuracy import measure_accuracy
from attn_export.pipeline.clock import PairClock
from attn_export.pipeline.int8 import Int8Inputs, Int8Model
from attn_export.pipeline.int8_mutants import Int8Gate
from attn_export.pipeline.mutation_score import MutationScore
from attn_export.pipeline.options import DeployOptions
from attn_export.pipeline.progress import Progress
from attn_export.pipeline.quantisation import converted, quantisation
from attn_export.pipeline.stage import Made, PipelineState


def divided_data(options: DeployOptions) -> divided.Split | None:
    """Divide the user's files for int8, before any long work and before it is known what the model takes.

    None where there is to be no int8; what it cannot be made or judged from is refused.

    Raises:
        UsageError: there is no data, or too little; or what is for int8 alone is asked for without it.
    """
    asked = options.build.int8
    if asked is None:
        if options.labels is not None:
            raise UsageError("--labels is for the accuracy of an int8 model: add --int8, or leave it out")
        if wanted := [text for text in options.build.to if is_int8(text)]:
            raise UsageError(f"--to {wanted[0]} is made from the int8 model: add --int8 --data DIR, or leave it out")
        return None
    if options.build.fp16:
        raise UsageError("--int8 makes a second model beside the float32 one: leave out --fp16, or make another bundle")
    if options.data is None:
        raise UsageError(
            "--int8 learns the ranges of activations from your inputs: give a folder of at least"
            f" {divided.FEWEST} with --data, and for images how to prepare them with --preprocess"
        )
    if asked.top1_drop is not None and options.labels is None:
        raise UsageError("--top1-drop is a loss of accuracy: say what is right with --labels")
    return divided.split(options.data, (), options.preprocess)


@dataclass(frozen=True)
class OwnData:
    """The user's data: what became cases, and for int8 which files are for what."""

    inputs: user_inputs.UserInputs
    split: divided.Split | None


def inputs(
    state: PipelineState,
    cases: tuple[Case, ...],
    own: OwnData | None,
    options: DeployOptions,
    scratch: Path,
    progress: Progress,
) -> Int8Inputs | None:
    """Give what a model in int8 is made from; None where there is to be none.

    Raises:
        InconclusiveError: so little of the outputs varies with the data that it would say nothing of int8.
    """
    if own is None or own.split is None:
        return None
    contract = state.model.contract
    many = centred.batched(contract.inputs, contract.outputs, contract.dims)
    known = tuple(case for case in cases if case.name in own.inputs.files)
    centred.refuse_vacuous(*centred.shares(known, contract.outputs, batched=many))
    clock = PairClock(state.feeds[0], scratch, options.threads, options.rules, progress.detail)
    return Int8Inputs(own.split, known, many, clock if options.bench else None, progress.detail)


def accuracy(state: PipelineState, options: DeployOptions, scratch: Path, progress: Progress) -> Accuracy | None:
    """Compare the accuracy of the original and of the model in int8; None where there are no labels.

    Raises:
        GateError: it lost more than is allowed.
        InconclusiveError: there are too few labelled images to tell.
    """
    made, asked = state.by(stages.QUANTISE.name), options.build.int8
    if made is None or state.int8 is None or options.labels is None or asked is None:
        return None
    with progress.stage("accuracy"):
        test = state.int8.split.test
        labels = labelled.read(options.labels, test)
        original = scratch / "original.onnx"
        save(state.made[0].exported.model, original)
        contract, threads = state.model.contract, options.threads
        found = measure_accuracy(
            original, scratch / int8.FILE, test, labels, contract, threads=threads, said=progress.detail
        )
        progress.detail(found.summary())
    if asked.top1_drop is not None:
        refuse(found, asked.top1_drop)
    return found


@dataclass(frozen=True)
class Int8Found:
    """What was found out of a model in int8 behind its gate: its accuracy, and what its checks see."""

    accuracy: Accuracy | None = None
    score: MutationScore | None = None


def mutants(
    state: PipelineState, options: DeployOptions, scratch: Path, seconds: float, progress: Progress
) -> MutationScore | None:
    """Check the checks of a model in int8: faults of quantisation must not pass them; ``seconds`` are for ``fast``."""
    account = state.account(Int8Model)
    made = state.by(stages.QUANTISE.name)
    if options.mutants == "none" or account is None or state.int8 is None or made is None or made.result is None:
        return None
    with progress.stage("inject faults into int8"):
        budget = None if options.mutants == "full" else seconds
        kept = made.result.parity.centred[0].least.median_db
        gate = Int8Gate(account, state.int8, state.model.contract.outputs, scratch, kept)
        score = int8_mutants.run_mutants(gate, budget=budget)
        progress.detail(score.summary())
    return score


def artifact(state: PipelineState, made: Made, one: Converted, found: Int8Found) -> dict[str, Any]:
    """Give the manifest's record of a model in another format, or in int8."""
    record, account = manifest.converted(one, state.precision), state.account(Int8Model)
    if one.precision != INT8 or account is None or state.int8 is None or made.result is None:
        return record
    if made.account is not account:  # another format of it, which its own gate has measured
        return {**record, "quantisation": converted(account, state.int8, made.result.parities[one.name], one.floats)}
    own = quantisation(account, state.int8, made.result.parity, found.accuracy)
    return {**record, "quantisation": own, "mutation": found.score.to_dict() if found.score else None}
