"""The page on adding a runtime, done: its files become a package, and every command works on the new runtime."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from tests.deploy_tests.test_conformance import write

PAGE = Path(__file__).parents[2] / "docs" / "add-a-runtime.md"
QUICK = ["--duration", "0", "--iterations", "3", "--warmup", "0"]


def blocks(kind: str) -> dict[str, str]:
    """The page's blocks of code of one kind, by the name that stands behind it."""
    return {
        name.strip(): body
        for name, body in re.findall(rf"^```{kind}([^\n]*)\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    }


def lines() -> list[str]:
    """The commands of the page."""
    return blocks("console")[""].splitlines()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package installed in ``site``, as pip would, and with two bundles."""
    folder = tmp_path_factory.mktemp("toy")
    site = folder / "site"
    site.mkdir()
    for name, body in blocks("python").items():
        (site / name).write_text(body, encoding="utf-8")
    info = site / "attn_export_toy-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: attn-export-toy\nVersion: 1.0\n")
    points = re.findall(r'\[project\.entry-points\."(.+?)"\]\n(.+)', blocks("toml")["pyproject.toml"])
    (info / "entry_points.txt").write_text("".join(f"[{group}]\n{line}\n" for group, line in points).replace('"', ""))
    write(folder / "bundle")
    write(folder / "other")
    return folder


@cache
def run(place: Path, *words: str, site: str = "site") -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(
        [*(str(place / name) for name in dict.fromkeys((site, "site"))), os.environ.get("PYTHONPATH", "")]
    )
    command = [sys.executable, "-m", "attn_export", *words]
    return subprocess.run(
        command, cwd=place, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": path}
    )


def test_the_page_adds_one_file_a_side_and_touches_none_of_ours(place: Path) -> None:
    assert set(blocks("python")) == {"toy_backend.py", "toy_lint.py"}
    assert sorted(path.name for path in (place / "site").glob("*.py")) == ["toy_backend.py", "toy_lint.py"]
    code = "".join(blocks("python").values())
    assert re.findall(r"(?:from|import) (attn_export\S*)", code) == ["attn_export.export.lint"]
    assert "attn_export" not in blocks("python")["toy_backend.py"], "a backend need not import us"
    assert "setattr" not in code, "nothing of ours is patched"


@pytest.mark.parametrize("line", lines())
def test_a_command_of_the_page_works(line: str, place: Path) -> None:
    done = run(place, *quick(line))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip()


def quick(line: str) -> list[str]:
    """The words of a line of the page; a measurement takes no longer than it must."""
    words = line.split()[1:]
    return [*words, *(QUICK if words[0] == "bench" else [])]


def test_what_is_said_is_the_toys(place: Path) -> None:
    assert "parity holds on ONNX reference evaluator" in run(place, "verify", "bundle", "--backend", "toy").stdout
    assert re.search("^toy +ONNX reference evaluator", run(place, "doctor").stdout, re.M)
    profiled, compared = (next(line for line in lines() if word in line) for word in ("--profile", "bundle other"))
    (taken,) = json.loads(run(place, *quick(profiled), "--json").stdout)["runs"]
    assert {row["op"] for row in taken["profile"]["rows"]} == {"Mul", "Add"}
    assert taken["environment"]["libraries"]["onnx"]
    assert "CPU time" in run(place, *quick(compared)).stdout, "it said that its own threads do the work"


def test_what_it_breaks_on_is_its_own_fault(place: Path) -> None:
    (place / "broken").mkdir()
    for file in (place / "site").iterdir():
        if file.is_file():
            text = file.read_text(encoding="utf-8").replace("return ReferenceEvaluator(str(model))", "return 1 / 0")
            (place / "broken" / file.name).write_text(text, encoding="utf-8")
    done = run(place, "verify", "bundle", "--backend", "toy", site="broken")
    assert done.returncode == 3, done.stderr
    assert "toy broke while opening the model: ZeroDivisionError" in done.stderr
