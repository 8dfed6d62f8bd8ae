"""Models and plug-ins that abort, hang or eat memory end with exit code 3 and a sentence that names them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from attn_export import bundle
from tests.tools.run import run

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PLUGIN = """
import contextlib, os, time
mode = os.environ["EVIL"]
if mode == "import": os.abort()

class Backend:
    def missing(self):
        if mode == "missing": os.abort()
    def version(self): return "Evil 1.0"
    @contextlib.contextmanager
    def open(self, model, options):
        if mode == "open": os.abort()
        def run(feeds):
            if mode == "abort": os.abort()
            if mode == "sleep": time.sleep(60)
            if mode == "raise": raise ValueError("a plug-in's own")
            if mode == "exit": raise SystemExit(0)
            held = []
            while mode == "eat": held.append(bytearray(b"x" * 10_000_000)); time.sleep(0.001)
        yield run

BACKEND = Backend()
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("bundles") / "se"
    assert run("se", "--preset", "test", "--mutants", "none", "--no-bench", "-o", target).code == 0
    return target


def cli(*words: object, folder: Path, **more: str) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join((str(ROOT / "src"), str(folder)))
    command = [sys.executable, "-m", "attn_export", *map(str, words)]
    env = {**os.environ, "PYTHONPATH": paths, **more}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=env, timeout=60)


@pytest.mark.parametrize(
    ("mode", "timeout", "code", "sentence"),
    [
        ("import", 30, 3, "evil died by SIGABRT while importing the backend; nothing was written"),
        ("missing", 30, 3, "evil died by SIGABRT while asking the backend what it needs; nothing was written"),
        ("open", 30, 3, "evil died by SIGABRT while opening the model; the model is kept at "),
        ("abort", 30, 3, "Evil 1.0 died by SIGABRT while running case 'b=1"),
        ("sleep", 2, 3, "Evil 1.0 took longer than 2 s while running case 'b=1"),
        ("eat", 30, 3, "0.5 GB are allowed, and was stopped"),
        ("raise", 30, 3, "evil broke while running case 'b=1"),
        ("exit", 30, 3, "evil broke while running case 'b=1"),
    ],
)
def test_a_plug_in_that_misbehaves_is_named(
    whole: Path, tmp_path: Path, mode: str, timeout: int, code: int, sentence: str
) -> None:
    info = tmp_path / "evil-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: evil\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[attn_export.deploy_tests.backends]\nevil = evil_backend\n")
    (tmp_path / "evil_backend.py").write_text(PLUGIN)
    limits = ("--timeout", str(timeout), "--memory-limit", "0.5")
    done = cli("verify", whole, "--backend", "evil", *limits, folder=tmp_path, EVIL=mode)
    assert sentence in done.stderr
    assert done.returncode == code
    assert len(done.stderr.strip().splitlines()) == 1


def endless(path: Path) -> Path:
    """A loop of 2⁴⁰ rounds, which nothing ends but the parent."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Mul", ["v", "v"], ["w"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", TensorProto.FLOAT, [1, 3]),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("w", TensorProto.FLOAT, [1, 3]),
        ],
    )
    return _saved(path, [helper.make_node("Loop", ["many", "yes", "x"], ["y"], body=body)])


def greedy(path: Path) -> Path:
    """A constant of 8 GB."""
    return _saved(
        path,
        [
            helper.make_node("ConstantOfShape", ["huge"], ["filled"], value=helper.make_tensor("v", 1, [1], [1.0])),
            helper.make_node("ReduceSum", ["filled"], ["total"], keepdims=0),
            helper.make_node("Add", ["x", "total"], ["y"]),
        ],
    )


def _saved(path: Path, nodes: list[onnx.NodeProto]) -> Path:
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3]) for name in "xy"]
    constants = [
        helper.make_tensor("many", TensorProto.INT64, [], [1 << 40]),
        helper.make_tensor("yes", TensorProto.BOOL, [], [True]),
        helper.make_tensor("huge", TensorProto.INT64, [1], [1 << 31]),
    ]
    used = {name for node in nodes for name in node.input}
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], [c for c in constants if c.name in used])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


@pytest.mark.parametrize("make", [endless, greedy])
@pytest.mark.parametrize("command", ["export", "fuse", "lint", "diff"])
def test_a_model_that_never_ends_or_takes_all_is_stopped(tmp_path: Path, make: object, command: str) -> None:
    make(tmp_path / "model.onnx")  # type: ignore[operator]
    words = {"fuse": ("-o", "out.onnx"), "export": ("--mutants", "none", "--no-bench")}.get(command, ())
    limits = ("--timeout", "4", "--memory-limit", "3")
    done = cli(command, "model.onnx", *words, *limits, folder=tmp_path)
    assert done.returncode in (0, 1, 3)
    assert "Traceback" not in done.stderr
    if done.returncode == 3:
        assert "nothing was written" in done.stderr or "expected" in done.stderr
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize(
    ("make", "sentence", "limit"), [(endless, "took longer than 3 s", "3"), (greedy, "GB are allowed", "30")]
)
def test_a_bundle_whose_model_never_ends_or_takes_all_is_stopped(
    tmp_path: Path, whole: Path, make: object, sentence: str, limit: str
) -> None:
    good = bundle.read(whole)
    case = bundle.Case("one", {"x": np.ones((1, 3), np.float32)}, {"y": np.ones((1, 3))}, {"y": 1e-6})
    port = {"name": "x", "dtype": "float32", "shape": [1, 3]}
    content = {
        **good.manifest,
        "inputs": [port],
        "outputs": [{**port, "name": "y"}],
        "dynamic_dims": [],
        "original": None,
        "cases": 1,
    }
    with bundle.writing(tmp_path / "bad") as folder:
        make(folder / bundle.MODEL)  # type: ignore[operator]
        bundle.write_cases(folder / bundle.CASES, (case,))
        bundle.write_manifest(folder, content)
    done = cli("verify", tmp_path / "bad", "--timeout", limit, "--memory-limit", "2", folder=tmp_path)
    assert done.returncode == 3
    assert sentence in done.stderr
    assert "ONNX Runtime" in done.stderr
