"""Where a subject comes from: each file here is one kind of source, as ``export.source.Source`` describes it."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from attn_export.errors import SubjectError, UsageError
from attn_export.export.refused_files import refusal
from attn_export.export.source import Source, SourceOptions
from attn_export.mechanisms import MECHANISMS
from attn_export.registry import Registry

if TYPE_CHECKING:
    from attn_export.export.subject import Subject

SOURCES: Registry[Source] = Registry("attn_export.export.sources", "SOURCE", "source of subjects", families=False)


def load(options: SourceOptions) -> Subject:
    """Find and build the subject: of the first source, by name, that claims what was typed.

    Raises:
        UnknownNameError: no source claims it, and it looks like a catalogue name.
        SubjectError, CheckpointError, UsageError: as ``Source.load``.
    """
    source = _claiming(options.text)
    if options.weights is None and (options.variant or options.weights_key):
        raise UsageError("--variant and --weights-key say what --weights FILE holds; give the file, too")
    refuse_without_torch()
    return source.load(options)


def refuse_without_torch() -> None:
    """Say what to install before any work begins that only the host side can do.

    Raises:
        SubjectError: PyTorch or ONNX is not installed.
    """
    if importlib.util.find_spec("torch") is None or importlib.util.find_spec("onnx") is None:
        raise SubjectError("exporting needs PyTorch and ONNX: pip install 'attn-export[export]'")


def _claiming(text: str) -> Source:
    for name in SOURCES:
        if SOURCES[name].claims(text):
            return SOURCES[name]
    if why := refusal(text):
        raise SubjectError(why)
    if text.endswith(".py") or "/" in text:
        raise SubjectError(f"{text}: name what is in it: file.py:Class, or an ONNX file")
    MECHANISMS.entry(text)  # raises, and says which names are near
    raise AssertionError(f"{text} is in the catalogue, and the catalogue does not claim it")
