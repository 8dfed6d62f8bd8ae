"""OpenVINO: what it writes is right, runs in the element type that was asked for, and nothing is reported home."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from attn_export import bundle
from attn_export.deploy_tests import backends
from attn_export.deploy_tests.backend import Options
from attn_export.deploy_tests.backends.openvino import backend as openvino
from attn_export.deploy_tests.parity.verify import verify
from attn_export.errors import BackendError, ExportError, GateError
from attn_export.export.converters import CONVERTERS, Source
from attn_export.export.onnx.exported import Contract, Exported
from attn_export.types import TensorSpec
from tests.edge import needs
from tests.runtimes.planted_graph import Change, Planted, make, offer, on_the_device, one_channel_more, zeroed
from tests.test_telemetry import child, left

needs("openvino")
pytestmark = pytest.mark.edge

BACKEND = backends.BACKENDS["openvino"]


def has_bf16() -> bool:
    """Whether this processor has it: without, the runtime can only compute in float32."""
    return "BF16" in openvino._openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bundle.Bundle:
    """A bundle with each precision that this processor has."""
    folder = tmp_path_factory.mktemp("openvino") / "b"
    return make("repvgg", folder, "openvino", *["openvino:bf16"] * has_bf16(), fuse=True).bundle


def test_bfloat16_is_held_to_its_own_limit_and_refused_where_the_processor_lacks_it(tmp_path: Path) -> None:
    """A file that was not proven is not handed over."""
    if not has_bf16():
        with pytest.raises(BackendError, match=r"expected to compute .* in bf16, got f32: this processor has nothing"):
            make("repvgg", tmp_path / "b", "openvino:bf16", fuse=True)
        assert not (tmp_path / "b").exists()
        return
    whole = make("repvgg", tmp_path / "b", "openvino:bf16", fuse=True).bundle
    rounded = whole.artifact("openvino-bf16")
    assert (rounded.kind, rounded.precision, rounded.snr_db_limit) == ("openvino", "bfloat16", 20.0)
    assert [path.name for path in rounded.files] == ["openvino-bf16.xml", "openvino-bf16.bin"]
    assert {run["artifact"]: run["parity"]["ok"] for run in bundle.report(whole)["runs"]}["openvino-bf16"]


def test_a_bundle_holds_float32_held_to_the_noise_floor(whole: bundle.Bundle) -> None:
    plain = whole.artifact("openvino")
    assert (plain.kind, plain.precision, plain.snr_db_limit) == ("openvino", "float32", None)
    assert plain.narrowed_dims == (), "sizes that may vary still may"
    parity = verify(whole, "openvino", artifact="openvino")
    assert parity.ok
    assert len(parity.comparisons) == len(whole.cases)
    noise = {run["artifact"]: run["parity"] for run in bundle.report(whole)["runs"]}
    assert noise["openvino"]["ok"]


def test_the_model_itself_is_taken_too(whole: bundle.Bundle) -> None:
    assert verify(whole, "openvino", artifact="model").ok


@pytest.mark.parametrize("name", ["repvgg", "se"])
def test_a_device_needs_neither_torch_nor_onnx(name: str, whole: bundle.Bundle, tmp_path: Path) -> None:
    made = whole.path if name == "repvgg" else make(name, tmp_path / "b", "openvino").bundle.path
    done = on_the_device("verify", made, "--backend", "openvino", "--json")
    assert done.returncode == 0, done.stderr
    rows = {row["artifact"]: row["parity"] for row in json.loads(done.stdout)["runs"]}
    assert all(row["ok"] for row in rows.values())
    assert "openvino" in rows


def test_a_profile_names_the_nodes_of_the_graph(whole: bundle.Bundle) -> None:
    done = on_the_device(
        "bench", whole.path, "--backend", "openvino", "--profile", "--duration", "0", "--iterations", "1", "--json"
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["runs"][0]["profile"]["rows"]
    assert any(set(row["nodes"]) == {"stem.fused_Conv_1", "node_relu"} for row in rows), rows


@pytest.mark.parametrize("change", [zeroed, one_channel_more], ids=lambda change: change.__name__)
def test_a_wrong_file_is_caught(change: Change, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, Planted("openvino", change))
    with pytest.raises(GateError, match="after 'convert': parity fails on OpenVINO"):
        make("repvgg", tmp_path / "b", "planted", fuse=True)
    assert not (tmp_path / "b").exists()


def test_what_the_converter_writes_left_alone_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It rounds weights to float16, and says so nowhere."""
    library = openvino._openvino()
    write = library.save_model

    def by_default(model: Any, path: str, **_: Any) -> None:
        write(model, path)

    monkeypatch.setattr(library, "save_model", by_default)
    with pytest.raises(GateError, match="after 'convert': parity fails on OpenVINO"):
        make("repvgg", tmp_path / "b", "openvino", fuse=True)


def test_a_run_in_another_precision_is_caught(whole: bundle.Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a processor has bfloat16 the answer is wrong; elsewhere the runtime says that it computes in another."""
    monkeypatch.setitem(openvino.HINTS, "float32", "bf16")
    if has_bf16():
        assert not verify(whole, "openvino", artifact="openvino").ok
        return
    with pytest.raises(BackendError, match="in bf16, got f32"):
        verify(whole, "openvino", artifact="openvino")


@pytest.mark.parametrize("asked", ["float32", "bfloat16"])
def test_the_precision_is_read_back(asked: str, whole: bundle.Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    library = openvino._openvino()

    class Core(library.Core):  # type: ignore[misc, name-defined]  # untyped
        def compile_model(self, model: Any, device: str, settings: dict[str, Any]) -> Any:
            other = {"f32": "bf16", "bf16": "f32"}[settings["INFERENCE_PRECISION_HINT"]]
            return super().compile_model(model, device, {**settings, "INFERENCE_PRECISION_HINT": other})

    wrong = asked == "bfloat16" or has_bf16()
    monkeypatch.setattr(library, "Core", Core)
    expected = pytest.raises(BackendError, match=r"expected to compute model\.onnx in b?f.*, got b?f")
    with expected if wrong else nullcontext(), BACKEND.open(whole.model, Options(precision=asked)):
        pass


def one_node(node: onnx.NodeProto, *domains: str, shape: tuple[int, ...] = (2, 3)) -> onnx.ModelProto:
    sizes = [numpy_helper.from_array(np.array([2, 4]), "sizes")]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "y"))
    before = helper.make_node("Relu", ["x"], ["a"], name="before")
    graph = helper.make_graph([before, node], "g", [x], [y], sizes)
    opsets = [helper.make_opsetid(domain, 1 if domain else 18) for domain in ("", *domains)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


@pytest.mark.parametrize(
    ("node", "domains", "said"),
    [
        (helper.make_node("Foo", ["a"], ["y"], name="own", domain="com.x"), ("com.x",), "Foo 'own': it knows no such"),
        (helper.make_node("Det", ["a"], ["y"], name="det"), (), "Det 'det': it knows no such operator"),
        (helper.make_node("Reshape", ["a", "sizes"], ["y"], name="cut"), (), "Reshape 'cut': Check '"),
    ],
    ids=["domain", "operator", "broken"],
)
def test_a_refusal_names_the_node(node: onnx.NodeProto, domains: tuple[str, ...], said: str) -> None:
    contract = Contract(18, (TensorSpec("x", "float32", (2, 3)),), (TensorSpec("y", "float32", (2, 3)),))
    source = Source(Exported(one_node(node, *domains), contract), {"x": np.zeros((2, 3), np.float32)})
    with pytest.raises(ExportError, match=f"OpenVINO .* does not take {said}"):
        CONVERTERS["openvino"].convert(source)


def test_a_shape_that_the_file_does_not_take_is_refused(whole: bundle.Bundle) -> None:
    """Where a size is fixed the runtime itself does not look."""
    feeds = {"x": np.zeros((1, 4, 64, 64), np.float32)}
    with BACKEND.open(whole.artifact("openvino").path, Options()) as run:
        with pytest.raises(BackendError, match=r"expected x of shape .*3.*, got \[1, 4, 64, 64\]"):
            run(feeds)
        with pytest.raises(BackendError, match="expected inputs x, got z"):
            run({"z": feeds["x"]})


def test_a_broken_file_is_an_error_of_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "text.xml").write_text("no model")
    with (
        pytest.raises(BackendError, match=r"OpenVINO .* does not load .*text\.xml: "),
        BACKEND.open(tmp_path / "text.xml", Options()),
    ):
        pass


def test_the_same_model_gives_the_same_files(whole: bundle.Bundle, tmp_path: Path) -> None:
    again = make("repvgg", tmp_path / "b", "openvino", fuse=True).bundle
    pairs = zip(whole.artifact("openvino").files, again.artifact("openvino").files, strict=True)
    assert all(one.read_bytes() == other.read_bytes() for one, other in pairs)


#: Says each connection, and each question for an address, that Python makes; it reports from a process that is forked,
#: and ends without writing out what was printed.
WATCH = (
    "import os, sys\n"
    "names = {'socket.connect', 'socket.getaddrinfo'}\n"
    "sys.addaudithook(lambda event, words: os.write(1, event.encode()) if event in names else None)\n"
)


def test_left_alone_it_reports_home_as_soon_as_it_is_imported(tmp_path: Path) -> None:
    """What the next test would see."""
    done = child(tmp_path, "-c", f"{WATCH}import openvino, time\ntime.sleep(1)")
    assert "socket." in done.stdout, "it reports no more? then say so in docs/security.md"
    assert left(tmp_path) != []


@pytest.mark.parametrize("command", ["doctor", "verify", "main job"])
def test_nothing_is_reported_home(command: str, whole: bundle.Bundle, tmp_path: Path) -> None:
    words = {
        "doctor": ["doctor"],
        "verify": ["verify", str(whole.path), "--backend", "openvino"],
        "main job": ["se", "--preset", "test", "--to", "openvino", "--no-bench", "--mutants", "none", "--no-cache"],
    }[command]
    code = f"{WATCH}import runpy\nsys.argv[0] = 'x'\nrunpy.run_module('attn_export', run_name='__main__')"
    done = child(tmp_path, "-c", code, *words)
    assert done.returncode == 0, done.stderr
    assert "socket." not in done.stdout
    assert left(tmp_path) == []
