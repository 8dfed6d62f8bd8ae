"""A bundle is whole or not there; what was altered is not read."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from attn_export import bundle
from attn_export.bundle import Case
from attn_export.errors import BundleError, WriteError
from tests.artifacts import onnx as onnx_artifact

CASE = Case("b=1", {"x": np.ones((1, 2), np.float32)}, {"y": np.ones((1, 2))}, {"y": 1e-9})
PORT = {"name": "x", "dtype": "float32", "shape": ["b", 2]}
CONTENT = {
    "subject": {"name": "two"},
    "inputs": [PORT],
    "outputs": [{**PORT, "name": "y"}],
    "dynamic_dims": [{"name": "b", "step": 1, "min": 1, "max": None}],
    "artifacts": [onnx_artifact()],
}


def write(target: Path, model: bytes = b"model") -> Path:
    with bundle.writing(target) as folder:
        (folder / bundle.MODEL).write_bytes(model)
        bundle.write_cases(folder / bundle.CASES, (CASE,))
        bundle.write_manifest(folder, CONTENT)
    return target


def swap(file: Path, by: Callable[[Path], object]) -> None:
    """Put something else in a file's place."""
    file.unlink()
    by(file)


def cut(path: Path, text: str) -> None:
    (path / bundle.MANIFEST).write_text(text)


def edit(path: Path, **changes: object) -> None:
    file = path / bundle.MANIFEST
    manifest = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({k: v for k, v in manifest.items() if v is not None}))


def test_what_is_written_is_read(tmp_path: Path) -> None:
    read = bundle.read(write(tmp_path / "two"))
    assert read.name == "two"
    assert read.inputs[0].shape == ("b", 2)
    assert read.dynamic_dims[0].max is None
    (case,) = read.cases
    assert case.name == CASE.name
    assert case.float32_error == CASE.float32_error
    np.testing.assert_array_equal(case.inputs["x"], CASE.inputs["x"])
    assert case.reference["y"].dtype == np.float64
    assert os.listdir(tmp_path) == ["two"], "nothing is left beside it"


def test_an_older_bundle_is_replaced(tmp_path: Path) -> None:
    write(tmp_path / "two", b"old")
    write(tmp_path / "two", b"new")
    assert bundle.read(tmp_path / "two").model.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["two"]


def test_a_failure_leaves_the_older_bundle(tmp_path: Path) -> None:
    write(tmp_path / "two", b"old")
    with pytest.raises(RuntimeError, match="midway"), bundle.writing(tmp_path / "two") as folder:
        (folder / bundle.MODEL).write_bytes(b"half")
        raise RuntimeError("midway")
    assert bundle.read(tmp_path / "two").model.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["two"]


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda p: (p / bundle.MODEL).write_bytes(b"other"), "was altered"),
        (lambda p: (p / bundle.CASES).unlink(), "cases.npz is missing"),
        (lambda p: (p / bundle.MANIFEST).unlink(), "is not a bundle"),
        (lambda p: (p / bundle.MANIFEST).write_text("{"), "cannot be read"),
        (lambda p: (p / bundle.MANIFEST).write_text("[]"), "names no schema version"),
        (lambda p: edit(p, schema_version=2), "is of schema version 2, .* reads version 3; export it again"),
        (lambda p: edit(p, schema_version=None, schema=1), "is of schema version 1, "),
        (lambda p: edit(p, schema_version=None, schema=3), "is of schema version 3, "),
        (lambda p: edit(p, schema_version=True), "names no schema version"),
        (lambda p: edit(p, files={"../model.onnx": "0"}), "not a file inside the bundle"),
        (lambda p: edit(p, files={"/etc/passwd": "0"}), "not a file inside the bundle"),
        (lambda p: edit(p, files={"a//b": "0"}), "not a file inside the bundle"),
        (lambda p: edit(p, files={"manifest.json": "0"}), "not a file inside the bundle"),
        (lambda p: edit(p, files={"model.onnx": 1}), "files.model.onnx: expected str, got int"),
        (lambda p: edit(p, files={"model.onnx": "ab"}), "expected a sha256, got 'ab'"),
        (lambda p: edit(p, files={}), "does not account for cases.npz"),
        (lambda p: edit(p, files={"cases.npz": 64 * "a"}), "'model.onnx' is not among the bundle's files"),
        (lambda p: edit(p, artifacts=[]), "artifacts: expected a length"),
        (lambda p: edit(p, artifacts=None), "artifacts: is missing"),
        (lambda p: edit(p, artifacts=[onnx_artifact(), onnx_artifact()]), "the name 'model' stands twice"),
        (lambda p: edit(p, artifacts=[onnx_artifact(), onnx_artifact(name="b")]), "the name 'model.onnx' stands twice"),
        (lambda p: edit(p, artifacts=[onnx_artifact(file="cases.npz")]), "'cases.npz' is not among"),
        (lambda p: edit(p, artifacts=[onnx_artifact(file="../model.onnx")]), "'../model.onnx' is not among"),
        (lambda p: edit(p, artifacts=[{**onnx_artifact(), "kind": "tflite"}]), "expected a file .tflite for tflite"),
        (lambda p: edit(p, artifacts=[{**onnx_artifact(), "kind": "ncnn"}]), "expected a file .param and a file .bin"),
        (lambda p: edit(p, artifacts=[{**onnx_artifact(), "kind": "a kind"}]), "expected a kind of letters"),
        (lambda p: edit(p, artifacts=[onnx_artifact(name="-o")]), "expected a name of letters"),
        (lambda p: edit(p, artifacts=[{**onnx_artifact(), "files": []}]), "files: expected a length"),
        (lambda p: edit(p, artifacts=[{**onnx_artifact(), "tolerance": {}}]), "tolerance.normalized_limit: is missing"),
        (lambda p: edit(p, inputs=None), "inputs: is missing"),
        (lambda p: edit(p, inputs=[]), "inputs: expected a length"),
        (lambda p: edit(p, inputs=[{**PORT, "dtype": "object"}]), "element type 'object' is not known"),
        (lambda p: edit(p, inputs=[{**PORT, "shape": [-1, 2]}]), r"inputs\[0\].shape\[0\]: expected int or str"),
        (lambda p: edit(p, inputs=[PORT, PORT]), "the name 'x' stands twice"),
        (lambda p: edit(p, inputs=[{**PORT, "name": "z"}]), "expected z, got x"),
        (lambda p: edit(p, outputs=[{**PORT, "name": "y", "shape": ["b", 3]}]), "expected bx3, got the shape"),
        (lambda p: edit(p, inputs=[{**PORT, "dtype": "float64"}]), "expected float64, got float32"),
        (lambda p: edit(p, dynamic_dims=[{"name": "b", "min": 2, "max": 1}]), "at most 1 and at least 2"),
        (lambda p: edit(p, cases=["b=2"]), "holds other cases than the manifest counts"),
        (lambda p: edit(p, cases=["b=1", "b=3"]), r"holds other cases than the manifest counts \(2\)"),
        (lambda p: edit(p, colour="red"), "colour: there is no such field"),
        (lambda p: (p / "model.onnx.data").write_bytes(b"weights"), "'model.onnx.data', which its manifest does not"),
        (lambda p: (p / "empty").mkdir(), "'empty', which its manifest does not list"),
        (lambda p: (p / "more").symlink_to("model.onnx"), "is a link"),
        (lambda p: os.mkfifo(p / "pipe"), "'pipe', which its manifest does not list"),
        (lambda p: swap(p / bundle.MODEL, os.mkfifo), "expected a file at .*, got a pipe"),
        (lambda p: swap(p / bundle.MANIFEST, os.mkfifo), "expected a file at .*, got a pipe"),
        (lambda p: swap(p / bundle.MANIFEST, lambda f: f.symlink_to("/dev/zero")), "is a link"),
        (lambda p: edit(p, artifacts=[onnx_artifact("float16")]), "tolerance.snr_db_limit: is missing"),
        (
            lambda p: edit(p, artifacts=[onnx_artifact(snr_db_limit=110.0)]),
            "float32 is held to normalized_limit alone",
        ),
        (lambda p: cut(p, "]" * 10), "cannot be read"),
        (lambda p: cut(p, "[" * 100_000), "nests deeper than 64"),
        (lambda p: cut(p, '{"schema_version": 3, "schema_version": 3}'), "'schema_version' stands twice"),
        (lambda p: cut(p, '{"schema_version": ' + "9" * 5000 + "}"), "an integer of 5000 digits"),
        (lambda p: cut(p, '{"schema_version": 3, "opset": NaN}'), "NaN is not a JSON number"),
        (lambda p: cut(p, '{"schema_version": 3, "attn_export": "\\ud800"}'), "surrogates not allowed"),
    ],
)
def test_what_is_not_whole_is_refused(tmp_path: Path, harm: object, message: str) -> None:
    path = write(tmp_path / "two")
    harm(path)  # type: ignore[operator]
    with pytest.raises(BundleError, match=message):
        bundle.read(path)


def test_a_link_out_of_the_bundle_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "two")
    (tmp_path / "elsewhere").write_bytes(b"model")
    (path / bundle.MODEL).unlink()
    (path / bundle.MODEL).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleError, match="is a link"):
        bundle.read(path)


def test_pickles_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "two")
    np.savez(path / bundle.CASES, names=np.array([object()], dtype=object))
    edit(path, files={name: bundle.sha256(path / name) for name in (bundle.MODEL, bundle.CASES)})
    with pytest.raises(BundleError, match=r"cannot be read as arrays: .* holds objects"):
        bundle.read(path)


def test_a_bundle_without_cases_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "cases.npz"
    bundle.write_cases(file, ())
    with pytest.raises(BundleError, match="holds no cases"):
        bundle.read_cases(file)


def test_a_folder_that_is_no_bundle_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years")
    with pytest.raises(WriteError, match="is not a bundle"):
        write(tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "years"


def test_where_nothing_can_be_written_is_said_in_one_sentence() -> None:
    with pytest.raises(WriteError, match=r"cannot write the bundle /proc/two: .*; free some space or choose"):
        write(Path("/proc/two"))


CHILD = """
import os, resource, signal, sys
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.test_bundle import write
from attn_export import bundle
from attn_export.bundle import writer
from attn_export.errors import WriteError
mode, target = sys.argv[1], Path(sys.argv[2])
if mode == "full":
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    try:
        write(target, b"m" * 100_000)
    except WriteError as error:
        sys.exit(f"said: {{error}}")
elif mode == "write":
    bundle.write_manifest = lambda *a: os.kill(os.getpid(), signal.SIGKILL)
    write(target, b"new")
elif mode == "flush":
    writer._flush = lambda path: os.kill(os.getpid(), signal.SIGKILL)
    write(target, b"new")
elif mode == "replaced":
    writer.shutil.rmtree = lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL)
    write(target, b"new")
"""


def child(mode: str, target: Path) -> subprocess.CompletedProcess[str]:
    code = CHILD.format(root=str(Path(__file__).parents[1]))
    return subprocess.run([sys.executable, "-c", code, mode, str(target)], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("mode", ["write", "flush", "replaced"])
@pytest.mark.parametrize("older", [False, True])
def test_a_kill_leaves_no_bundle_or_a_whole_one(tmp_path: Path, mode: str, older: bool) -> None:
    target = tmp_path / "two"
    if older:
        write(target, b"old")
    assert child(mode, target).returncode == -signal.SIGKILL
    if mode == "replaced":
        assert bundle.read(target).model.read_bytes() == b"new"
    elif older:
        assert bundle.read(target).model.read_bytes() == b"old"
    else:
        assert not target.exists()
    write(target, b"next")
    assert os.listdir(tmp_path) == ["two"], "the next run removes what the killed one left"


def test_a_full_disk_is_one_sentence_and_leaves_the_older_bundle(tmp_path: Path) -> None:
    write(tmp_path / "two", b"old")
    done = child("full", tmp_path / "two")
    assert "said: cannot write the bundle" in done.stderr
    assert "Traceback" not in done.stderr
    assert bundle.read(tmp_path / "two").model.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["two"]
