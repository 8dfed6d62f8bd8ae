"""``--int8`` through the command line: what it writes, how each gate ends, and the proof where there is no torch."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from attn_export import bundle
from attn_export.errors import BundleError, ExportError
from attn_export.export.graph.index import set_tensor
from attn_export.export.onnx import contract
from attn_export.export.onnx.exported import Exported
from attn_export.export.onnx.newer import at_least
from attn_export.export.quantise.quantised import Quantised
from attn_export.pipeline import int8
from attn_export.pipeline.report.content import checks, headline
from attn_export.types import Feeds
from tests import gratings
from tests.tools.run import Result, run

pytestmark = pytest.mark.slow

QUICK = ("--no-bench", "-q", "--mutants", "none")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a classifier, its pictures, and a bundle made of both."""
    folder = tmp_path_factory.mktemp("int8")
    onnx.save(gratings.model(), folder / "net.onnx")
    gratings.write(folder / "data", 80)
    made = run(
        folder / "net.onnx",
        "--int8",
        "--data",
        folder / "data",
        "--labels",
        folder / "data",
        "--no-bench",
        "-q",
        "--json",
        "-o",
        folder / "out",
    )
    assert made.code == 0, made.err
    (folder / "result.json").write_text(made.out)
    return folder


def job(place: Path, *more: object) -> Result:
    return run(place / "net.onnx", "--data", place / "data", *QUICK, "-o", place / "other", *more)


def record(place: Path) -> dict[str, Any]:
    whole = bundle.read(place / "out")
    found: dict[str, Any] = next(one["quantisation"] for one in whole.manifest["artifacts"] if one["name"] == "int8")
    return found


def test_a_second_model_lies_beside_the_first_and_says_how_it_was_made(place: Path) -> None:
    whole, own = bundle.read(place / "out"), record(place)
    assert [one.name for one in whole.artifacts] == ["model", "int8"]
    assert whole.artifacts[0].precision == "float32"
    graph = onnx.load(whole.artifacts[1].path)
    assert any(node.op_type == "QuantizeLinear" for node in graph.graph.node)
    assert own["limit_db"] == 20
    assert (len(own["calibration"]), len(own["held_out"])) == (40, 20)
    used = {*own["calibration"].values(), *own["held_out"].values(), *whole.manifest["data"]["files"].values()}
    assert len(used) == 40 + 20 + 16
    figures = own["figures"][0]
    assert figures["median_db"] >= 20
    assert figures["worst_db"] <= figures["median_db"]
    assert figures["agreeing"] <= figures["images"] == 16
    assert own["int8_sites"] + len(own["float_sites"]) == 3


def test_accuracy_is_of_every_file_that_is_kept_to_judge_by(place: Path) -> None:
    found = record(place)["accuracy"]
    assert found["images"] == 20
    assert found["original"] >= 18
    assert found["deployed"] - found["original"] == found["gained"] - found["lost"]
    result = json.loads((place / "result.json").read_text())
    assert result["int8"]["accuracy"] == found


def test_faults_of_quantisation_are_injected_and_none_survives(place: Path) -> None:
    found = next(one["mutation"] for one in bundle.read(place / "out").manifest["artifacts"] if one["mutation"])
    assert found["tried"] >= 7
    assert json.loads((place / "result.json").read_text())["int8_score"] == found["score"]
    assert found["killed"] >= 4
    assert {row["kind"] for row in found["mutants"]} >= {"weight scale halved", "zero point off by one"}
    assert not [row["name"] for row in found["mutants"] if row["verdict"] == "survived" and not row["caught_by_audit"]]


def test_verify_proves_it_without_torch_and_onnx(place: Path) -> None:
    code = (
        "import sys\n"
        "for name in ('torch', 'onnx'): sys.modules[name] = None\n"
        "from attn_export.tools.cli import main\n"
        "sys.argv = ['attn-export', *sys.argv[1:]]\n"
        "main()"
    )
    command = [sys.executable, "-c", code, "verify", str(place / "out"), "--artifact", "int8", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)["runs"]
    assert [one["against"] for one in row["parity"]["centred"]] == [
        "the original in float64",
        "its own meaning in float64",
    ]
    assert all(one["ok"] for one in row["parity"]["centred"])


def test_verify_holds_it_to_what_is_typed(place: Path) -> None:
    assert run("verify", place / "out", "--artifact", "int8", "--snr", "15").code == 0
    done = run("verify", place / "out", "--artifact", "int8", "--snr", "300")
    assert done.code == 1
    assert "limit 300 dB" in done.out


def test_a_device_may_lose_no_more_than_3_decibels_of_what_was_recorded(place: Path) -> None:
    figures = record(place)["figures"]
    recorded = figures[0]["median_db"]
    assert bundle.read(place / "out").artifact("int8").centred_db_limit == pytest.approx(recorded - 3.01, abs=0.01)
    assert f"(limit {recorded - 10 * np.log10(2):.3g} dB)" in run("verify", place / "out", "--artifact", "int8").out


def test_verify_on_other_data_judges_what_varies_of_it(place: Path, tmp_path: Path) -> None:
    for index in range(6):
        np.save(tmp_path / f"{index}.npy", gratings.picture(index % 4, 500 + index))
    done = run("verify", place / "out", "--artifact", "int8", "--data", tmp_path)
    assert done.code == 0, done.out + done.err
    assert "at the median of 6 images" in done.out
    (tmp_path / "one").mkdir()
    np.save(tmp_path / "one" / "0.npy", gratings.picture(0, 7))
    assert run("verify", place / "out", "--artifact", "int8", "--data", tmp_path / "one").code == 5


def test_inputs_drawn_anew_are_not_for_int8_and_that_is_said(place: Path) -> None:
    done = run("verify", place / "out", "--fresh", "2", "--seed", "1")
    assert done.code == 0, done.out + done.err
    assert "int8 (onnx, int8): not held to inputs drawn anew" in done.out


def test_a_file_that_computes_something_else_fails(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = bundle.read(place / "out")
    model = whole.artifact("int8")
    changed = onnx.load(model.path)
    first = next(tensor for tensor in changed.graph.initializer if tensor.name == "mix_scale")
    set_tensor(changed.graph, first.name, numpy_helper.to_array(first) / 2)
    broken = place / "broken.onnx"
    onnx.save(changed, broken)
    forged = replace(whole, digest="", artifacts=(whole.artifacts[0], replace(model, files=(broken,))))
    monkeypatch.setattr(bundle, "read", lambda _: forged)
    assert run("verify", place / "out", "--artifact", "int8").code == 1


@pytest.mark.parametrize("name", ["int8.npz", "int8.onnx"])
def test_an_altered_file_is_refused(place: Path, name: str) -> None:
    file = place / "out" / name
    before = file.read_bytes()
    try:
        file.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
        with pytest.raises(BundleError, match="was altered"):
            bundle.read(place / "out")
    finally:
        file.write_bytes(before)


def test_reports_say_it(place: Path) -> None:
    whole = bundle.read(place / "out")
    content = bundle.report(whole)
    assert not [row for row in checks(whole.manifest, content) if row.answer == "failed"]
    assert any(row.group == "fault-injection test, int8" for row in checks(whole.manifest, content))
    assert any("of what varies between images" in line for line in headline(whole.manifest, content))
    page = (place / "out" / "report.html").read_text()
    for words in ("In int8: int8", "What each output keeps", "labelled images the original gets", "injected"):
        assert words in page
    assert run("report", place / "out", "--format", "markdown").code == 0
    assert run("report", place / "out", "--format", "junit").code == 0


LIES = {
    "a better median": lambda one: one["outputs"][0].update(median_db=80.0),
    "a lower limit": lambda one: one.update(limit_db=1.0),
    "no limit": lambda one: one.update(limit_db=None),
    "it fails, and holds": lambda one: one.update(ok=False),
}


@pytest.mark.parametrize("name", LIES)
def test_a_report_that_says_otherwise_than_its_figures_is_found_out(place: Path, name: str) -> None:
    whole = bundle.read(place / "out")
    content = json.loads(json.dumps(bundle.report(whole)))
    LIES[name](content["runs"][1]["parity"]["centred"][0])
    assert [row for row in checks(whole.manifest, content) if row.answer == "failed"]


def test_more_than_it_keeps_ends_with_1_and_writes_nothing(place: Path) -> None:
    done = job(place, "--int8", "--snr", "95")
    assert done.code == 1
    assert "keeps less than 95 dB" in done.err
    assert "--snr" in done.err
    assert not (place / "other").exists()


def _rolled(model: onnx.ModelProto, calibration: Sequence[Feeds], held_out: Sequence[Feeds], *rest: Any) -> Quantised:
    """Quantise, and roll the classes of the last layer, which is in float."""
    made = quantise(model, calibration, held_out, *rest)
    head = next(tensor for tensor in made.model.graph.initializer if tensor.name == "head")
    set_tensor(made.model.graph, "head", np.roll(numpy_helper.to_array(head), 1, 0))
    return made


quantise = int8.quantise


def test_a_loss_of_accuracy_ends_with_1(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8, "quantise", _rolled)
    done = job(place, "--int8", "--top1-drop", "1%", "--labels", place / "data")
    assert done.code == 1
    assert "at most 1 points may be lost" in done.err
    assert not (place / "other").exists()
    assert job(place, "--int8").code == 1


def test_too_few_labelled_images_end_with_5_and_say_how_many_would_do(place: Path) -> None:
    done = job(place, "--int8", "--top1-drop", "0.5%", "--labels", place / "data")
    assert done.code == 5
    assert "20 images cannot tell" in done.err
    assert "are needed" in done.err
    assert not (place / "other").exists()


def test_accuracy_alone_may_be_asked_for(place: Path, tmp_path: Path) -> None:
    done = run(
        place / "net.onnx",
        "--data",
        place / "data",
        *QUICK,
        "-o",
        tmp_path / "out",
        "--int8",
        "--top1-drop",
        "40%",
        "--labels",
        place / "data",
        "--json",
    )
    assert done.code == 0, done.err
    assert done.json["int8"]["limit_db"] is None
    assert done.json["int8"]["top1_drop"] == 0.4
    assert bundle.read(tmp_path / "out").artifact("int8").centred_db_limit is not None
    assert run("verify", tmp_path / "out").code == 0


def test_codes_for_targets_that_have_no_others(place: Path) -> None:
    """Symmetric codes have no zero points, and a weight one scale, where that is asked for."""
    done = job(place, "--int8", "--symmetric", "--per-tensor", "--json")
    assert done.code == 0, done.err
    graph = onnx.load(place / "other" / "int8.onnx").graph
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    pairs = [node for node in graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert pairs
    assert all(constants[node.input[2]].dtype == np.int8 and not constants[node.input[2]].any() for node in pairs)
    assert all(constants[node.input[1]].shape == () for node in pairs)
    assert run("verify", place / "other", "--artifact", "int8").code == 0


def test_random_weights_prove_nothing_and_end_with_5(tmp_path: Path) -> None:
    for index in range(16):
        np.save(tmp_path / f"{index}.npy", np.random.default_rng(index).random((3, 64, 64), np.float32))
    done = run("repvgg", "--preset", "test", "--fuse", "--int8", "--data", tmp_path, *QUICK, "-o", tmp_path / "out")
    assert done.code == 5, done.err
    assert "prove nothing about INT8" in done.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (("--int8", "--fp16"), "leave out --fp16"),
        (("--snr", "20"), "--snr is what a model in int8 is held to"),
        (("--top1-drop", "1%"), "--top1-drop is what a model in int8 is held to"),
        (("--labels", "labels.csv"), "--labels is for the accuracy of an int8 model"),
        (("--int8", "--top1-drop", "1%"), "say what is right with --labels"),
        (("--int8", "--top1-drop", "1"), "expected a loss above 0 %"),
        (("--int8", "--snr", "0"), "expected more than 0 dB"),
        (("--int8", "--top1-drop", "100%"), "expected a loss above 0 %"),
        (("--symmetric",), "--symmetric is how a model in int8 is coded"),
        (("--per-tensor",), "--per-tensor is how a model in int8 is coded"),
    ],
)
def test_what_cannot_be_ends_with_2(place: Path, more: tuple[str, ...], why: str) -> None:
    done = job(place, *more)
    assert done.code == 2
    assert why in done.err


def test_without_data_or_with_too_little_the_way_out_is_said(place: Path, tmp_path: Path) -> None:
    done = run(place / "net.onnx", "--int8", *QUICK, "-o", tmp_path / "out")
    assert done.code == 2
    assert "give a folder of at least 16 with --data" in done.err
    gratings.write(tmp_path / "few", 15)
    done = run(place / "net.onnx", "--int8", "--data", tmp_path / "few", *QUICK, "-o", tmp_path / "out")
    assert done.code == 2
    assert "got 15" in done.err


def old() -> onnx.ModelProto:
    model = gratings.model()
    model.opset_import[0].version = 11  # in which its operators mean the same
    return model


def test_a_file_in_an_old_opset_gets_an_int8_model_in_the_first_that_has_scales_of_channels(place: Path) -> None:
    onnx.save(old(), place / "old.onnx")
    made = run(place / "old.onnx", "--int8", "--data", place / "data", *QUICK, "-o", place / "old")
    assert made.code == 0, made.err
    opsets = [onnx.load(one.path).opset_import[0].version for one in bundle.read(place / "old").artifacts]
    assert opsets == [11, 13]
    assert "opset 13" in json.dumps(bundle.read(place / "old").manifest)
    assert run("verify", place / "old", "--artifact", "int8").code == 0


def test_what_cannot_be_brought_to_a_later_opset_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no adapter")

    model = old()
    monkeypatch.setattr("attn_export.export.onnx.newer.version_converter.convert_version", fail)
    with pytest.raises(ExportError, match=r"got 11, which could not be converted \(no adapter\)"):
        at_least(Exported(model, contract.of(model)), 13)
