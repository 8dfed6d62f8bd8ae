"""The stage that gives a model in int8: what it is made from, what it means, and what of the data lies beyond it.

calibration, held-out files ──► quantise ──► audit ──► meaning in float64 on the test files ──► gate
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import onnx

from attn_export.bundle import Case
from attn_export.deploy_tests.data.split import Split
from attn_export.errors import ContractError
from attn_export.export.audit import quantised as audit
from attn_export.export.audit.quantised import Usual
from attn_export.export.onnx.exported import Exported
from attn_export.export.precision.classes import QUANTISED_DB
from attn_export.export.quantise.quantise import quantise
from attn_export.export.quantise.quantised import INT8, Clock, Quantised, Wish
from attn_export.pipeline.options import Int8Options
from attn_export.process import activity
from attn_export.reparam.evaluate.onnx import OnnxEvaluator
from attn_export.types import Array
from attn_export.untrusted.text import few

#: What the artifact is called, its file, and the file with what it means.
NAME, FILE, MEANING = "int8", "int8.onnx", "int8.npz"
#: Factor beyond its range at which a value that is cut off is worth a word.
BEYOND = 2.0


@dataclass(frozen=True)
class Int8Inputs:
    """What the stage works on.

    Attributes:
        split: the user's files.
        cases: of the bundle, those of the user's data, with the float64 reference.
        batched: whether the first dimension of every output counts images.
        clock: measures time, to choose what goes back to float by what it costs; None where nothing is measured.
        said: told what is being done.
    """

    split: Split
    cases: tuple[Case, ...]
    batched: bool
    clock: Clock | None = None
    said: Callable[[str], None] = field(default=lambda _: None, repr=False)


@dataclass(frozen=True)
class Int8Model:
    """What the stage gave besides the model's file.

    Attributes:
        quantised: the model, and how it was found.
        meaning: by case of the user's data, what the graph means in float64; cases without inputs.
        usual: by tensor that is rounded, the range that most of its values have in these cases.
        images: by case, the ends of each such tensor.
        clipped: cases of which much lies beyond a range, in sentences.
        asked: what it is held to.
        unsigned: whether activations may be unsigned codes.
    """

    quantised: Quantised
    meaning: tuple[Case, ...]
    usual: Mapping[str, Usual]
    images: tuple[Mapping[str, tuple[float, float]], ...]
    clipped: tuple[str, ...]
    asked: Int8Options
    unsigned: bool = True

    @property
    def snr(self) -> float:
        """What runs are held to against the meaning, in dB."""
        return QUANTISED_DB


def made(model: Exported, inputs: Int8Inputs, asked: Int8Options) -> Int8Model:
    """Quantise a model, audit it, and evaluate what it means.

    Raises:
        ExportError: it cannot be quantised.
        GateError: not with what is asked for.
        ContractError: the codes are not what they must be.
    """
    split = inputs.split
    wish = Wish(asked.least_snr, unsigned=not asked.symmetric, per_channel=not asked.per_tensor)
    # Symmetric codes are for other targets: what this machine is faster with is nothing to choose layers by.
    clock = None if asked.symmetric else inputs.clock
    found = quantise(model.model, split.calibration, split.held_out, wish, inputs.said, clock)
    usual: dict[str, list[Usual]] = {}
    meaning = []
    evaluator = OnnxEvaluator(found.model)
    rounded = audit.rounded(found.model)
    clipped, images = [], []
    for number, case in enumerate(inputs.cases, 1):
        inputs.said(f"meaning in float64, {number} of {len(inputs.cases)}")
        with activity.doing(f"evaluating the int8 model on case {case.name!r}"):
            outputs, seen = _evaluated(evaluator, case, [port.name for port in model.contract.outputs], rounded)
        meaning.append(Case(case.name, {}, outputs, dict.fromkeys(outputs, 0.0)))
        for name, one in seen.items():
            usual.setdefault(name, []).append(one)
        clipped += _clipped(case.name, seen, rounded)
        images.append({name: (one.least, one.most) for name, one in seen.items()})
    ranges = {name: Usual.of(rows) for name, rows in usual.items()}
    if findings := audit.audit(found.model, ranges, per_channel=wish.per_channel):
        raise ContractError(f"the int8 model is not what it must be: {few(findings, 3)}; nothing was written")
    return Int8Model(found, tuple(meaning), ranges, tuple(images), tuple(clipped), asked, wish.unsigned)


def _evaluated(
    evaluator: OnnxEvaluator, case: Case, outputs: Sequence[str], rounded: Mapping[str, audit.Range]
) -> tuple[dict[str, Array], dict[str, Usual]]:
    """Evaluate a case: its outputs, and the range of each tensor that is rounded."""
    found, seen = dict[str, Array](), dict[str, Usual]()
    own = {name for name in rounded if name in case.inputs}
    for name in own:
        seen[name] = Usual.seen(case.inputs[name])
    for name, value in evaluator.visit(case.inputs, {*outputs, *(set(rounded) - own)}):
        if name in outputs:
            found[name] = value
        if name in rounded:
            seen[name] = Usual.seen(value)
    return {name: found[name] for name in outputs}, seen


def _clipped(case: str, seen: Mapping[str, Usual], rounded: Mapping[str, audit.Range]) -> list[str]:
    """Say of which tensors values lie far beyond the range that they are rounded to, the furthest alone."""
    worst = max(((rounded[name].beyond(one.least, one.most), name) for name, one in seen.items()), default=(0.0, ""))
    if worst[0] < BEYOND:
        return []
    return [f"case {case!r}: {worst[1]} reaches {worst[0]:.1f} times the range that it was calibrated to"]


def sites(model: Quantised) -> tuple[int, tuple[tuple[str, str, str], ...]]:
    """Count the layers in int8, and list those in float: node, operator and reason."""
    floats = tuple((site.node, site.op, site.reason) for site in model.sites if site.form != INT8)
    return len(model.sites) - len(floats), floats


def serialised(model: onnx.ModelProto) -> bytes:
    """Give the content of the model's file."""
    return bytes(model.SerializeToString(deterministic=True))
