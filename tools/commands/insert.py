"""``insert``: what a mechanism of the catalogue costs inside a network, before anybody trains it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from attn_export.deploy_tests.latency.comparison import Rules
from attn_export.errors import UnknownNameError, UsageError
from attn_export.export import sources
from attn_export.export.insertion import Inserted, insert
from attn_export.export.source import SourceOptions
from attn_export.mechanisms import MECHANISMS
from attn_export.pipeline.insertion import Difference, difference
from attn_export.pipeline.options import BuildOptions
from attn_export.tools import console
from attn_export.tools.progress import TerminalProgress


@dataclass(frozen=True, kw_only=True)
class InsertOptions:
    """What goes where, and how it is measured.

    Attributes:
        mechanism: a name of the catalogue.
        after: patterns of layer names.
        preset: of the mechanism.
        arguments: of the mechanism's constructor.
        build: what the stages do to both networks.
        bench: whether to time them.
        threads: of the runtime.
        seed: of the mechanism's weights.
    """

    mechanism: str
    after: tuple[str, ...]
    preset: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    build: BuildOptions = field(default_factory=BuildOptions)
    bench: bool = True
    threads: int = 1
    seed: int = 0


def cost(wanted: SourceOptions, asked: InsertOptions, *, as_json: bool, verbosity: int) -> None:
    """Put the mechanism in, and print the network before and after.

    Raises:
        UsageError: it does not fit there.
        InconclusiveError: the machine is too noisy for a ratio of times.
    """
    if asked.mechanism not in MECHANISMS:  # said before anything of the user's is run
        raise UnknownNameError("mechanism", asked.mechanism, MECHANISMS.entries)
    progress = TerminalProgress(verbosity)
    with progress.stage("load"):
        subject = sources.load(wanted)
    if subject.graph is not None:
        raise UsageError(f"{wanted.text} is an ONNX file, which has no layers to train; give file.py:name")
    with progress.stage("insert"):
        made = insert(
            subject.module,
            subject.example(),
            asked.mechanism,
            asked.after,
            preset=asked.preset,
            arguments=asked.arguments,
            seed=asked.seed,
        )
        progress.detail(f"{len(made.places)} places")
    found = difference(
        replace(subject, dynamic=()),
        replace(subject, module=made.module, dynamic=()),
        asked.build,
        Rules(threads=asked.threads) if asked.bench else None,
        progress,
    )
    console.result(_plain(subject.name, asked, made, found), as_json=as_json)
    if not as_json:
        console.say(*_lines(asked.mechanism, made, found))
    if found.latency:
        found.latency.refuse_void()


def _plain(name: str, asked: InsertOptions, made: Inserted, found: Difference) -> dict[str, Any]:
    return {
        "subject": name,
        "mechanism": asked.mechanism,
        "places": [
            {"after": place, "shape": list(shape), "built": call} for place, (shape, call) in made.places.items()
        ],
        "before": asdict(found.before),
        "after": asdict(found.after),
        "latency": found.latency.to_dict("after", "before") if found.latency else None,
    }


def _lines(mechanism: str, made: Inserted, found: Difference) -> list[str]:
    lines = [f"{mechanism} behind {len(made.places)} {'layer' if len(made.places) == 1 else 'layers'}:"]
    width = max(map(len, made.places))
    lines += [
        f"  {place:<{width}}  {'x'.join(map(str, shape))}  {call}" for place, (shape, call) in made.places.items()
    ]
    one, other = found.before, found.after
    rows = [
        ("parameters", one.parameters, other.parameters),
        ("nodes", one.nodes, other.nodes),
        ("MACs", one.macs, other.macs),
    ]
    if one.fused is not None and other.fused is not None:
        rows.append(("fused regions", one.fused, other.fused))
    lines.append(f"{'':<14} {'before':>16} {'after':>16} {'change':>9}")
    for name, was, now in rows:
        change = f"{now / was - 1:+.2%}" if was else ""
        lines.append(f"{name:<14} {was:>16,} {now:>16,} {change:>9}")
    timed = f"latency, after / before: {found.latency.outcome()}" if found.latency else "latency: not measured"
    return [*lines, timed]
