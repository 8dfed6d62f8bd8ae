"""``diff``: where two runs first diverge, of a bundle, an ONNX file, or a subject and the stages it goes through."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from attn_export import bundle
from attn_export.deploy_tests.backends import DEFAULT
from attn_export.errors import ConversionError, GateError, UsageError
from attn_export.export import sources
from attn_export.export.source import SourceOptions
from attn_export.export.subject import Subject
from attn_export.mechanisms import MECHANISMS
from attn_export.pipeline.divergence.divergence import Divergence
from attn_export.pipeline.divergence.find import Found, find
from attn_export.pipeline.divergence.repro import FILES, write_repro
from attn_export.pipeline.divergence.variants import VariantFactory
from attn_export.tools import console
from attn_export.tools.commands import output as target


@dataclass(frozen=True, kw_only=True)
class DiffOptions:
    """What was typed."""

    source: SourceOptions
    other: str | None = None
    between: str | None = None
    fuse: bool = False
    snr: float | None = None
    output: Path | None = None


def diff(asked: DiffOptions, *, as_json: bool) -> None:
    """Say where two runs diverge; with ``output``, write the smallest subgraph that still shows it.

    Raises:
        GateError: they diverge.
        UsageError, LoadError, ConversionError, BackendError: one of them is nothing, or cannot be read, made or run.
    """
    path = Path(asked.source.text)
    if asked.output:
        target.folder(asked.output, FILES, "what diff writes")
    factory = VariantFactory(_named(asked), fused=asked.fuse, snr=asked.snr)
    found = find(factory, asked.other, _two(asked.between) if asked.between is not None else None)
    hit, names = found.divergence, list(found.names)
    if hit is None:
        if as_json:
            console.emit({"subject": str(path), "between": names, "divergence": None})
        else:
            console.say(f"No divergence between {' and '.join(names)} ({found.cases} cases).")
        return
    nodes = _write(factory, found, hit, asked.output, as_json=as_json) if asked.output else 0
    if as_json:
        console.emit({"subject": str(path), "between": names, "divergence": hit.to_dict()})
    else:
        console.say(hit.summary())
        console.say("relative error along the graph: " + ", ".join(f"{name} {error:.1e}" for name, error in hit.growth))
        if nodes:
            console.say(f"{asked.output}/: the {nodes} nodes that show it; run repro.py there")
    raise GateError(f"{' and '.join(names)} diverge at {hit.node!r}")


def _named(asked: DiffOptions) -> bundle.Bundle | Subject:
    """Load the bundle or the subject that was named first.

    The main job writes a bundle under the subject's own name: stages are the subject's, all else the bundle's.
    """
    text = asked.source.text
    whole = Path(text).is_dir() and not (asked.between and text in MECHANISMS)
    return bundle.read(Path(text)) if whole else sources.load(asked.source)


def _two(text: str) -> tuple[str, str]:
    words = [word.strip() for word in text.split(",")]
    if len(words) != 2:
        raise UsageError(f"--between: expected two sides, such as exported,simplified; got {text!r}")
    return words[0], words[1]


def _write(factory: VariantFactory, found: Found, hit: Divergence, folder: Path, *, as_json: bool) -> int:
    """Write the subgraph; where its inputs cannot be had from the reference, say so."""
    suspect = found.suspect
    assert suspect.graph is not None
    feeds, backend = factory.seen[hit.case], suspect.backend or DEFAULT
    try:
        return write_repro(suspect.graph, hit, feeds, folder, found.reference, backend)
    except ConversionError as error:
        if not as_json:
            console.say(f"{folder}: not written: {error}", err=True)
        return 0
