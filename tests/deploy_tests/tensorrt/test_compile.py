"""E1: NVIDIA's parser and builder accept a graph for a named GPU, and the plan shows what was fused."""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from attn_export.deploy_tests.backends.tensorrt import bindings, evidence, supervise
from attn_export.deploy_tests.backends.tensorrt.evidence import compile_only
from attn_export.deploy_tests.backends.tensorrt.request import Request
from attn_export.deploy_tests.compiling.evidence import graph_hash
from attn_export.deploy_tests.refusal import RefusedError
from attn_export.errors import BackendError, BackendMissingError
from attn_export.types import ShapeRange
from tests.deploy_tests.tensorrt import graphs

pytestmark = pytest.mark.usefixtures("rtx")


def test_the_claim_is_no_more_than_the_evidence(tmp_path: Path) -> None:
    model = graphs.attention(tmp_path / "a.onnx", "float16")
    shown = compile_only(model, "86")
    assert shown.summary() == "builds under TensorRT for RTX 1.7.1 (SM86), not run"
    report = json.loads(json.dumps(shown.to_dict()))
    assert report["level"] == "E1"
    assert report["executed"] is False
    assert report["meaning"] == (
        "NVIDIA's parser and builder accepted this very graph (sha256) for SM 86, and the fused plan shows what we say"
    )
    assert report["sha256"] == graph_hash(model)
    assert report["plan"]["kernels"] == len(shown.plan.kernels) > 0


@pytest.mark.parametrize("blocks", [1, 3])
def test_float16_attention_fuses_and_float32_does_not(blocks: int, tmp_path: Path) -> None:
    half = compile_only(graphs.attention(tmp_path / "half.onnx", "float16", blocks)).plan
    full = compile_only(graphs.attention(tmp_path / "full.onnx", "float32", blocks)).plan
    assert len(half.attention) == blocks
    assert len(full.attention) == 0
    for index in range(blocks):
        (kernel,) = half.made_from(f"softmax{index}")
        assert {f"scores{index}", f"softmax{index}", f"weigh{index}"} <= set(kernel.nodes)
    assert len(half.kernels) < len(full.kernels)
    assert set(half.dtypes) == {"float16"}
    assert set(full.dtypes) == {"float32"}


def test_an_unfused_branch_costs_kernels(tmp_path: Path) -> None:
    loose = compile_only(graphs.branches(tmp_path / "loose.onnx", fused=False)).plan
    fused = compile_only(graphs.branches(tmp_path / "fused.onnx", fused=True)).plan
    convolutions = [sum(layer.kind == "correlation" for layer in plan.layers) for plan in (loose, fused)]
    assert convolutions == [2, 1]
    assert len(fused.made_from("relu")) == 1
    assert fused.made_from("relu") == fused.made_from("conv3")
    assert len(loose.kernels) > len(fused.kernels)


def test_explicit_int8_convolves_in_int8_and_lint_has_nothing_to_say(tmp_path: Path) -> None:
    lint = pytest.importorskip("attn_export.pipeline.lint", reason="the host's packages are not on a device")
    model = graphs.quantised(tmp_path / "int8.onnx")
    plan = compile_only(model).plan
    (layer,) = [layer for layer in plan.made_from("conv") if layer.kind == "correlation"]
    assert {tensor.dtype for tensor in layer.inputs} == {"int8"}
    assert "weights" in layer.nodes
    assert lint.by_rules(lint.load(model), "tensorrt") == []


def test_dynamic_batch_by_a_profile(tmp_path: Path) -> None:
    shapes = {"x": ShapeRange((1, 4, 8, 8), (2, 4, 8, 8), (8, 4, 8, 8))}
    shown = compile_only(graphs.convolution(tmp_path / "c.onnx", "b"), shapes=shapes)
    assert shown.flags["shapes"]["x"]["max"] == (8, 4, 8, 8)
    assert any(tensor.shape[0] == -1 for layer in shown.plan.layers for tensor in layer.outputs)
    assert shown.plan.memory["weights"] > 0


def test_tf32_is_off_unless_asked_for(tmp_path: Path) -> None:
    model = graphs.attention(tmp_path / "a.onnx", "float32", key=64, value=64)
    plain, again, reduced = compile_only(model), compile_only(model), compile_only(model, tf32=True)
    assert plain.engine_sha256 == again.engine_sha256 != reduced.engine_sha256
    assert (plain.flags["tf32"], reduced.flags["tf32"]) == (False, True)


@pytest.mark.parametrize("sm", ["80", "86", "89", "120"])
def test_each_target_has_an_engine_of_its_own(sm: str, tmp_path: Path) -> None:
    shown = compile_only(graphs.convolution(tmp_path / "c.onnx"), f"sm{sm}")
    again = compile_only(graphs.convolution(tmp_path / "c.onnx"), sm)
    assert (shown.sm, shown.engine_sha256) == (sm, again.engine_sha256)
    other = compile_only(graphs.convolution(tmp_path / "c.onnx"), "121")
    assert shown.engine_sha256 != other.engine_sha256


Graph = Callable[[Path], Path]
REFUSED: dict[str, tuple[Graph, str, tuple[str, ...], str]] = {
    "nonzero": (graphs.nonzero, "parse", ("find",), "NonZero 'find'.*plugin"),
    "two at once": (graphs.two_refused, "parse", ("dft", "unique"), "DFT 'dft'.*Unique 'unique'"),
    "col2im": (graphs.col2im, "parse", ("fold",), "Col2Im 'fold'"),
    "uint8 activations": (graphs.uint8_activations, "parse", ("quantize",), "Non-zero zero point"),
    "int32 bias": (graphs.int32_bias, "parse", ("bias",), "'bias'.*type Int32 but must have type"),
    "fp32 Attention": (graphs.attention_operator, "build", ("attend",), "'attend'.*not supported by a dedicated"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_refusal_names_the_nodes(name: str, tmp_path: Path) -> None:
    make, stage, nodes, says = REFUSED[name]
    with pytest.raises(RefusedError, match=f"(?s){says}") as caught:
        compile_only(make(tmp_path / "m.onnx"))
    assert (caught.value.stage, caught.value.nodes) == (stage, nodes)
    assert "cudaError" not in str(caught.value)
    assert "TensorRT for RTX" in str(caught.value)


def ranges(least: tuple[int, ...], usual: tuple[int, ...], most: tuple[int, ...]) -> dict[str, ShapeRange]:
    return {"x": ShapeRange(least, usual, most)}


PROFILES = {
    "none": ({}, "input 'x' has open dimensions"),
    "order": (ranges((4, 4, 8, 8), (2, 4, 8, 8), (8, 4, 8, 8)), "dimension 0 is not least ≤ usual ≤ most"),
    "rank": (ranges((1, 4), (2, 4), (8, 4)), "the model has 4 dimensions there"),
    "fixed dimension": (ranges((1, 4, 4, 8), (2, 4, 8, 8), (8, 4, 8, 8)), "dimension 2 is fixed at 8"),
    "unknown input": ({"z": ShapeRange((1,), (1,), (1,))}, "there is no input 'z'; the inputs are x"),
}


@pytest.mark.parametrize("name", PROFILES)
def test_a_bad_profile_is_said(name: str, tmp_path: Path) -> None:
    shapes, says = PROFILES[name]
    with pytest.raises(RefusedError, match=says) as caught:
        compile_only(graphs.convolution(tmp_path / "c.onnx", "b"), shapes=shapes)
    assert caught.value.stage == "profile"
    assert caught.value.hint.startswith("give least")


def test_too_little_workspace_names_the_region(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="while compiling the nodes from 'widen' to 'narrow'") as caught:
        compile_only(graphs.needs_scratch(tmp_path / "m.onnx"), workspace=1 << 20)
    assert caught.value.stage == "build"


def test_a_target_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match=r"no target SM87: its targets are .*SM86.*nearest to a Jetson Orin"):
        compile_only(graphs.convolution(tmp_path / "c.onnx"), "87")


@pytest.mark.parametrize("content", [b"nonsense", None], ids=["garbage", "no file"])
def test_what_is_no_model(content: bytes | None, tmp_path: Path) -> None:
    model = tmp_path / "m.onnx"
    if content is not None:
        model.write_bytes(content)
    with pytest.raises(RefusedError, match="does not parse"):
        compile_only(model)


def test_external_weights_are_found_and_hashed(tmp_path: Path) -> None:
    import onnx

    plain = graphs.attention(tmp_path / "plain.onnx", "float16")
    model = tmp_path / "m.onnx"
    onnx.save(onnx.load(plain), model, save_as_external_data=True, location="m.onnx.data", size_threshold=0)
    assert compile_only(model).plan.attention
    before = graph_hash(model)
    data = tmp_path / "m.onnx.data"
    data.write_bytes(data.read_bytes()[:-1] + b"\x01")
    assert graph_hash(model) != before


def test_a_build_is_stopped_at_its_limit_and_leaves_no_process(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "attn_export.tensorrt")
    model = graphs.attention(tmp_path / "a.onnx", "float16", blocks=8)
    with pytest.raises(BackendError, match=r"did not build .* within 0.15 s and was stopped; it was last at:"):
        supervise.build(Request("tensorrt_rtx", model, "86"), limit=0.15, heartbeat=0.05)
    assert "TensorRT for RTX builds a.onnx for" in caplog.text
    assert not [line for line in processes() if str(supervise.WORKER) in line]


def processes() -> list[str]:
    """Command lines of the children of this process."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it may have ended since
            if int((folder / "stat").read_text().rpartition(")")[2].split()[1]) == os.getpid():
                found.append((folder / "cmdline").read_text().replace("\0", " "))
    return found


@pytest.mark.parametrize(("worker", "says"), [("signal", "was killed by SIGSEGV"), ("code", "ended with code 3")])
def test_a_dying_builder_is_reported(worker: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dying_signal.py").write_text("import os\nos.kill(os.getpid(), 11)\n")
    (tmp_path / "dying_code.py").write_text("import sys\nprint('last words', file=sys.stderr)\nsys.exit(3)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(supervise, "WORKER", f"dying_{worker}")
    with pytest.raises(BackendError, match=says):
        supervise.build(Request("tensorrt_rtx", graphs.convolution(tmp_path / "c.onnx"), "86"))


def test_without_the_extra_one_sentence_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bindings.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        BackendMissingError, match=r"^TensorRT for RTX is not installed: pip install 'attn-export\[rtx\]'$"
    ):
        compile_only(graphs.convolution(tmp_path / "c.onnx"))
    assert evidence.missing() == "TensorRT for RTX is not installed: pip install 'attn-export[rtx]'"
