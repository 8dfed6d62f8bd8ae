"""``list`` and ``show``: the catalogue from its cards, without importing torch."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from attn_export.errors import LoadError, UnknownNameError
from attn_export.export.weights import published
from attn_export.mechanisms import MECHANISMS, static_spec
from attn_export.mechanisms.spec import Preset, Spec, call, sizes_of
from attn_export.tools import console
from attn_export.tools.measured import CAVEAT, kept, shown


def list_(family: str | None, *, as_json: bool) -> None:
    """Print every entry with its sentence, by family."""
    places = MECHANISMS.entries
    families = sorted({place.family for place in places.values()})
    if family is not None and family not in families:
        raise UnknownNameError("family", family, families)
    rows = [
        {
            "name": name,
            "family": place.family,
            "summary": static_spec.summary(place.path) if place.path else place.module,
        }
        for name, place in places.items()
        if family in (None, place.family)
    ]
    if as_json:
        console.emit({"entries": rows})
        return
    width = max(len(row["name"]) for row in rows)
    for group in sorted({row["family"] for row in rows}):
        console.say(group, bold=True)
        for row in rows:
            if row["family"] == group:
                console.say(f"  {row['name']:<{width}}  {row['summary']}")
    console.say(f"{len(rows)} entries; `attn-export show NAME` shows one in detail")


def show(name: str, *, as_json: bool) -> None:
    """Print one entry: paper, formula, shapes, presets, options."""
    place = MECHANISMS.entry(name)
    if place.path is None:
        raise LoadError(f"{name} comes from the plug-in {place.module}; see that project's documentation")
    entry = static_spec.read(place.path)
    spec = entry.spec
    if as_json:
        console.emit(_plain(name, place.family, entry))
        return
    console.say(f"{name}  ({place.family})", bold=True)
    console.say(entry.summary, "", *entry.formula.splitlines(), "")
    paper = spec.paper
    console.say(f"paper    {paper.title}, {paper.authors}, {paper.venue}  {paper.url}".rstrip())
    console.say(f"varies   {', '.join(map(_dim, spec.dynamic)) or 'nothing'}")
    for title, presets in (("presets", spec.presets), ("variants", spec.variants)):
        for index, (key, preset) in enumerate(presets.items()):
            mark = " (default)" if key == spec.default else ""
            console.say(f"{'' if index else title:<8} {key}{mark}: {_shapes(spec, preset)}  {_call(spec, preset)}")
    console.say(f"options  {', '.join(entry.options)}")
    for index, (key, source) in enumerate(published.sources(name, spec).items()):
        refused = f"; refused: {source.refused}" if source.refused else ""
        console.say(f"{'' if index else 'weights':<8} --variant {key}: {source.of}{refused}")
    if spec.float16_unsafe:
        console.say(f"float16  {spec.float16_unsafe}")
    _measured(name, spec)


def _measured(name: str, spec: Spec) -> None:
    """Print what was measured: a line a preset and graph, then where, then what it is worth elsewhere."""
    lines = shown(name, spec.configurations, kept())
    for index, line in enumerate(lines):
        taken = f", {line.latency}" if line.machine else ""
        said = f"{line.preset}, {line.graph}: {line.nodes} nodes, k = {line.parity}{taken}"
        console.say(f"{'' if index else 'measured':<8} {said}")
    machines = sorted({line.machine for line in lines if line.machine})
    if machines:
        console.say(f"{'':<8} on {'; '.join(machines)}. {CAVEAT}")


def _plain(name: str, family: str, entry: static_spec.StaticSpec) -> dict[str, Any]:
    spec = entry.spec
    return {
        "name": name,
        "family": family,
        "summary": entry.summary,
        "formula": entry.formula,
        "paper": {**vars(spec.paper), "url": spec.paper.url},
        "dynamic": [vars(dim) for dim in spec.dynamic],
        "presets": {
            key: {"arguments": dict(p.arguments), "inputs": _shapes(spec, p)} for key, p in spec.configurations.items()
        },
        "default": spec.default,
        "options": list(entry.options),
        "sources": {
            key: {"of": s.of, "arguments": dict(s.arguments), "refused": s.refused}
            for key, s in published.sources(name, spec).items()
        },
        "float16_unsafe": spec.float16_unsafe,
        "measured": [asdict(line) for line in shown(name, spec.configurations, kept())],
    }


def _shapes(spec: Spec, preset: Preset) -> str:
    inputs = preset.inputs or spec.inputs
    sizes = sizes_of(inputs, preset)
    return " ".join(
        f"{item.name}:{'x'.join(str(sizes[d]) if isinstance(d, str) else str(d) for d in item.shape)}"
        for item in inputs
    )


def _call(spec: Spec, preset: Preset) -> str:
    return call((preset.build or spec.build).__name__, preset.arguments)


def _dim(dim: Any) -> str:
    text = f"{dim.name} ≥ {dim.min}"
    if dim.step > 1:
        text += f" in steps of {dim.step}"
    return text + (f", ≤ {dim.max}" if dim.max else "")
