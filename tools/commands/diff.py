"""``diff``: where two runs first diverge, of a bundle, an ONNX file, or a subject and the stages it goes through."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
        GateError: they diverge, or one has an input or output that the other has not, or in another place.
        UsageError, LoadError, ConversionError, BackendError: one of them is nothing, or cannot be read, made or run.
    """
    path = Path(asked.source.text)
    if asked.output:
        target.folder(asked.output, FILES, "what diff writes")
    factory = VariantFactory(_named(asked), fused=asked.fuse, snr=asked.snr)
    found = find(factory, asked.other, _two(asked.between) if asked.between is not None else None)
    hit = found.divergence
    if as_json:
        nodes = _write(factory, found, hit, asked.output, as_json=True) if asked.output and hit else 0
        console.emit(_row(path, found))
    else:
        for text in (*found.notes, *found.interface):
            console.say(text)
        nodes = _write(factory, found, hit, asked.output, as_json=False) if asked.output and hit else 0
        _say(found, asked.output if nodes else None, nodes)
    names = " and ".join(found.names)
    if hit is not None:
        raise GateError(f"{names} diverge at {hit.node!r}")
    if found.interface:
        raise GateError(f"{names} differ: {found.interface[0]}")


def _row(path: Path, found: Found) -> dict[str, Any]:
    """Give what was found as plain data."""
    return {
        "subject": str(path),
        "between": list(found.names),
        "interface": list(found.interface),
        "notes": list(found.notes),
        "divergence": None if found.divergence is None else found.divergence.to_dict(),
    }


def _say(found: Found, folder: Path | None, nodes: int) -> None:
    """Say where they diverge, how the error grows, and what was written."""
    hit = found.divergence
    if hit is None:
        common = "what both have" if found.interface else f"{' and '.join(found.names)}"
        console.say(f"No divergence between {common} ({found.cases} cases).")
        return
    console.say(hit.summary())
    console.say("relative error along the graph: " + ", ".join(f"{name} {error:.1e}" for name, error in hit.growth))
    if folder:
        console.say(f"{folder}/: the {nodes} nodes that show it; run repro.py there")


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
