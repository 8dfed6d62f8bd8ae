"""A downloaded folder runs no code: not from where the user stands, and not from inside a bundle."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from attn_export.tools.cli import app
from tests.tools.run import run

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
#: What our commands import, by themselves or through a library.
MODULES = """
numpy onnx onnxruntime torch typing sitecustomize usercustomize onnxsim onnxscript rich typer jinja2 PIL safetensors
json runpy multiprocessing pickle tensorrt tensorrt_rtx mechanisms export tools
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A working folder full of traps, with two bundles (traps inside), a model, data and a network of the user's."""
    folder = tmp_path_factory.mktemp("downloads")
    marker = folder.parent / "MARKER"
    marker.unlink(missing_ok=True)
    quick = ("--preset", "test", "--mutants", "none", "--no-bench")
    for name in ("a", "b"):
        assert run("se", *quick, "-o", folder / name).code == 0
    traps(folder, marker)
    shutil.copytree(folder / "a", folder / "trapped")
    traps(folder / "trapped", marker)
    node = helper.make_node("Relu", ["x"], ["y"])
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3]) for name in "xy"]
    onnx.save(helper.make_model(helper.make_graph([node], "g", ports[:1], ports[1:])), folder / "m.onnx")
    np.save(folder / "x.npy", np.ones((2, 64, 8, 8), np.float32))
    (folder / "mine").mkdir()
    (folder / "mine" / "net.py").write_text("import torch\nNet = torch.nn.ReLU\n")
    yield folder
    marker.unlink(missing_ok=True)


def traps(folder: Path, marker: Path) -> None:
    for name in MODULES.split():
        (folder / f"{name}.py").write_text(f"open({str(marker)!r}, 'a').write('{name} in {folder.name}\\n')\n")
    info = folder / "evil-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: evil\nVersion: 1.0\n")
    group = "attn_export.deploy_tests.backends"
    (info / "entry_points.txt").write_text(f"[{group}]\nevil = typing\n[attn_export.mechanisms]\nworse = typing\n")


COMMANDS = [
    "list",
    "show se",
    "doctor",
    "targets",
    "export se --preset test --fuse --mutants none --no-bench -o out",
    "export m.onnx --mutants none --no-bench -o out2",
    "export mine/net.py:Net --input 1x3 --mutants none --no-bench -o out3",
    "verify a --data x.npy",
    "verify trapped",
    "verify a --on ssh://no-such-host.invalid",
    "compile a",
    "bench a b --iterations 1 --duration 0 --warmup 0 --profile --processes 2",
    "fuse m.onnx -o fused.onnx",
    "insert mine/net.py:Net --input 1x3 --mechanism eca --after relu --no-bench",
    "choose --budget free",
    "lint m.onnx",
    "lint a --target ort_mobile",
    "diff a",
    "diff se --between exported,simplified",
    "report a --format html",
    "report trapped --format sarif",
    "conform a -o kit --backend onnxruntime",
    "sweep --family conv --plain --no-variants --mutants none --limit 120 --workers 1",
    "sign a --key nokey",
    "cache",
    "history x --store a",
]


#: How people start it; the second puts the current folder on the path, which is why it must leave it.
SCRIPT, MODULE = (str(Path(sys.executable).with_name("attn-export")),), (sys.executable, "-m", "attn_export")


@pytest.mark.parametrize(
    ("start", "line"), [*((SCRIPT, line) for line in COMMANDS), *((MODULE, line) for line in COMMANDS[:4])]
)
def test_no_command_runs_what_lies_around(place: Path, start: tuple[str, ...], line: str) -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        [*start, *line.split()], cwd=place, capture_output=True, text=True, check=False, env=env, timeout=300
    )
    marker = place.parent / "MARKER"
    assert not marker.exists(), marker.read_text()
    assert "Traceback" not in done.stderr
    assert done.returncode in (0, 1, 2, 3, 4, 5), done.stderr


def test_every_command_is_tried() -> None:
    names = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    assert names <= {line.split()[0] for line in COMMANDS}
