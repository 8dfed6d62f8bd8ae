"""``attn-export fuse`` on files whose weights lie elsewhere: read from any folder, written whole or not at all."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from tests.reparam.old_nets import NETS, OPSETS
from tests.tools.run import run

NET = next(net for net in NETS if net.name == "shuffled-crd")
X = np.random.default_rng(0).standard_normal((2, 4, 12, 12)).astype(np.float32)


def answer(file: Path) -> np.ndarray[Any, Any]:
    session = ort.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": X})[0])


def external(file: Path) -> dict[str, bool]:
    tensors = onnx.load(file, load_external_data=False).graph.initializer
    return {tensor.name: tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in tensors}


def far(folder: Path, opset: int = 17) -> Path:
    """Tensors from 100 bytes on lie in a folder below the model's, smaller ones in it."""
    (folder / "in" / "weights").mkdir(parents=True)
    file = folder / "in" / "far.onnx"
    onnx.save_model(NET.model(opset), file, save_as_external_data=True, size_threshold=100, location="weights/all.bin")
    assert set(external(file).values()) == {False, True}
    return file


@pytest.mark.parametrize("opset", [OPSETS[0], OPSETS[-1]])
@pytest.mark.parametrize("limit", [100, 10**9], ids=["above", "below"])
def test_weights_in_another_folder(limit: int, opset: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attn_export.export.onnx.save.EXTERNAL", limit)  # as if it had more than 2 GB
    file = far(tmp_path, opset)
    before = {path: path.read_bytes() for path in file.parent.rglob("*.*")}
    output = tmp_path / "out" / "fused.onnx"
    output.parent.mkdir()
    done = run("fuse", file, "-o", output)
    assert done.code == 0, done
    assert [node.op_type for node in onnx.load(output).graph.node].count("Conv") == 1
    assert np.allclose(answer(output), answer(file), rtol=1e-4, atol=1e-5)
    onnx.checker.check_model(str(output), full_check=True)
    written = ["fused.onnx", *(["fused.onnx.data"] if limit == 100 else [])]
    assert sorted(path.name for path in output.parent.iterdir()) == written
    assert any(external(output).values()) is (limit == 100)
    assert {path: path.read_bytes() for path in file.parent.rglob("*.*")} == before
    wanted = answer(file)
    for path in before:
        path.unlink()
    assert np.allclose(answer(output), wanted, rtol=1e-4, atol=1e-5), "it needs nothing of what it came from"


def test_over_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attn_export.export.onnx.save.EXTERNAL", 100)
    file = tmp_path / "m.onnx"
    onnx.save_model(NET.model(17), file, save_as_external_data=True, size_threshold=0, location="m.onnx.data")
    wanted = answer(file)
    assert run("fuse", file, "-o", file).code == 0
    assert np.allclose(answer(file), wanted, rtol=1e-4, atol=1e-5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.onnx", "m.onnx.data"]


@pytest.mark.parametrize("limit", [100, 10**9], ids=["above", "below"])
def test_a_full_disk_leaves_what_was_there(limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = far(tmp_path)
    monkeypatch.setattr("attn_export.export.onnx.save.EXTERNAL", limit)
    output = tmp_path / "out" / "fused.onnx"
    output.parent.mkdir()
    assert run("fuse", file, "-o", output).code == 0
    before = {path.name: path.read_bytes() for path in output.parent.iterdir()}

    def half(model: onnx.ModelProto, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("attn_export.tools.commands.graphs.save", half)
    done = run("fuse", file, "-o", output)
    assert done.code == 3
    assert "No space left" in done.err
    assert {path.name: path.read_bytes() for path in output.parent.iterdir()} == before


def test_weights_that_are_gone_are_named(tmp_path: Path) -> None:
    file = far(tmp_path)
    weights = file.parent / "weights" / "all.bin"
    weights.write_bytes(weights.read_bytes()[:-1])
    done = run("fuse", file, "-o", tmp_path / "fused.onnx")
    assert (done.code, "all.bin, which ends before them" in done.err) == (3, True)
    weights.unlink()
    done = run("fuse", file, "-o", tmp_path / "fused.onnx")
    assert (done.code, "all.bin, which is not there" in done.err) == (3, True)
    assert not (tmp_path / "fused.onnx").exists()
