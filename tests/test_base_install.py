"""Every command where only the base install is: it works, or says in a sentence what to install."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from attn_export import bundle
from attn_export.tools.cli import app
from tests.deploy_tests.test_conformance import write

pytestmark = pytest.mark.slow

#: Refuses what the base install has not, as if it were not there; then it is the command line as a user has it.
HIDDEN = """
import importlib.abc, importlib.util, sys
lacking = set(sys.argv[1].split(","))
class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in lacking:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Refuse())
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name.partition(".")[0] in lacking else real(name, *rest)
sys.argv = ["attn-export", *sys.argv[2:]]
import runpy
runpy.run_module("attn_export", run_name="__main__")
"""
LACKING = (
    "torch", "onnx", "onnxscript", "onnxsim", "onnx_ir", "safetensors", "jaxtyping", "ml_dtypes", "PIL", "tensorrt",
    "tensorrt_rtx",
)  # fmt: skip
PAGE = ("jinja2", "markupsafe")
EXPORT, RTX, IMAGES = (f"pip install 'attn-export[{extra}]'" for extra in ("export", "rtx", "images"))
QUICK = ("--duration", "0", "--iterations", "1")

#: By command: words, exit code, and what stderr says.
ROWS: dict[str, list[tuple[tuple[str, ...], int, str]]] = {
    "export": [
        (("export", "se", "--preset", "test"), 3, EXPORT),
        (("bundle/model.onnx", "-o", "made"), 3, EXPORT),
        (("own.py:f", "-o", "made"), 3, EXPORT),
    ],
    "list": [(("list",), 0, ""), (("list", "--family", "attention", "--json"), 0, "")],
    "show": [(("show", "se"), 0, ""), (("show", "se", "--json"), 0, "")],
    "verify": [
        (("verify", "bundle"), 0, ""),
        (("verify", "bundle", "--data", "own.npy"), 0, ""),
        (("verify", "bundle", "--data", "own.png", "--preprocess", "size=2x3"), 4, IMAGES),
        (("verify", "bundle", "--require", "tensorrt"), 4, "not available here"),
        (("verify", "bundle", "--on", "ssh://no-such-host.invalid"), 3, "nobody knows a machine of that name"),
    ],
    "compile": [(("compile", "bundle"), 4, RTX)],
    "bench": [
        (("bench", "bundle", *QUICK), 0, ""),
        (("bench", "bundle", "--profile", "--json", *QUICK), 0, ""),
        (("bench", "bundle", "--backend", "tensorrt", *QUICK), 4, "pip install"),
    ],
    "fuse": [(("fuse", "bundle/model.onnx", "-o", "fused.onnx"), 3, EXPORT)],
    "choose": [(("choose", "--budget", "free"), 0, ""), (("choose", "--task", "eating", "--json"), 2, "no task")],
    "insert": [(("insert", "own.py:f", "--mechanism", "eca", "--after", "*"), 3, EXPORT)],
    "lint": [(("lint", "bundle"), 3, EXPORT), (("lint", "bundle", "--target", "ort_mobile"), 3, EXPORT)],
    "diff": [(("diff", "bundle"), 3, EXPORT), (("diff", "se", "--between", "original,fused"), 3, EXPORT)],
    "report": [
        (("report", "bundle"), 0, ""),
        (("report", "bundle", "--format", "junit"), 0, ""),
        (("report", "bundle", "--format", "sarif", "-o", "report.sarif"), 0, ""),
        (("report", "bundle", "--format", "json"), 0, ""),
        (("report", "bundle", "--format", "html"), 3, "pip install 'attn-export[report]'"),
    ],
    "conform": [
        (("conform", "bundle", "-o", "kit"), 4, "pip install"),
        (("conform", "check", "kit"), 3, "not a conformance kit"),
        (("conform", "bundle", "-o", "kit", "--backend", "onnxruntime"), 0, ""),
    ],
    "sign": [(("sign", "bundle", "--key", "no-such-key"), 3, "no-such-key")],
    "sweep": [(("sweep", "-o", "swept"), 3, EXPORT)],
    "doctor": [(("doctor",), 0, ""), (("doctor", "--json"), 0, "")],
    "targets": [(("targets",), 0, ""), (("targets", "--json"), 0, "")],
    "history": [(("history", "--store", "no-store"), 3, "is not a store"), (("history",), 2, "which store?")],
    "cache": [(("cache",), 0, ""), (("cache", "--json"), 0, "")],
}
CASES = [pytest.param(*row, id=" ".join(row[0])) for rows in ROWS.values() for row in rows]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a bundle, and data of one's own."""
    folder = tmp_path_factory.mktemp("base")
    content = json.loads((write(folder / "bundle") / bundle.MANIFEST).read_text(encoding="utf-8"))
    (folder / "bundle" / bundle.REPORT).write_text('{"schema_version": 3, "runs": []}')
    bundle.write_manifest(folder / "bundle", content)
    np.save(folder / "own.npy", np.ones((1, 3), np.float32))
    (folder / "own.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (folder / "own.py").write_text("raise SystemExit('this ran')")
    return folder


def run(place: Path, *words: str, lacking: tuple[str, ...] = (*LACKING, *PAGE)) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", HIDDEN, ",".join(lacking), *words]
    env = {**os.environ, "COLUMNS": "400"}
    return subprocess.run(command, cwd=place, capture_output=True, text=True, check=False, env=env)


def test_every_command_has_a_row() -> None:
    groups = {str(group.name) for group in app.registered_groups}
    commands = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    assert set(ROWS) == commands | groups


@pytest.mark.parametrize(("words", "code", "says"), CASES)
def test_it_works_or_says_what_to_install(words: tuple[str, ...], code: int, says: str, place: Path) -> None:
    done = run(place, *words)
    said = done.stdout + done.stderr
    assert "Traceback" not in said, said
    assert done.returncode == code, said
    assert says in done.stderr, said
    if code:
        errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1, done.stderr
        assert done.stderr.strip().splitlines()[-1] == errors[0], "the sentence comes last"
        assert not {"made", "fused.onnx", "swept"} & {path.name for path in place.iterdir()}, "nothing is left"
    shutil.rmtree(place / "kit", ignore_errors=True)


def test_a_page_wants_jinja2_and_neither_torch_nor_onnx(place: Path) -> None:
    done = run(place, "report", "bundle", "--format", "html", lacking=LACKING)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("<!doctype html>")
