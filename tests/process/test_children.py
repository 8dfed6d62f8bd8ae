"""No interpreter of ours runs what happens to lie where the user stands."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from attn_export.process import children

ROOT = Path(__file__).parents[2]
#: Calls that start a process or an interpreter, and the files that may hold them, each with its reason.
STARTERS = {"Popen", "run", "call", "check_call", "check_output", "system", "popen", "execv", "execve", "fork"}
ALLOWED = {
    "src/attn_export/process/children.py": "the one place",
    "src/attn_export/process/supervisor.py": "the fork of the parent",
    "deploy_tests/backends/tensorrt/machine.py": "nvidia-smi",
    "src/attn_export/bundle/signing.py": "ssh-keygen",
    "export/converters/ncnn/pnnx.py": "the program in pnnx's wheel, by its full path",
    "tools/devices/connection.py": "the user's own ssh",
    "tools/emulation/foreign.py": "apt-get and dpkg-deb; pip by the one place's command line",
    "tools/emulation/guest.py": "the emulator in our cache, by its full path",
    "tools/emulation/wheels.py": "says which interpreter lacks pip, and starts none",
}


def hostile(folder: Path, marker: Path) -> None:
    names = "numpy onnx onnxruntime onnxsim torch typing json runpy rich typer sitecustomize usercustomize attn_export"
    for name in names.split():
        (folder / f"{name}.py").write_text(f"open({str(marker)!r}, 'a').write({name!r})\n")


def test_a_child_imports_nothing_from_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    marker, elsewhere = tmp_path / "marker", tmp_path / "elsewhere"
    elsewhere.mkdir()
    hostile(tmp_path, marker)
    (elsewhere / "probe.py").write_text(
        "import json, sys, typing, numpy\n"
        "print(json.dumps([sys.argv, [p for p in sys.path if p in ('', sys.argv[1])]]))"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(elsewhere), "", ".")))
    done = children.run("probe", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f'[["{elsewhere / "probe.py"}", "{tmp_path}"], []]'
    assert not marker.exists()


def test_the_trap_is_a_trap(tmp_path: Path) -> None:
    """What ``python -m`` does in that folder: so the test above can fail."""
    marker = tmp_path / "marker"
    hostile(tmp_path, marker)
    subprocess.run([sys.executable, "-c", "import numpy"], cwd=tmp_path, capture_output=True, check=False)
    assert marker.exists()


def test_a_child_finds_this_very_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "probe.py").write_text("import attn_export; print(attn_export.__file__)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert Path(children.run("probe").stdout.strip()).samefile(ROOT / "src/attn_export/__init__.py")


def test_a_child_that_takes_too_long_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "probe.py").write_text("import time; time.sleep(60)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(subprocess.TimeoutExpired):
        children.run("probe", timeout=0.5)


def test_nothing_else_starts_an_interpreter() -> None:
    found = set()
    folders = ("src", "deploy_tests", "export", "mechanisms", "reparam", "pipeline", "tools")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    assert len(files) > 300
    for path in files:
        name = path.relative_to(ROOT).as_posix()
        if path.is_symlink():
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(func=ast.Attribute(value=ast.Name(id="subprocess" | "os"), attr=attr)) if (
                    attr in STARTERS
                ):
                    found.add(name)
                case ast.Import(names=names) if any(n.name.partition(".")[0] == "multiprocessing" for n in names):
                    found.add(name)
                case ast.ImportFrom(module=str(module)) if module.partition(".")[0] == "multiprocessing":
                    found.add(name)
                case ast.Attribute(value=ast.Name(id="sys"), attr="executable"):
                    found.add(name)
    assert found <= {*ALLOWED, "tools/commands/doctor.py"}
    assert "src/attn_export/process/children.py" in found
