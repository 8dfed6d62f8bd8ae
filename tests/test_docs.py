"""Documentation that runs: doctests, the README's commands, the generated pages."""

from __future__ import annotations

import doctest
import importlib
import re
import shlex
from pathlib import Path

import pytest

from attn_export import errors
from attn_export.tools.cli import app
from benchmarks.pages.cli import PAGE, cli_page

ROOT = Path(__file__).parents[1]


def documented() -> list[str]:
    """Modules with examples in their docstrings."""
    found = []
    roots = [(ROOT, folder) for folder in ("mechanisms", "reparam", "export", "deploy_tests", "tools")]
    for root, folder in (*roots, (ROOT / "src" / "attn_export", ".")):
        for file in (root / folder).rglob("*.py"):
            if ">>> " in file.read_text(encoding="utf-8"):
                name = ".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
                found.append(f"attn_export.{name}")
    return sorted(set(found))


@pytest.mark.parametrize("name", documented())
def test_examples_in_docstrings_run(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0
    assert result.failed == 0


def readme_commands() -> list[str]:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if re.match(r" {4}attn-export ", line)]


@pytest.mark.parametrize("line", readme_commands())
def test_the_readmes_commands_exist(line: str) -> None:
    commands = {
        command.name or command.callback.__name__: command for command in app.registered_commands if command.callback
    }
    words = shlex.split(line.split("  ")[0])[1:]
    command = commands[words[0]] if words[0] in commands else commands["export"]
    assert command.callback
    page = PAGE.read_text(encoding="utf-8")
    for flag in (word for word in words if word.startswith("--")):
        assert flag in page, f"{flag} of {line!r} is no option"


def test_the_readme_names_only_exit_codes_that_are_raised() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert re.search(r"0 all gates passed · 1 .* 2 .* 3 .* 4 .*\s*.* 5 .* 130", readme, re.DOTALL)


def test_the_readme_says_on_which_machines_it_was_executed() -> None:
    from attn_export.deploy_tests.conformance.kit import executed_on

    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert executed_on(sorted((ROOT / "docs/kits").glob("*"))) in readme


def test_the_tree_of_errors_names_every_one() -> None:
    pattern = re.compile(r"^class (\w+Error)\((\w+)[, \w]*\):", re.MULTILINE)
    folders = ("mechanisms", "reparam", "export", "deploy_tests", "tools", "src/attn_export")
    files = [file for folder in folders for file in (ROOT / folder).rglob("*.py")]
    found = dict(pair for file in files for pair in pattern.findall(file.read_text(encoding="utf-8")))
    ours = {"AttnExportError"}
    while new := {name for name, base in found.items() if base in ours} - ours:
        ours |= new
    drawn = set(re.findall(r"^    .*?(\w+Error) +\d", errors.__doc__ or "", re.MULTILINE))
    assert drawn == ours


def test_the_command_line_page_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == cli_page(), "run: python -m benchmarks.pages.cli"
