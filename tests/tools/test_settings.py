"""``[tool.attn-export]``: defaults of a project, which what is typed goes before, and which judge nobody's bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from attn_export.errors import UnknownNameError, UsageError
from attn_export.tools import cli, settings
from tests.tools.run import run


def defaults(folder: Path, text: str) -> dict[str, Any]:
    (folder / "pyproject.toml").write_text(text)
    return settings.defaults(folder, get_command(cli.app))  # type: ignore[arg-type]


def test_a_table_for_all_commands_and_one_for_each(tmp_path: Path) -> None:
    text = '[tool.attn-export]\nthreads = 4\n[tool.attn-export.export]\nfuse = true\nfuse-cost = "gpu"\nthreads = 2\n'
    found = defaults(tmp_path, text)
    assert found["export"] == {"threads": 2, "fuse": True, "fuse_cost": "gpu"}
    assert found["bench"] == {"threads": 4}
    assert found["lint"] == {}
    assert "verify" not in found, "a folder from elsewhere does not say how strictly it is judged"


def test_it_is_found_from_a_folder_below(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.attn-export]\nthreads = 4\n")
    (tmp_path / "deep" / "er").mkdir(parents=True)
    assert settings.defaults(tmp_path / "deep" / "er", get_command(cli.app))["bench"] == {"threads": 4}  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "error", "why"),
    [
        ("[tool.attn-export]\nthread = 4\n", UnknownNameError, "did you mean 'threads'"),
        ("[tool.attn-export.export]\ntolerance = 4\n", UnknownNameError, "no option in"),
        ("[tool.attn-export.verify]\ntolerance = 4\n", UnknownNameError, "command that takes defaults"),
        ("[tool.attn-export]\noutput = 'x'\n", UnknownNameError, "output"),
        ("[tool.attn-export\nthreads = 4\n", UsageError, "cannot be read"),
        ("[tool]\nattn-export = 3\n# tool.attn-export", UsageError, "expected a table"),
    ],
)
def test_what_it_cannot_mean_is_said(tmp_path: Path, text: str, error: type[Exception], why: str) -> None:
    with pytest.raises(error, match=why):
        defaults(tmp_path, text)


@pytest.mark.parametrize("text", ["[project]\nname = 'x'\n", "not toml ] at all", ""])
def test_files_of_others_say_nothing(tmp_path: Path, text: str) -> None:
    assert defaults(tmp_path, text) == {}


def test_what_is_typed_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pyproject.toml").write_text('[tool.attn-export.sweep]\nfamily = ["nope"]\n')
    assert "no family 'nope'" in run("sweep").err
    assert "no family 'neither'" in run("sweep", "--family", "neither").err


def test_a_value_of_another_type_is_a_usage_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pyproject.toml").write_text('[tool.attn-export.sweep]\nworkers = "many"\n')
    assert run("sweep").code == 2
