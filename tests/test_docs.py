"""Documentation that runs: doctests, the README's commands, the generated pages."""

from __future__ import annotations

import doctest
import importlib.util
import re
import shlex
from pathlib import Path

import pytest

from attn_export import errors
from attn_export.tools.cli import app
from benchmarks.pages.cli import PAGE, cli_page
from tests.test_architecture import FOLDERS

ROOT = Path(__file__).parents[1]


def documented() -> list[str]:
    """Modules with examples in their docstrings."""
    found = []
    roots = [(ROOT, folder) for folder in FOLDERS]
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
    folders = (*FOLDERS, "src/attn_export")
    files = [file for folder in folders for file in (ROOT / folder).rglob("*.py")]
    found = dict(pair for file in files for pair in pattern.findall(file.read_text(encoding="utf-8")))
    ours = {"AttnExportError"}
    while new := {name for name, base in found.items() if base in ours} - ours:
        ours |= new
    drawn = set(re.findall(r"^    .*?(\w+Error) +\d", errors.__doc__ or "", re.MULTILINE))
    assert drawn == ours


#: Words of ours that help and reports use, each with the entry of the glossary that explains it.
OURS = {
    "artifact": "artifact",
    "audit": "audit",
    "baseline": "baseline",
    "border map": "border map",
    "bundle": "bundle",
    "case": "case",
    "certificate": "certificate",
    "control": "control",
    "cost model": "cost model",
    "digest": "digest",
    "diverge": "divergence",
    "E1": "E0, E1, E2",
    "faults injected": "injected fault",
    "k": "k",
    "kit": "kit",
    "mutant": "mutant",
    "mutation score": "mutation score",
    "noise floor": "float32 error",
    "opset": "opset",
    "parity": "parity",
    "preset": "preset",
    "reference": "reference",
    "regions": "region",
    "rolled back": "roll back",
    "signal-to-noise ratio": "signal-to-noise ratio (SNR)",
    "stage": "stage",
    "subject": "subject",
    "target": "target",
    "tolerance": "tolerance",
    "ulp": "ulp",
}


def glossary() -> list[str]:
    text = (ROOT / "docs/glossary.md").read_text(encoding="utf-8")
    return re.findall(r"^\*\*(.+?)\.\*\* ", text, re.MULTILINE)


@pytest.mark.parametrize("word", OURS)
def test_words_of_ours_are_in_the_glossary(word: str) -> None:
    said = PAGE.read_text(encoding="utf-8")
    files = [*(ROOT / "pipeline").rglob("*.py"), *(ROOT / "pipeline").rglob("*.jinja"), *(ROOT / "tools").rglob("*.py")]
    said += "".join(file.read_text(encoding="utf-8") for file in (*files, ROOT / "deploy_tests/parity/compare.py"))
    assert re.search(rf"\b{word}", said, re.IGNORECASE), f"{word!r} is said nowhere: take it off the list"
    assert OURS[word] in glossary()


def test_the_glossary_is_in_order_and_its_references_lead_somewhere() -> None:
    words, text = glossary(), (ROOT / "docs/glossary.md").read_text(encoding="utf-8")
    assert words == sorted(words, key=lambda word: word.lower().replace("/", "")), "alphabetical"
    assert set(re.findall(r"\*(?!\*)([^*\n]+)\*(?!\*)", re.sub(r"\*\*.+?\*\*", "", text))) <= set(words)


def pages() -> list[Path]:
    return [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        assert (page.parent / link).exists(), f"{page.name} links to {link}"


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_files_that_a_page_names_are_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for module in re.findall(r"`(?:python -m )?((?:attn_export|benchmarks)(?:\.\w+)+)", text):
        assert importlib.util.find_spec(module), f"{page.name} names {module}"
    for name in re.findall(rf"`((?:{'|'.join((*FOLDERS, 'docs', 'tests'))})/[\w./]*)`", text):
        example = re.search(r"[A-Z]{3}|toy", name) or name.startswith("docs/kits")
        assert example or (ROOT / name).exists(), f"{page.name} names {name}"


def test_the_command_line_page_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == cli_page(), "run: python -m benchmarks.pages.cli"
