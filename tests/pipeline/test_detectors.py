"""Detectors through the main job: what is chosen among what was found is proven, and each fault is caught."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from attn_export import assert_parity, bundle, load
from attn_export.bundle import Bundle
from attn_export.deploy_tests.backend import Options
from attn_export.deploy_tests.backends import DEFAULT, opened
from attn_export.deploy_tests.parity.compare import TOLERANCE, Parity, prove
from attn_export.errors import ParityError
from attn_export.export.exporting import export_subject
from attn_export.export.sources.onnx_file import read
from attn_export.pipeline import before_choice, fresh
from attn_export.pipeline.gate import ParityGate
from attn_export.pipeline.stage import Made as Stage
from attn_export.pipeline.stage import PipelineState
from attn_export.types import Array
from tests import detectors
from tests.tools.run import run

Made = Callable[[], onnx.ModelProto]


def deployed(source: str, target: Path, *options: str) -> Bundle:
    done = run(source, "--no-bench", "--mutants", "none", "-o", target, *options)
    assert done.code == 0, done.err
    assert run("verify", target).code == 0
    return bundle.read(target)


@pytest.fixture(scope="module")
def yolo(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("yolo")
    onnx.save(detectors.yolo(), folder / "yolo.onnx")
    return deployed(str(folder / "yolo.onnx"), folder / "out", "--fuse")


def parity(whole: Bundle, model: onnx.ModelProto, folder: Path) -> Parity:
    onnx.save(model, folder / "model.onnx")
    with opened(DEFAULT, folder / "model.onnx", Options()) as ran:
        return prove(ran, whole.cases, whole.outputs, backend="")


def test_what_suppression_leaves_is_proven(yolo: Bundle, tmp_path: Path) -> None:
    (one,) = yolo.manifest["selections"]
    assert one["node"] == "NonMaxSuppression 'chosen'"
    assert one["rows"] == {"boxes": 0, "scores": 0, "classes": 0}
    assert one["ordered"] == {}  # suppression orders each class by itself
    assert "the rows of scores, classes and boxes are compared wherever they stand" in " ".join(
        yolo.manifest["warnings"]
    )
    assert sum(len(case.reference["boxes"]) for case in yolo.cases) > 50
    assert parity(yolo, detectors.yolo(), tmp_path).ok


def scaled(name: str, factor: float) -> Made:
    """The detector with a tensor multiplied before anything reads it."""

    def made() -> onnx.ModelProto:
        model = detectors.yolo()
        place, maker = next((i, node) for i, node in enumerate(model.graph.node) if name in node.output)
        maker.output[list(maker.output).index(name)] = "before"
        model.graph.initializer.append(numpy_helper.from_array(np.float32(factor), "factor"))
        model.graph.node.insert(place + 1, helper.make_node("Mul", ["before", "factor"], [name]))
        return model

    return made


def other_class() -> onnx.ModelProto:
    """The detector that exchanges the second class and the third."""
    model = detectors.yolo()
    maker = next(node for node in model.graph.node if "logits" in node.output)
    maker.output[1] = "before"
    model.graph.initializer.append(numpy_helper.from_array(np.array([0, 2, 1]), "exchange"))
    position = list(model.graph.node).index(maker) + 1
    model.graph.node.insert(position, helper.make_node("Gather", ["before", "exchange"], ["logits"], axis=1))
    return model


FAULTS: dict[str, Made] = {
    "the threshold of scores is higher": lambda: detectors.yolo(least=0.65),
    "the threshold of scores is lower": lambda: detectors.yolo(least=0.55),
    "less overlap is suppressed": lambda: detectors.yolo(overlap=0.55),
    "more overlap is suppressed": lambda: detectors.yolo(overlap=0.4),
    "fewer boxes are kept": lambda: detectors.yolo(most=9),
    "boxes are shifted by 2 %": scaled("middle", 1.02),
    "boxes are larger by 2 %": scaled("half", 1.02),
    "scores are larger by 5 %": scaled("scores", 1.05),
    "scores are larger by 0.1 % before they are compared": scaled("all_scores", 1.001),
    "two classes are exchanged": other_class,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_caught(yolo: Bundle, tmp_path: Path, fault: str) -> None:
    assert not parity(yolo, FAULTS[fault](), tmp_path).ok


def test_columns_of_one_output_are_a_detector_as_well(tmp_path: Path) -> None:
    onnx.save(detectors.in_one(detectors.yolo()), tmp_path / "yolo.onnx")
    whole = deployed(str(tmp_path / "yolo.onnx"), tmp_path / "out")
    assert [dict(one.rows) for one in whole.selections] == [{"detections": 0}]
    shifted = detectors.in_one(scaled("middle", 1.02)())
    assert not parity(whole, shifted, tmp_path).ok


@pytest.mark.parametrize(("name", "count"), [("Queries", 40), ("Best", 300)])
def test_the_best_queries_are_proven_in_any_order_of_what_is_equal(name: str, count: int, tmp_path: Path) -> None:
    whole = deployed(f"tests.detectors:{name}", tmp_path / "out", "--input", "image:1x3x64x64", "--fuse")
    (one,) = whole.selections
    assert one.rows == {port.name: 1 for port in whole.outputs}
    assert one.ordered == ({"scores": (0,)} if name == "Best" else {})
    assert whole.cases[0].reference["boxes"].shape == (1, count, 4)


def test_the_order_of_what_suppression_leaves_means_nothing(yolo: Bundle) -> None:
    def run_in_order(last: int) -> Parity:
        def ran(_: object) -> dict[str, Array]:
            reference = next(cases).reference
            order = np.roll(np.arange(len(reference["scores"])), last)
            return {port.name: reference[port.name][order].astype(port.dtype) for port in yolo.outputs}

        cases = iter(yolo.cases)
        return prove(ran, yolo.cases, yolo.outputs, backend="")

    assert run_in_order(0).ok
    assert run_in_order(3).ok


def test_what_enters_the_choice_is_proven_behind_every_stage(yolo: Bundle, tmp_path: Path) -> None:
    right = detectors.yolo()
    before = before_choice.of(right, yolo.cases, tmp_path)
    assert before is not None
    assert [spec.name for spec in before.specs.values()] == ["all_boxes before chosen", "all_scores before chosen"]
    assert len(before.cases) == before_choice.MOST

    def within(model: onnx.ModelProto) -> bool:
        rows = before.compare(model, tmp_path / "part.onnx", backend="")
        assert len(rows) == 2 * before_choice.MOST
        return Parity("", TOLERANCE, rows).ok

    assert within(right)
    assert within(onnx.load(yolo.model))  # fused and simplified: the operator is found again
    assert not within(scaled("raw", 1.0001)())
    hidden = detectors.yolo(least=0.9999)  # nothing is found, so that the outputs say nothing
    assert within(hidden)
    assert not within(scaled("all_scores", 1.0001)())


def test_a_fault_that_no_detection_shows_is_caught(yolo: Bundle, tmp_path: Path) -> None:
    onnx.save(detectors.yolo(), tmp_path / "yolo.onnx")
    subject = read(tmp_path / "yolo.onnx")
    exported = export_subject(subject)
    gate = ParityGate(yolo.cases, tmp_path, before=before_choice.of(exported.model, yolo.cases, tmp_path))
    empty = PipelineState(subject, ())
    assert gate.check(empty, Stage("export", exported)).result.parity.ok  # type: ignore[union-attr]
    blind = replace(exported, model=with_blind_places())
    assert parity(yolo, blind.model, tmp_path).ok  # by its outputs alone
    made = gate.check(empty, Stage("export", blind))
    assert "all_scores before chosen" in gate.refuse(empty, made)


def with_blind_places() -> onnx.ModelProto:
    """The detector in which scores that are too low to be kept are lower still."""
    model = detectors.yolo()
    place, maker = next((i, node) for i, node in enumerate(model.graph.node) if "all_scores" in node.output)
    maker.output[0] = "before"
    model.graph.initializer.append(numpy_helper.from_array(np.float32(0.5), "bar"))
    model.graph.initializer.append(numpy_helper.from_array(np.float32(0.9), "less"))
    nodes = [
        helper.make_node("Greater", ["before", "bar"], ["kept"]),
        helper.make_node("Mul", ["before", "less"], ["lower"]),
        helper.make_node("Where", ["kept", "before", "lower"], ["all_scores"]),
    ]
    for at, node in enumerate(nodes, place + 1):
        model.graph.node.insert(at, node)
    return model


def test_where_nothing_is_found_it_is_said_what_to_prove(tmp_path: Path) -> None:
    onnx.save(detectors.yolo(least=1.0), tmp_path / "yolo.onnx")
    done = run(tmp_path / "yolo.onnx", "--no-bench", "--mutants", "none", "-o", tmp_path / "out")
    assert done.code == 5
    said = " ".join(done.err.split())
    assert "NonMaxSuppression 'chosen' chooses nothing in any of" in said
    assert "--outputs all_boxes,all_scores" in said
    whole = deployed(str(tmp_path / "yolo.onnx"), tmp_path / "out", "--outputs", "all_boxes,s=all_scores")
    assert [port.name for port in whole.outputs] == ["all_boxes", "s"]
    assert not whole.selections


def test_inputs_drawn_anew_on_which_nothing_is_found_prove_that(yolo: Bundle) -> None:
    said = list[str]()
    made = fresh.cases(yolo, 12, 0, said.append)
    assert any(not case.reference["boxes"].size for case in made)
    assert not any("not finite" in text for text in said)
    assert all(case.selections == yolo.selections for case in made)


def test_a_test_of_ones_own_pairs_rows_as_well() -> None:
    torch.manual_seed(0)
    module, image = detectors.Queries().eval(), torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    right = export_subject(load(module, (image,))).model
    assert assert_parity(module, right, (image,)).ok
    assert assert_parity(module, backwards(right), (image,)).ok  # the order of queries means nothing
    wrong = onnx.ModelProto()
    wrong.CopyFrom(right)
    bias = next(tensor for tensor in wrong.graph.initializer if tensor.name == "boxes.bias")
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32(0.001), bias.name))
    with pytest.raises(ParityError):
        assert_parity(module, wrong, (image,))


def backwards(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same with the queries of every output in the other order."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    for value in made.graph.output:
        maker = next(node for node in made.graph.node if value.name in node.output)
        maker.output[list(maker.output).index(value.name)] = f"{value.name}.forwards"
        made.graph.node.append(helper.make_node("Gather", [f"{value.name}.forwards", "order"], [value.name], axis=1))
    made.graph.initializer.append(numpy_helper.from_array(np.arange(40)[::-1].copy(), "order"))
    return made


def test_suppression_alone_is_a_file_as_well(tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]>
    alone (float[1,20,4] boxes, float[1,2,20] scores) => (int64[n,3] kept)
    <int64[1] most = {3}, float[1] overlap = {0.5}> { kept = NonMaxSuppression(boxes, scores, most, overlap) }"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "alone.onnx")
    whole = deployed(str(tmp_path / "alone.onnx"), tmp_path / "out")
    assert [dict(one.rows) for one in whole.selections] == [{"kept": 0}]
