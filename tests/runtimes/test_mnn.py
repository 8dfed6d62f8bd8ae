"""MNN: what its converter writes is right, at every size, and neither half of the package reports home."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from attn_export import bundle
from attn_export.deploy_tests import backends
from attn_export.deploy_tests.backend import Options
from attn_export.deploy_tests.backends.mnn import backend
from attn_export.deploy_tests.parity.verify import verify
from attn_export.errors import BackendError, ExportError, GateError
from attn_export.export.converters import CONVERTERS
from attn_export.export.converters.mnn import converter, worker
from attn_export.types import TensorSpec
from tests.edge import needs
from tests.runtimes.planted_graph import Change, Planted, largest, make, offer, on_the_device, one_channel_more, zeroed

needs("MNN")
pytestmark = pytest.mark.edge

BACKEND = backends.BACKENDS["mnn"]


def negated(model: onnx.ModelProto) -> None:
    """A sign is lost."""
    weight = largest(model)
    weight.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(weight), weight.name))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bundle.Bundle:
    return make("repvgg", tmp_path_factory.mktemp("mnn") / "b", "mnn", fuse=True).bundle


def options(whole: bundle.Bundle) -> Options:
    return Options(inputs=whole.inputs, outputs=whole.outputs)


def test_a_file_is_proven_at_every_size_that_the_model_has(whole: bundle.Bundle) -> None:
    one = whole.artifact("mnn")
    assert [path.name for path in one.files] == ["mnn.mnn"]
    assert (one.kind, one.precision, one.narrowed_dims) == ("mnn", "float32", ())
    parity = verify(whole, "mnn", artifact="mnn")
    assert parity.ok
    assert {row.case for row in parity.comparisons} == {case.name for case in whole.cases}
    assert not parity.left_out


@pytest.mark.parametrize("name", ["repvgg", "self_attention"])
def test_a_device_needs_neither_torch_nor_onnx(name: str, whole: bundle.Bundle, tmp_path: Path) -> None:
    made = whole.path if name == "repvgg" else make(name, tmp_path / "b", "mnn").bundle.path
    done = on_the_device("verify", made, "--backend", "mnn", "--json")
    assert done.returncode == 0, done.stderr
    rows = {row["artifact"]: row["parity"] for row in json.loads(done.stdout)["runs"]}
    assert rows["mnn"]["ok"]


@pytest.mark.parametrize("change", [zeroed, one_channel_more, negated], ids=lambda change: change.__name__)
def test_a_wrong_file_is_caught(change: Change, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, Planted("mnn", change))
    with pytest.raises(GateError, match="after 'convert': parity fails on MNN"):
        make("repvgg", tmp_path / "b", "planted", fuse=True)
    assert not (tmp_path / "b").exists()


def test_the_same_model_gives_the_same_file(whole: bundle.Bundle, tmp_path: Path) -> None:
    again = make("repvgg", tmp_path / "b", "mnn", fuse=True).bundle
    assert again.artifact("mnn").path.read_bytes() == whole.artifact("mnn").path.read_bytes()


def test_other_precisions_and_bare_files_are_refused(whole: bundle.Bundle, tmp_path: Path) -> None:
    path = whole.artifact("mnn").path
    with pytest.raises(BackendError, match="expected a file of float32, got bfloat16"):
        BACKEND.open(path, Options(precision="bfloat16")).__enter__()
    with pytest.raises(BackendError, match="MNN finds inputs and outputs by name"):
        BACKEND.open(path, Options()).__enter__()
    with pytest.raises(ExportError, match="mnn: expected a model to be computed in float32, got float16"):
        make("se", tmp_path / "b", "mnn:fp16")
    assert CONVERTERS["mnn"].missing() is None


@pytest.mark.parametrize("content", [b"", b"no model at all, but a text of some length"])
def test_a_broken_file_is_an_error_and_no_crash(content: bytes, whole: bundle.Bundle, tmp_path: Path) -> None:
    (tmp_path / "mnn.mnn").write_bytes(content)
    code = (
        "import sys; from pathlib import Path\n"
        "from attn_export.deploy_tests.backends import BACKENDS\n"
        "from attn_export.deploy_tests.backend import Options\n"
        "from attn_export.types import TensorSpec\n"
        "x = TensorSpec('x', 'float32', (1, 3, 64, 64)),\n"
        "BACKENDS['mnn'].open(Path(sys.argv[1]), Options(inputs=x, outputs=x)).__enter__()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "mnn.mnn")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stderr
    assert "BackendError: MNN 3.6.1, CPU does not load" in done.stderr


def test_names_that_the_file_has_not_are_an_error(whole: bundle.Bundle) -> None:
    other = (TensorSpec("z", "float32", (1,)),)
    with pytest.raises(BackendError, match="does not load"):
        BACKEND.open(whole.artifact("mnn").path, Options(inputs=other, outputs=whole.outputs)).__enter__()


def test_an_integer_beyond_32_bits_is_refused(whole: bundle.Bundle) -> None:
    with (
        BACKEND.open(whole.artifact("mnn").path, options(whole)) as run,
        pytest.raises(BackendError, match="x holds integers beyond 32 bits"),
    ):
        run({"x": np.full((1, 3, 64, 64), 2**40, np.int64)})


def test_a_file_that_is_no_model_is_refused_with_what_was_said(tmp_path: Path) -> None:
    (tmp_path / "junk.onnx").write_bytes(b"junk")
    done = converter.children.run(worker.__name__, str(tmp_path / "junk.onnx"), str(tmp_path / "junk.mnn"))
    assert not (tmp_path / "junk.mnn").exists()
    assert any("not onnx" in line for line in converter.complaints(done.stdout + done.stderr)), done


def test_a_converter_that_does_not_end_is_ended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(converter, "LIMIT", 0.01)
    with pytest.raises(ExportError, match=r"MNN 3.6.1 did not end within 0.01 s; convert a smaller model"):
        make("se", tmp_path / "b", "mnn")


def test_nothing_is_sent_and_nothing_installed(whole: bundle.Bundle, tmp_path: Path) -> None:
    """The package's own command imports a logger that runs pip and opens an address: it is never imported."""
    code = (
        "import sys; from pathlib import Path\n"
        "from attn_export.export.converters.mnn import worker\n"
        "from attn_export.deploy_tests.backends import BACKENDS\n"
        "worker.main(sys.argv[1], sys.argv[2])\n"
        "import MNN.nn, MNN.expr\n"
        "print(sorted(name for name in sys.modules if name.startswith(('MNN.tools', 'aliyun'))))\n"
    )
    words = [sys.executable, "-c", code, str(whole.model), str(tmp_path / "m.mnn")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1] == "[]", done
    assert (tmp_path / "m.mnn").is_file()


def test_large_kernels_are_right_only_without_winograd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make("gam", tmp_path / "b", "mnn")
    monkeypatch.setattr(backend, "UNUSED", 3)
    with pytest.raises(GateError, match="parity fails on MNN"):
        make("gam", tmp_path / "c", "mnn")


def test_outputs_are_brought_back_to_the_models_layout(tmp_path: Path) -> None:
    """MNN computes convolutions in blocks of four channels."""
    found: Any = make("se", tmp_path / "b", "mnn").bundle
    case = found.cases[0]
    with BACKEND.open(found.artifact("mnn").path, options(found)) as run:
        assert run(case.inputs)["y"].shape == case.reference["y"].shape
