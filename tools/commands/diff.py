"""``diff``: where two runs part, of a bundle, an ONNX file, or a subject and the stages it goes through."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from attn_export import bundle
from attn_export.deploy_tests.backends import BACKENDS, DEFAULT
from attn_export.errors import ConversionError, GateError, UsageError
from attn_export.export import sources
from attn_export.export.source import SourceOptions
from attn_export.mechanisms import MECHANISMS
from attn_export.pipeline.divergence.locate import Divergence, first_divergence
from attn_export.pipeline.divergence.repro import FILES, write_repro
from attn_export.pipeline.divergence.runs import Variant, in_order
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
    """Say where two runs part; with ``output``, write the smallest part that still shows it.

    Raises:
        GateError: they part.
        UsageError, LoadError, ConversionError, BackendError: one of them is nothing, or cannot be read, made or run.
    """
    path = Path(asked.source.text)
    if asked.output:
        target.folder(asked.output, FILES, "what diff writes")
    # The main job writes a bundle under the subject's own name: stages are the subject's, all else the bundle's.
    whole = path.is_dir() and not (asked.between and asked.source.text in MECHANISMS)
    named = VariantFactory(bundle.read(path) if whole else sources.load(asked.source), fused=asked.fuse, snr=asked.snr)
    pairs = list(_pairs(named, asked))
    cases = named.seen.items()
    tried = ((pair, first_divergence(*pair, cases, named.known)) for pair in pairs)
    found = next(((in_order(*pair), hit) for pair, hit in tried if hit), None)
    words = [side.text for side in pairs[0]]
    if found is None:
        if as_json:
            console.emit({"subject": str(path), "between": words, "parting": None})
        else:
            console.say(f"{' and '.join(words)} part nowhere: {len(cases)} cases")
        return
    (truth, suspect), parting = found
    nodes = _write(named, truth, suspect, parting, asked.output, as_json) if asked.output else 0
    words = [truth.text, suspect.text]
    if as_json:
        console.emit({"subject": str(path), "between": words, "parting": parting.to_dict()})
    else:
        console.say(parting.summary())
        rows = parting.departure.growth
        console.say("relative error along the graph: " + ", ".join(f"{name} {error:.1e}" for name, error in rows))
        if nodes:
            console.say(f"{asked.output}/: the {nodes} nodes that show it; run repro.py there")
    raise GateError(f"{' and '.join(words)} part at {parting.departure.node!r}")


def _pairs(named: VariantFactory, asked: DiffOptions) -> Iterator[tuple[Variant, Variant]]:
    """What to hold against what, in turn."""
    if asked.between is not None:
        words = [word.strip() for word in asked.between.split(",")]
        if asked.other is not None or len(words) != 2 or words[0] == words[1]:
            raise UsageError(
                f"--between wants two different sides, such as exported,simplified; came {asked.between!r}"
            )
        yield named.pair(words[0], words[1])
        return
    other = asked.other or DEFAULT
    if Path(other).is_dir() or other.endswith(".onnx"):
        yield named.pair(other, "model")
        other = DEFAULT
    elif other not in BACKENDS:
        BACKENDS.entry(other)  # raises, and says which names are near
    truth = "model" if isinstance(named.what, bundle.Bundle) else "original"
    yield named.pair(truth, f"model@{other}")


def _write(
    named: VariantFactory, truth: Variant, suspect: Variant, parting: Divergence, folder: Path, as_json: bool
) -> int:
    """Write the part; where its inputs cannot be had from the truth, say so."""
    assert suspect.graph is not None
    feeds, backend = named.seen[parting.case], suspect.backend or DEFAULT
    try:
        return write_repro(suspect.graph, parting.departure, feeds, folder, truth, backend)
    except ConversionError as error:
        if not as_json:
            console.say(f"{folder}: not written: {error}", err=True)
        return 0
