"""``export``: from what was typed to a subject, through the pipeline, to what is printed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from attn_export import bundle
from attn_export.errors import InconclusiveError, SubjectError, UsageError
from attn_export.mechanisms import MECHANISMS
from attn_export.pipeline.options import DeployOptions
from attn_export.tools import console
from attn_export.tools.progress import TerminalProgress
from attn_export.untrusted.text import command


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """The subject as it was typed."""

    text: str
    preset: str | None = None
    inputs: tuple[str, ...] = ()
    arguments: Mapping[str, Any] = field(default_factory=dict)
    weights: Path | None = None
    weights_key: str | None = None
    variant: str | None = None
    strict: bool = True
    randomize: bool = True
    dynamic: str | None = None
    seed: int = 0


def export(wanted: SourceOptions, asked: DeployOptions, *, as_json: bool, verbosity: int) -> None:
    """Run the main job and print its table, or one JSON object."""
    progress = TerminalProgress(verbosity)
    if asked.output:
        bundle.may_write(asked.output)  # said before anything is loaded
    with progress.stage("load"):
        subject = load(wanted)
        from attn_export.pipeline import deploy
        from attn_export.tools import summary

    if wanted.weights is not None and verbosity >= 0:
        console.say(f"weights: {subject.weights}", err=True)
    if subject.weights.startswith("awakened"):
        progress.warn(f"no --weights: {subject.weights}; what is proven is the conversion, not a trained model")
    outcome = deploy.deploy(subject, asked, progress)
    digest = bundle.digest(outcome.target)
    if as_json:
        console.emit({**outcome.to_dict(), "digest": digest})
    else:
        console.show(summary.stages(outcome))
        console.say(*summary.sentences(outcome))
        proof = command("attn-export", "verify", outcome.target)
        console.say(f"bundle: {outcome.target}/   prove it anywhere: {proof}")
        console.say(f"digest: {digest}   hold a copy to it: --expect {digest[:14]}…")
    if outcome.contest and outcome.contest.void:
        raise InconclusiveError("parity is proven and the bundle is written, but its latency ratio is void (see above)")


def load(wanted: SourceOptions) -> Any:
    """Find and build the subject, with the dynamic dimensions that were asked for.

    Raises:
        UnknownNameError: no catalogue entry of that name, and it is no code or file either.
        SubjectError, CheckpointError, UsageError: as the loaders.
    """
    text = wanted.text
    if text not in MECHANISMS and ":" not in text and not text.endswith(".onnx"):
        if text.endswith(".py") or "/" in text:
            raise SubjectError(f"{text}: name what is in it: file.py:Class, or an ONNX file")
        MECHANISMS.entry(text)  # raises, and says which names are near
    if wanted.weights is None and (wanted.variant or wanted.weights_key):
        raise UsageError("--variant and --weights-key say what --weights FILE holds; give the file, too")
    if wanted.variant and text not in MECHANISMS:
        raise UsageError(f"--variant is for catalogue entries; the names in {text} are its own")
    _need_torch()
    from attn_export.export import subject
    from attn_export.export.sources import onnx_file, user_code
    from attn_export.export.subject import with_dynamic

    if text in MECHANISMS:
        if wanted.inputs or wanted.arguments:
            raise UsageError(
                f"{text} is a catalogue entry: choose --preset; --input and --kwargs are for your own code"
            )
        built = subject.from_spec(
            text,
            MECHANISMS[text],
            wanted.preset,
            seed=wanted.seed,
            weights=wanted.weights,
            strict=wanted.strict,
            variant=wanted.variant,
            weights_key=wanted.weights_key,
        )
        return with_dynamic(built, wanted.dynamic or "batch")
    if wanted.preset:
        raise UsageError(f"--preset is for catalogue entries; {text} takes --kwargs or --input")
    if text.endswith(".onnx"):
        if wanted.arguments or wanted.weights:
            raise UsageError(f"{text} is built and has its weights: --kwargs and --weights are for code")
        return with_dynamic(onnx_file.read(Path(text), wanted.inputs), wanted.dynamic or "all")
    built = user_code.from_code(
        text,
        wanted.inputs,
        arguments=dict(wanted.arguments),
        weights=wanted.weights,
        strict=wanted.strict,
        keep_fresh=not wanted.randomize,
        seed=wanted.seed,
        weights_key=wanted.weights_key,
    )
    return with_dynamic(built, wanted.dynamic or "all")


def _need_torch() -> None:
    import importlib.util

    if importlib.util.find_spec("torch") is None or importlib.util.find_spec("onnx") is None:
        raise SubjectError("exporting needs PyTorch and ONNX: pip install 'attn-export[export]'")
