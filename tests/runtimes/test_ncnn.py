"""ncnn: what pnnx writes is right or refused, and a file is run at its own sizes, in float32, under its own names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attn_export import bundle
from attn_export.deploy_tests import backends
from attn_export.deploy_tests.backend import Options
from attn_export.deploy_tests.backends.ncnn import backend as ncnn
from attn_export.deploy_tests.parity.verify import verify
from attn_export.errors import BackendError, ExportError, GateError
from attn_export.export.converters import CONVERTERS
from attn_export.export.converters.ncnn import converter, pnnx
from attn_export.types import Dim
from tests.edge import needs
from tests.runtimes.planted_graph import Change, Planted, make, offer, on_the_device, one_channel_more, zeroed

needs("ncnn", "pnnx")
pytestmark = pytest.mark.edge

BACKEND = backends.BACKENDS["ncnn"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bundle.Bundle:
    return make("repvgg", tmp_path_factory.mktemp("ncnn") / "b", "ncnn", "ncnn:fp16", fuse=True).bundle


def test_a_file_of_one_image_is_proven_on_every_batch(whole: bundle.Bundle) -> None:
    one = whole.artifact("ncnn")
    assert [path.name for path in one.files] == ["ncnn.param", "ncnn.bin", "ncnn.json"]
    assert one.narrowed_dims[0] == Dim("b", 1, 1)
    parity = verify(whole, "ncnn", artifact="ncnn")
    assert parity.ok
    compared = {row.case for row in parity.comparisons}
    assert {len(case.inputs["x"]) for case in whole.cases if case.name in compared} > {1}


def test_weights_in_float16_are_held_to_what_those_can_give(whole: bundle.Bundle) -> None:
    half = whole.artifact("ncnn-fp16")
    assert (half.precision, half.snr_db_limit) == ("float16", 40.0)
    assert half.files[1].stat().st_size < 0.6 * whole.artifact("ncnn").files[1].stat().st_size
    assert verify(whole, "ncnn", artifact="ncnn-fp16").ok


@pytest.mark.parametrize("name", ["repvgg", "se", "self_attention"])
def test_a_device_needs_neither_torch_nor_onnx(name: str, whole: bundle.Bundle, tmp_path: Path) -> None:
    """Where pnnx finds no batch, as in an attention, every axis is ncnn's."""
    made = whole.path if name == "repvgg" else make(name, tmp_path / "b", "ncnn").bundle.path
    layout = json.loads((made / "ncnn.json").read_text())
    assert {port["batch"] for port in layout["outputs"]} == {None if name == "self_attention" else 0}
    done = on_the_device("verify", made, "--backend", "ncnn", "--json")
    assert done.returncode == 0, done.stderr
    rows = {row["artifact"]: row["parity"] for row in json.loads(done.stdout)["runs"]}
    assert rows["ncnn"]["ok"]


@pytest.mark.parametrize("change", [zeroed, one_channel_more], ids=lambda change: change.__name__)
def test_a_wrong_file_is_caught(change: Change, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, Planted("ncnn", change))
    with pytest.raises(GateError, match="after 'convert': parity fails on ncnn"):
        make("repvgg", tmp_path / "b", "planted", fuse=True)
    assert not (tmp_path / "b").exists()


def test_what_the_converter_writes_left_alone_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It rounds weights to float16, and says so nowhere."""
    right = pnnx.run

    def by_default(folder: Path, model: str, shapes: str, *, half: bool) -> str:
        return right(folder, model, shapes, half=True)

    monkeypatch.setattr(pnnx, "run", by_default)
    with pytest.raises(GateError, match="after 'convert': parity fails on ncnn"):
        make("repvgg", tmp_path / "b", "ncnn", fuse=True)


@pytest.mark.parametrize("name", ["mlp_mixer", "triplet", "aft_simple", "external"])
def test_reductions_that_it_loses_are_written_so_that_it_reads_them(name: str, tmp_path: Path) -> None:
    """A mean, a largest value and a sum over one axis, and the logarithm of a softmax."""
    made = make(name, tmp_path / "b", "ncnn").bundle
    assert verify(made, "ncnn", artifact="ncnn").ok


def test_an_axis_too_many_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What pnnx makes of a mean whose only axis is an input: nothing."""
    monkeypatch.setattr(converter, "readable", lambda model, *_: model)
    with pytest.raises(GateError, match=r"expected shape \(1, 10\), got \(1, 16, 10\); nothing was written"):
        make("mlp_mixer", tmp_path / "b", "ncnn")


def test_a_layer_that_ncnn_lacks_is_said_with_the_nodes(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"^ncnn has no layer for Gather '\w+', .* wrote it all the same$"):
        make("gmlp", tmp_path / "b", "ncnn")


def test_what_rounds_is_off_and_read_back(monkeypatch: pytest.MonkeyPatch) -> None:
    import ncnn as library

    net = library.Net()
    assert any(getattr(net.opt, name) for name in ncnn.ROUNDING), "left alone it would round"
    ncnn.configure(net.opt, 1)
    assert not any(getattr(net.opt, name) for name in ncnn.ROUNDING)

    class Stuck:
        use_fp16_packed = property(lambda self: True, lambda self, value: None)

    with pytest.raises(BackendError, match="expected use_fp16_packed to be off, got True"):
        ncnn.configure(Stuck(), 1)
    monkeypatch.setattr(ncnn, "ROUNDING", ("use_new_rounding",))
    with pytest.raises(BackendError, match="expected use_new_rounding to be off, got no such option"):
        ncnn.configure(net.opt, 1)


def test_other_sizes_and_other_precisions_are_refused(whole: bundle.Bundle) -> None:
    path = whole.artifact("ncnn").path
    with (
        BACKEND.open(path, Options()) as run,
        pytest.raises(BackendError, match=r"expected x of shape \[1, 3, 64, 64\], got \[2, 3, 64, 64\]"),
    ):
        run({"x": np.zeros((2, 3, 64, 64), np.float32)})
    with pytest.raises(BackendError, match="expected a file of float32 or float16, got bfloat16"):
        BACKEND.open(path, Options(precision="bfloat16")).__enter__()


def copied(whole: bundle.Bundle, folder: Path, **other: bytes) -> Path:
    for path in whole.artifact("ncnn").files:
        (folder / path.name).write_bytes(other.get(path.suffix[1:], path.read_bytes()))
    return folder / "ncnn.param"


def test_a_broken_file_is_an_error_and_no_crash(whole: bundle.Bundle, tmp_path: Path, capfd: Any) -> None:
    unknown = whole.artifact("ncnn").path.read_bytes().replace(b"Reduction", b"Reducing_")
    with pytest.raises(BackendError, match=r"does not load .*: layer Reducing_ not exists"):
        BACKEND.open(copied(whole, tmp_path, param=unknown), Options()).__enter__()
    with pytest.raises(BackendError, match="does not load"):
        BACKEND.open(copied(whole, tmp_path, bin=b""), Options()).__enter__()
    assert capfd.readouterr() == ("", ""), "what it prints stands in the error"


def test_a_file_without_names_is_refused(whole: bundle.Bundle, tmp_path: Path) -> None:
    path = copied(whole, tmp_path)
    path.with_suffix(".json").unlink()
    with pytest.raises(BackendError, match="expected the names and sizes of inputs and outputs, got FileNotFound"):
        BACKEND.open(path, Options()).__enter__()


def test_the_same_model_gives_the_same_files(whole: bundle.Bundle, tmp_path: Path) -> None:
    again = make("repvgg", tmp_path / "b", "ncnn", fuse=True).bundle
    pairs = zip(whole.artifact("ncnn").files, again.artifact("ncnn").files, strict=True)
    assert all(one.read_bytes() == other.read_bytes() for one, other in pairs)


def test_a_converter_that_does_not_end_is_ended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "slow").write_text("#!/bin/sh\nsleep 60\n")
    (tmp_path / "slow").chmod(0o755)
    monkeypatch.setattr(pnnx, "program", lambda: tmp_path / "slow")
    monkeypatch.setattr(pnnx, "LIMIT", 0.5)
    with pytest.raises(ExportError, match=r"pnnx \d+ did not end within 0.5 s; convert a smaller model"):
        pnnx.run(tmp_path, "model.onnx", "[1]f32", half=False)
    (tmp_path / "slow").write_text("#!/bin/sh\necho 'no such input'\nexit 3\n")
    with pytest.raises(ExportError, match=r"does not take the model \(exit code 3\): no such input"):
        pnnx.run(tmp_path, "model.onnx", "[1]f32", half=False)
    (tmp_path / "slow").write_text("#!/bin/sh\nkill -SEGV $$\n")
    with pytest.raises(ExportError, match=r"\(it died by SIGSEGV\)"):
        pnnx.run(tmp_path, "model.onnx", "[1]f32", half=False)


def test_bfloat16_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="ncnn: expected a model to be computed in float32 or float16"):
        make("se", tmp_path / "b", "ncnn:bf16")
    assert CONVERTERS["ncnn"].missing() is None
