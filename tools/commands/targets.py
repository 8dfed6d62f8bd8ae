"""``targets``: every runtime, converter, compiler and set of lint rules, what is here of it, and what it needs.

From the registries alone, and without importing what they stand on: what is installed is looked up, not loaded.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any

from rich.table import Table

from attn_export.deploy_tests import backends
from attn_export.deploy_tests.machine.emulated import emulated
from attn_export.registry import Registry
from attn_export.tools import console
from attn_export.tools.ending import EXTRAS

#: The same folders as ``export.converters`` and ``export.lint`` tell of; to import those takes torch and onnx.
CONVERTERS = Registry[Any]("attn_export.export.converters", "CONVERTER", "converter", families=False)
RULES = Registry[Any]("attn_export.export.lint", "RULES", "lint target", families=False)
#: What every converter needs, and every set of rules a part of.
_EXPORT = ("torch", "onnx")
_COLUMNS = ("target", "runs here", "--to", "compile", "lint", "evidence", "installed", "needs")


@dataclass(frozen=True)
class Target:
    """One name that stands for a place where models run.

    Attributes:
        name: as it is typed.
        runs: whether it runs here; None where nothing of that name runs anything.
        converts: whether ``--to NAME`` works here; None where there is no such converter.
        compiles: whether ``compile --target NAME`` works here; None where there is no such compiler.
        lint: whether there are rules for ``lint --target NAME``.
        chips: that it compiles for.
        evidence: the best that can be had of it here: E0 (its calls are known, nothing is tried), E1 (compiled for a
            device that is not there), E2 (run here); with ``simulated`` where the maker's simulator can be asked; empty
            of rules alone.
        installed: the distributions that it stands on, with their versions, as far as they are here.
        needs: what is missing, in sentences.
    """

    name: str
    runs: bool | None
    converts: bool | None
    compiles: bool | None
    lint: bool
    chips: tuple[str, ...]
    evidence: str
    installed: dict[str, str]
    needs: tuple[str, ...]


def targets() -> list[Target]:
    """List all targets, by name."""
    compilers = backends.compilers()
    return [_target(name, compilers) for name in sorted({*backends.BACKENDS, *CONVERTERS, *RULES})]


def report(*, as_json: bool) -> None:
    """Print every target."""
    found = targets()
    if as_json:
        console.emit({"targets": [asdict(target) for target in found]})
        return
    table = Table()
    for name in _COLUMNS:
        table.add_column(name)
    for target in found:
        table.add_row(*map(console.cell, _cells(target)))
    console.show(table)
    console.say(
        "E2: run here. E1: compiled for a chip that is not here. E0: nothing can be tried here."
        " simulated: the maker's simulator runs it, which tells nothing of time."
    )


def _target(name: str, compilers: dict[str, tuple[str, ...]]) -> Target:
    runs = converts = compiles = None
    needs: list[str] = []
    installed: dict[str, str] = {}
    chips: tuple[str, ...] = ()
    simulates = False
    if (runtime := _runtime(name)) is not None:
        traits = backends.traits(runtime)
        chips, simulates = traits.chips, traits.simulates
        installed = {library: found for library in traits.libraries if (found := _version(library))}
        why = backends.missing(runtime)
        runs = why is None
        needs += filter(None, [why])
    if name in CONVERTERS:
        lacking = tuple(_lacking(name))
        converts = not lacking
        needs += lacking
    if name in compilers:
        why = backends.missing_compiler(name)
        compiles = why is None
        needs += filter(None, [why])
    only_rules = runs is converts is compiles is None
    evidence = "" if only_rules else _evidence(runs=bool(runs), compiles=bool(compiles), simulates=simulates)
    said = tuple(dict.fromkeys(needs))
    return Target(name, runs, converts, compiles, name in RULES, chips, evidence, installed, said)


def _runtime(name: str) -> str | None:
    """Name the backend of that name; or the first that takes the files of the converter of that name."""
    if name in backends.BACKENDS:
        return name
    return next((one for one in backends.BACKENDS if name in CONVERTERS and name in backends.traits(one).accepts), None)


def _lacking(name: str) -> Iterator[str]:
    """Say what a converter lacks: of the side that makes models, and of the extra of its name."""
    for extra, packages in (
        ("export", _EXPORT),
        (name, tuple(package for package, extra in EXTRAS.items() if extra == name)),
    ):
        if missing := [package for package in packages if importlib.util.find_spec(package) is None]:
            yield f"to convert: {', '.join(missing)} missing: pip install 'attn-export[{extra}]'"


def _evidence(*, runs: bool, compiles: bool, simulates: bool) -> str:
    if runs:
        return "E2, emulated" if emulated() else "E2"
    if compiles:
        return "E1, simulated" if simulates else "E1"
    return "E0"


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _cells(target: Target) -> tuple[str, ...]:
    """Give a row for people."""
    able = [_word(value) for value in (target.runs, target.converts, target.compiles)]
    installed = ", ".join(f"{name} {version}" for name, version in target.installed.items())
    rules = "rules" if target.lint else ""
    return (target.name, *able, rules, target.evidence, installed, "; ".join(target.needs))


def _word(value: object) -> str:
    return "" if value is None else "yes" if value else "no"
