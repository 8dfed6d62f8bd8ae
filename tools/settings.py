"""Defaults of a project: ``[tool.attn-export]`` in the nearest ``pyproject.toml``, by the options' own names.

    [tool.attn-export]            every command that has the option
    threads = 4
    [tool.attn-export.export]     one command
    fuse = true
    fuse-cost = "gpu"

What is typed goes first. Commands that check somebody else's work (``verify``, ``conform`` and the like) read none: a
folder from elsewhere must not say how strictly it is checked.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from typer.core import TyperGroup, TyperOption

from attn_export.errors import UnknownNameError, UsageError
from attn_export.untrusted import files, toml

TABLE = "attn-export"
FILE = "pyproject.toml"
#: Commands that take defaults.
TAKE = ("export", "diff", "bench", "fuse", "lint", "sweep")
#: Bytes of a ``pyproject.toml``.
_MOST = 1 << 20
#: Options that a file may not set: where results go and what is printed is for the one who types.
_TYPED = {"output", "store", "as_json", "help", "version", "debug"}


def defaults_here(group: TyperGroup) -> dict[str, Any]:
    """Say what the project around the current folder sets; nothing where that folder was removed.

    Raises:
        UsageError: as ``defaults``.
    """
    try:
        folder = Path.cwd()
    except OSError:
        return {}
    return defaults(folder, group)


def defaults(folder: Path, group: TyperGroup) -> dict[str, Any]:
    """Say what the project around ``folder`` sets, by command and parameter, as Click's ``default_map``.

    Raises:
        UsageError: the table cannot be read, or sets what is no option.
    """
    file = _nearest(folder)
    if file is None:
        return {}
    table = _table(file)
    own = {name: value for name, value in table.items() if isinstance(value, Mapping)}
    shared = {name: value for name, value in table.items() if name not in own}
    for name in own:
        if name not in TAKE:
            raise UnknownNameError(f"command that takes defaults from {file}", name, TAKE)
    known = {name: _options(group.commands[name]) for name in TAKE}
    every = {option for found in known.values() for option in found}
    for option in shared:
        if option not in every:
            raise UnknownNameError(f"option in [tool.{TABLE}] of {file}", option, every)
    found: dict[str, Any] = {}
    for name, options in known.items():
        for option in own.get(name, {}):
            if option not in options:
                raise UnknownNameError(f"option in [tool.{TABLE}.{name}] of {file}", option, options)
        chosen = {**{key: value for key, value in shared.items() if key in options}, **own.get(name, {})}
        found[name] = {options[key]: value for key, value in chosen.items()}
    return found


def _nearest(folder: Path) -> Path | None:
    """Find the first ``pyproject.toml`` in a folder or around it that has our table."""
    for place in (folder, *folder.parents):
        file = place / FILE
        try:
            if file.is_file():
                return file if b"tool." + TABLE.encode() in files.read(file, _MOST, UsageError) else None
        except (OSError, UsageError):  # somebody else's file, which says nothing to us
            return None
    return None


def _table(file: Path) -> Mapping[str, Any]:
    content = toml.read(file, UsageError, _MOST)
    table = content.get("tool", {}).get(TABLE, {})
    if not isinstance(table, Mapping):
        raise UsageError(f"{file}: expected a table [tool.{TABLE}], got {type(table).__name__}")
    return table


def _options(command: Any) -> dict[str, str]:
    """From the long name of an option to its parameter; of a pair such as --fp16/--no-fp16, from the first."""
    return {
        parameter.opts[0].removeprefix("--"): str(parameter.name)
        for parameter in command.params
        if isinstance(parameter, TyperOption) and parameter.name not in _TYPED
    }
