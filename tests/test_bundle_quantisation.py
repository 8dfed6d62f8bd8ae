"""What a manifest says of an int8 model is held to what there is: its meaning, its limits, its hashes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attn_export import bundle
from attn_export.bundle import Case
from attn_export.errors import BundleError
from attn_export.types import Array
from tests.artifacts import onnx as onnx_artifact
from tests.test_bundle_claims import ONES, made

TWO = {"a": (2.0 * ONES.astype("f8"), 1e-7), "b": (2.0 * ONES.astype("f8"), 1e-7)}
FIGURES = {"output": "y", "share": 0.5, "images": 2, "median_db": 30.0, "worst_db": 25.0, "worst_image": "b"}


def quantisation(**changes: Any) -> dict[str, Any]:
    return {"meaning": "int8.npz", "limit_db": 20.0, "top1_drop": None, "figures": [FIGURES], **changes}


def write(target: Path, meaning: list[Case] | None = None, precision: str = "int8", **changes: Any) -> Path:
    """A bundle with a second model, in int8."""
    made(target, cases=TWO)
    shutil.copy(target / "model.onnx", target / "int8.onnx")
    own = [Case(name, {}, {"y": 2.0 * ONES.astype("f8")}, {"y": 0.0}) for name in TWO] if meaning is None else meaning
    bundle.write_cases(target / "int8.npz", own)
    content = json.loads((target / "manifest.json").read_text())
    limits = {} if precision == "float32" else {"snr_db_limit": 20.0}
    second = onnx_artifact(precision, name="int8", file="int8.onnx", **limits)
    content["artifacts"] = [onnx_artifact(), {**second, "quantisation": quantisation(**changes)}]
    bundle.write_manifest(target, content)
    return target


def test_the_meaning_comes_with_the_inputs_of_the_cases(tmp_path: Path) -> None:
    model = bundle.read(write(tmp_path / "b")).artifact("int8")
    assert [case.name for case in model.meaning] == ["a", "b"]
    assert np.array_equal(model.meaning[0].inputs["x"], ONES)
    assert not bundle.read(tmp_path / "b").artifacts[0].meaning


@pytest.mark.parametrize(
    ("limit", "median", "share", "least"),
    [(20.0, 30.0, 0.5, 30 - bundle.DOUBLE_DB), (28.0, 30.0, 0.5, 28.0), (20.0, 30.0, 0.001, 20.0)],
)
def test_the_limit_is_what_was_asked_for_or_3_decibels_below_what_it_had(
    tmp_path: Path, limit: float, median: float, share: float, least: float
) -> None:
    figures = [{**FIGURES, "median_db": median, "share": share}]
    model = bundle.read(write(tmp_path / "b", limit_db=limit, figures=figures)).artifact("int8")
    assert model.centred_db_limit == pytest.approx(least)


def case(name: str = "a", inputs: dict[str, Array] | None = None, output: str = "y", width: int = 2) -> Case:
    return Case(name, inputs or {}, {output: np.ones((1, width))}, {output: 0.0})


FORGED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "a case that the bundle has not": (lambda p: write(p, [case("z")]), "'z' is no case of the bundle"),
    "inputs of its own": (lambda p: write(p, [case(inputs={"x": ONES})]), "'a' is no case of the bundle"),
    "another output": (lambda p: write(p, [case(output="z")]), "expected y, got z"),
    "another shape": (lambda p: write(p, [case(width=3)]), "expected bx2"),
    "a field that there is not": (lambda p: write(p, other=1), "there is no such field"),
    "the cases as its meaning": (lambda p: forge(write(p), meaning="cases.npz"), "no file of its own"),
    "the model as its meaning": (lambda p: forge(write(p), meaning="int8.onnx"), "no file of its own"),
    "a file that is not there": (lambda p: forge(write(p), meaning="other.npz"), "no file of its own"),
    "no limit": (lambda p: write(p, limit_db=None), "expected limit_db or top1_drop"),
    "a limit that nothing breaks": (lambda p: write(p, limit_db=0.0), "above 0"),
    "a float32 model": (lambda p: write(p, precision="float32"), "expected none of a float32 model"),
    "no hash": (lambda p: write(p, calibration={"a.png": "x"}), "expected a sha256 of 'a.png'"),
    "a share beyond one": (lambda p: write(p, figures=[{**FIGURES, "share": 1.5}]), "of at most 1"),
}


def forge(target: Path, **changes: Any) -> Path:
    content = json.loads((target / "manifest.json").read_text())
    content["artifacts"][1]["quantisation"].update(changes)
    bundle.write_manifest(target, content)
    return target


@pytest.mark.parametrize("name", FORGED)
def test_what_cannot_be_is_refused(tmp_path: Path, name: str) -> None:
    write_it, why = FORGED[name]
    with pytest.raises(BundleError, match=why):
        bundle.read(write_it(tmp_path / "b"))
