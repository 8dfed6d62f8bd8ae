"""On a machine without TensorRT or a GPU: one sentence says what is missing, exit 4, and nothing is written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.deploy_tests.test_conformance import write

#: Hides TensorRT, as where it is not installed, and any driver; then it is the command line as a user has it.
HIDDEN = """
import importlib.util, sys
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name.startswith("tensorrt") else real(name, *rest)
sys.argv = ["attn-export", *sys.argv[1:]]
import runpy
runpy.run_module("attn_export", run_name="__main__")
"""
CASES = {
    "verify": (["verify", "BUNDLE", "--require", "tensorrt"], "pip install", "nothing was verified on it"),
    "verify alone": (["verify", "BUNDLE", "--backend", "tensorrt"], "pip install", "was not verified: "),
    "compile-only": (["compile", "BUNDLE"], "pip install 'attn-export[rtx]'", "not installed"),
    "conform": (["conform", "BUNDLE", "-o", "KIT"], "tensorrt is not available here", "pip install"),
    "bench": (["bench", "BUNDLE", "--backend", "tensorrt"], "tensorrt is not available here", "pip install"),
}


@pytest.mark.parametrize("name", CASES)
def test_one_sentence_and_exit_4(name: str, tmp_path: Path) -> None:
    words, *says = CASES[name]
    folder = write(tmp_path / "twice")
    before = sorted(path.name for path in folder.iterdir())
    places = {"BUNDLE": str(folder), "KIT": str(tmp_path / "kit")}
    command = [sys.executable, "-c", HIDDEN, *(places.get(word, word) for word in words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "400"})
    said = done.stdout + done.stderr
    assert done.returncode == 4, said
    assert all(text in said for text in says), said
    assert "passed" not in said
    assert "Traceback" not in said
    assert sorted(path.name for path in folder.iterdir()) == before
    assert not (tmp_path / "kit").exists()
