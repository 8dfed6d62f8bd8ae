"""What a source of subjects is: whose text it knows, and how it makes a subject of what was typed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from attn_export.errors import UsageError

if TYPE_CHECKING:
    from attn_export.export.subject import Subject


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """A subject as it was typed.

    Attributes:
        text: a catalogue name, ``package.module:name``, ``file.py:name``, or a path of an ONNX file.
        preset: of a catalogue entry.
        inputs: descriptions of the inputs of code or of a file, as ``input_shapes.parse_input`` reads them.
        arguments: keyword arguments of a class or function.
        weights: a checkpoint.
        weights_key: the part of the checkpoint to take, keys joined by dots.
        variant: the implementation whose names a checkpoint for a catalogue entry has.
        strict: whether names that do not fit are an error.
        randomize: whether code without a checkpoint gets random weights instead of its constructor's.
        dynamic: the dimensions that may vary; None leaves the choice to the source.
        outputs: those to give, as ``chosen.choose`` reads them; all of them without any.
        seed: for whatever is drawn.
    """

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
    outputs: tuple[str, ...] = ()
    seed: int = 0


class Source(Protocol):
    """A kind of thing that can be exported."""

    def claims(self, text: str) -> bool:
        """Whether ``text`` names a thing of this kind; asked before PyTorch is there."""

    def load(self, options: SourceOptions) -> Subject:
        """Build the subject, with the dynamic dimensions that were asked for.

        Raises:
            SubjectError: it cannot be found, read or built.
            CheckpointError: the weights cannot be read, or do not fit.
            UsageError: options that are not for this kind, or that contradict what was found.
        """


def refuse_catalogue_options(options: SourceOptions) -> None:
    """Refuse what only a catalogue entry takes.

    Raises:
        UsageError: a preset or a variant was asked for.
    """
    if options.variant:
        raise UsageError(f"--variant is for catalogue entries; the names in {options.text} are its own")
    if options.preset:
        raise UsageError(f"--preset is for catalogue entries; {options.text} takes --kwargs or --input")
