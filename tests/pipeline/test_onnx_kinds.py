"""ONNX files of every kind get in at the first try, are fused and proven; what cannot is refused in one sentence."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from attn_export import bundle
from tests import onnx_kinds as kinds
from tests.tools.run import Result, run

#: Regions that are fused; two unless said otherwise.
FUSED = {"weights_overridable": 0, "own_function": 1, "quantised": 1, "quantised_operator": 0}
#: What is said of a file that is not as it seems.
SAID = {
    "float16_body": "computes in float16: it is held to 40 dB",
    "float16_whole": "computes in float16: it is held to 40 dB",
    "float64_whole": "float64",
    "quantised": "computes in int8: it is held to 20 dB",
    "quantised_operator": "computes in int8: it is held to 20 dB",
    "unused_domains": "unused operator sets left out: com.microsoft, ai.onnx.ml, ai.onnx.preview.training",
    "newer_format": "is written as 10, which its opset needs",
    "weights_listed": "10 weights are no longer listed as inputs, as IR version 3 had it",
    "weights_overridable": "10 weights (block0.w, block0.g, block0.b, block0.m and 6 more) are inputs with a default",
    "opset7": "opset 7 is converted to 11 (the same in float64, to 0)",
    "opset9": "opset 9 is converted to 11 (the same in float64, to 0)",
    "opset10": "opset 10 is converted to 11 (the same in float64, to 0)",
    "own_function": "its own functions are written out: Block (the same in float64, to 0)",
    "one_name_for_all_nodes": "4 nodes had the name of another and got their own",
    "output_twice": "outputs that were listed twice are listed once: y",
    "output_without_shape": "outputs declared as the graph makes them: y",
    "output_without_type": "outputs declared as the graph makes them: y",
    "stale_shapes": "1 inner shapes that the graph contradicts are left out",
    "only_the_rank": "inputs declared as the first operator behind them takes them: x (?x3x?x?)",
    "no_shape_at_all": "inputs declared as the first operator behind them takes them: x (?x3x?x?)",
    "variance_of_zero": "channels of BatchNormalization 'block0.bn' have a variance of 0",
}


def deploy(made: onnx.ModelProto, *options: str) -> Result:
    onnx.save(made, "net.onnx")
    return run("net.onnx", "--fuse", "--no-bench", "--mutants", "none", "-o", "out", *options)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", kinds.KINDS)
def test_a_file_gets_in(name: str) -> None:
    made = kinds.KINDS[name]()
    done = deploy(made)
    assert done.code == 0, done.err
    assert SAID.get(name, "") in " ".join(done.err.split())
    whole = bundle.read(Path("out"))
    assert len(whole.manifest["fusion"]["sites"]) == FUSED.get(name, 2)
    assert any(SAID.get(name, "") in warning for warning in [*whole.manifest["warnings"], ""])
    assert [port.name for port in whole.inputs] == [v.name for v in made.graph.input if v.name in ("x", "t")]
    assert not onnxruntime.InferenceSession(
        whole.model, providers=["CPUExecutionProvider"]
    ).get_overridable_initializers() or (name == "weights_overridable")


@pytest.mark.parametrize("name", kinds.KINDS)
def test_a_file_is_fused_and_compared_alone(name: str) -> None:
    onnx.save(kinds.KINDS[name](), "net.onnx")
    fused = run("fuse", "net.onnx", "-o", "fused.onnx", "--json")
    assert fused.code == 0, fused.err
    assert len(fused.json["sites"]) == FUSED.get(name, 2)
    compared = run("diff", "net.onnx")
    assert compared.code == 0, compared.err
    assert "No divergence" in compared.out


@pytest.mark.parametrize("name", kinds.REFUSED)
def test_what_cannot_be_proven_is_refused_in_a_sentence(name: str) -> None:
    make, sentence = kinds.REFUSED[name]
    done = deploy(make())
    assert done.code == 3, done.err
    (line,) = [line for line in done.err.splitlines() if line.startswith("error: ")]
    with pytest.raises(AssertionError, match=sentence):
        raise AssertionError(line)
    assert not Path("out").exists()


@pytest.mark.rtx
@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("plain", ""),
        ("negative_size", "1x3x6x6, 2x3x6x6, 4x3x6x6"),
        ("only_the_rank", "1x3x1x1, 2x3x224x224, 4x3x448x448"),
        ("no_shape_at_all", "1x3x1x1, 2x3x224x224, 4x3x448x448"),
        ("output_without_type", ""),
        ("own_function", ""),
    ],
)
def test_lint_gives_the_parser_the_ranges_of_what_is_open(name: str, shapes: str) -> None:
    onnx.save(kinds.KINDS[name](), "net.onnx")
    done = run("lint", "net.onnx", "--target", "tensorrt")
    assert done.code == 0, done.out
    assert "net.onnx: 0 findings for tensorrt, by rules and parser" in done.out
    assert (f"shapes of x: {shapes} (smallest" in done.err) == bool(shapes)


def test_whole_numbers_are_drawn_from_all_that_a_small_type_holds() -> None:
    assert deploy(kinds.int8_input()).code == 0
    values = np.concatenate([case.inputs["x"].reshape(-1) for case in bundle.read(Path("out")).cases])
    assert values.dtype == np.int8
    assert values.min() < -100
    assert values.max() > 100


def test_a_file_in_float16_is_judged_in_decibels() -> None:
    assert deploy(kinds.float16_body()).code == 0
    report, whole = json.loads(Path("out/report.json").read_text()), bundle.read(Path("out"))
    assert whole.artifacts[0].precision == "float16"
    assert report["runs"][0]["parity"]["snr_db_limit"] == 40
    assert run("verify", "out").code == 0
    done = deploy(kinds.float16_body(), "--fp16")
    assert done.code == 3
    assert "got one that computes in float16; leave out --fp16" in done.err


def test_a_weight_stored_in_half_is_a_number_like_others() -> None:
    nodes, weights = kinds.blocks()
    stored = onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weights[0]).astype(np.float16), "half")
    cast = helper.make_node("Cast", ["half"], [weights[0].name], to=TensorProto.FLOAT)
    assert deploy(kinds.model([cast, *nodes], [stored, *weights[1:]])).code == 0
    assert bundle.read(Path("out")).artifacts[0].precision == "float32"


def test_a_converted_opset_that_means_something_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from attn_export.export.onnx import normalise

    right = normalise.version_converter.convert_version

    def wrong(model: onnx.ModelProto, version: int) -> onnx.ModelProto:
        made = right(model, version)
        made.graph.node[0].attribute[0].CopyFrom(helper.make_attribute("pads", [0, 0, 2, 2]))
        return made

    monkeypatch.setattr(normalise.version_converter, "convert_version", wrong)
    done = deploy(kinds.opset10())
    assert done.code == 3
    assert "opset 10 is converted to 11, but that changes the model" in " ".join(done.err.split())
