"""Comparisons across artifacts and runtimes: a runtime of another format, which takes a batch of one and is slower."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto

from attn_export import bundle
from attn_export.bundle import Bundle, Case
from attn_export.bundle.narrowed import Narrowed
from attn_export.deploy_tests import ranking
from attn_export.deploy_tests.latency.comparison import LatencyComparison, summarise
from attn_export.deploy_tests.latency.timed_model import TimedModel, common_case, timed_model
from attn_export.errors import BackendError, UsageError
from attn_export.types import Dim, TensorSpec
from tests.artifacts import onnx as onnx_artifact
from tests.test_artifacts import third
from tests.tools.run import run as run_here

#: Divides by what its file says; notes what it was opened with, and refuses any batch but one.
TOY = """
import json, os, time
from contextlib import contextmanager
import numpy as np


class Toy:
    accepts = ("toy",)

    def missing(self):
        return None

    def version(self):
        return "Toy 1.0"

    @contextmanager
    def open(self, model, options):
        divisor = float(model.read_text())
        shapes = [list(port.shape) for port in options.inputs]
        opened = [model.name, len(os.sched_getaffinity(0)), options.threads, options.precision, shapes]
        with open(os.environ["TOY_LOG"], "a") as log:
            log.write(json.dumps(opened) + "\\n")

        def run(feeds):
            assert feeds["x"].shape[0] == 1, feeds["x"].shape
            ends = time.perf_counter() + 0.002
            while time.perf_counter() < ends:
                pass
            return {"y": (feeds["x"].astype(np.float64) / divisor).astype(np.float32)}

        yield run


BACKEND = Toy()
"""
PORT = {"name": "x", "dtype": "float32", "shape": ["b", 64]}


def write(target: Path, *, batches: tuple[int, ...] = (2, 1)) -> Bundle:
    """A third, as ONNX, in the toy's format, and in that format wrong."""
    rng = np.random.default_rng(0)
    with bundle.writing(target) as folder:
        third(folder / "model.onnx", TensorProto.FLOAT)
        (folder / "model.toy").write_text("3")
        (folder / "bad.toy").write_text("3.01")
        arrays = {b: rng.standard_normal((b, 64)).astype(np.float32) for b in batches}
        cases = [Case(f"b={b}", {"x": x}, {"y": x.astype(np.float64) / 3}, {"y": 1e-7}) for b, x in arrays.items()]
        bundle.write_cases(folder / bundle.CASES, cases)
        one = {"kind": "toy", "precision": "float32", "tolerance": {"normalized_limit": 4.0}}
        narrowed = {"narrowed_dims": [{"name": "b", "min": 1, "max": 1}]}
        files = {"toy": "model.toy", "bad": "bad.toy"}
        toys = [{**one, **narrowed, "name": name, "files": [file]} for name, file in files.items()]
        content = {
            "subject": {"name": "third"},
            "inputs": [PORT],
            "outputs": [{**PORT, "name": "y"}],
            "dynamic_dims": [{"name": "b"}],
            "artifacts": [onnx_artifact(), *toys],
        }
        bundle.write_manifest(folder, content)
    return bundle.read(target)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the toy installed in ``site``, as pip would, and with a bundle."""
    folder = tmp_path_factory.mktemp("ranking")
    info = folder / "site" / "attn_export_toy-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / "site" / "ranked_toy.py").write_text(TOY, encoding="utf-8")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: attn-export-toy\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[attn_export.deploy_tests.backends]\ntoy = ranked_toy\n")
    write(folder / "third")
    return folder


def run(place: Path, *words: str) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join([str(place / "site"), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-m", "attn_export", *words],
        cwd=place,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": paths, "TOY_LOG": str(place / "log")},
    )


def test_two_artifacts_on_two_runtimes_by_wall_time_on_one_core_and_on_a_case_that_both_take(place: Path) -> None:
    (place / "log").unlink(missing_ok=True)
    done = run(place, "bench", "third#toy", "third", "--duration", "0", "--iterations", "3", "--warmup", "0")
    assert done.returncode in (0, 5), done.stderr
    assert "third#toy / third: " in done.stdout
    assert "measured on case 'b=1', the first that both take in one run" in done.stdout
    opened = [json.loads(line) for line in (place / "log").read_text().splitlines()]
    assert {line[0] for line in opened} == {"model.toy"}
    assert [line[2:] for line in opened] == [[1, "float32", [["b", 64]]]] * len(opened), "its own contract"
    if len(os.sched_getaffinity(0)) > 1:
        assert "slower" in done.stdout
        assert "wall time on pinned cores" in done.stdout
        assert [line[1] for line in opened].count(1) >= 10, "two sessions in each of five processes, on one core"


def test_all_ranks_what_is_right_and_times_nothing_that_is_wrong(place: Path) -> None:
    done = run(place, "bench", "third", "--all", "--json", "-q")
    assert done.returncode == 1, done.stderr
    assert "failed verification, so it was not timed: bad@toy" in done.stderr
    found = json.loads(done.stdout)
    assert (found["level"], found["case"]) == ("E2", "b=1")
    assert (found["baseline"]["artifact"], found["baseline"]["backend"]) == ("model", "onnxruntime")
    toy, bad = found["ranking"]
    assert (toy["artifact"], toy["version"], toy["parity"]["ok"]) == ("toy", "Toy 1.0", True)
    assert toy["comparison"]["ratio"]["estimate"] > 10, "two milliseconds against microseconds"
    assert toy["comparison"]["control"]
    assert (bad["artifact"], bad["parity"]["ok"], bad["comparison"]) == ("bad", False, None)
    assert "parity fails" in bad["fault"]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("third#toy@onnxruntime",), 3, "onnxruntime cannot run"),
        (("third#nope",), 2, "no artifact 'nope'; known: bad, model, toy"),
        (("third@nope",), 2, "no backend 'nope'"),
        (("third", "third", "--all"), 2, "--all: expected one bundle"),
        (("third", "--all", "--profile"), 2, "--all: expected one bundle"),
    ],
)
def test_what_cannot_be_measured_is_said(
    words: tuple[str, ...], code: int, said: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    done = run_here("bench", *words)
    assert (done.code, said in done.err) == (code, True), done.err


def test_without_a_case_that_both_take_there_is_no_ratio(tmp_path: Path) -> None:
    specs = (TensorSpec("x", "float32", ("b", 64)),), (TensorSpec("y", "float32", ("b", 64)),)
    free, single = Narrowed(*specs), Narrowed(*specs, (Dim("b", 1, 1),))
    cases = write(tmp_path / "two", batches=(2, 3, 1)).cases
    assert common_case(cases, [free, free]) == 0
    assert common_case(cases, [free, single]) == 2
    with pytest.raises(UsageError, match="no case is one that both take in one run"):
        common_case(cases[:2], [free, single])


def test_a_model_is_opened_for_the_shapes_of_its_case_where_they_vary(tmp_path: Path) -> None:
    whole = write(tmp_path / "third")
    model = timed_model(whole, whole.artifact("toy"), "onnxruntime")
    options = model.options(2, whole.cases[0].inputs)
    assert (options.threads, options.precision, options.inputs) == (2, "float32", whole.inputs)
    assert options.shapes["x"].min == options.shapes["x"].max == (2, 64)
    fixed = replace(model, inputs=(TensorSpec("x", "float32", (2, 64)),))
    assert fixed.options(1, whole.cases[0].inputs).shapes == {}
    assert TimedModel.from_dict(json.loads(json.dumps(model.to_dict()))) == model


def ratio(effect: float, control: float = 0.0) -> LatencyComparison:
    return summarise([(effect + 0.001 * sign, control + 0.001 * sign) for sign in (-1, 1, -1, 1)])


def test_the_fastest_is_first_and_what_was_not_measured_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = write(tmp_path / "third")
    names = ("slow", "void", "fast", "broken")
    rows = [replace(whole.artifacts[1], name=name, kind="onnx", files=whole.artifacts[0].files) for name in names]
    many = replace(whole, artifacts=(whole.artifacts[0], *rows))

    def compare(one: TimedModel, *_: Any, case: int, **__: Any) -> LatencyComparison:
        assert case == 1, "all on the case that most of them take"
        name = next(names_of)
        if name == "broken":
            raise BackendError("no kernel")
        return {"slow": ratio(0.5), "void": ratio(-9.0, control=0.3), "fast": ratio(-0.5)}[name]

    names_of = iter(names)
    monkeypatch.setattr(ranking, "compare_latency", compare)
    found = ranking.rank(many)
    assert [row.artifact.name for row in found.rows] == ["fast", "slow", "void", "broken"]
    assert found.rows[-1].fault == "no kernel"
    assert found.rows[0].accuracy().startswith("k ")
    assert found.case == "b=1"
    for row in found.to_dict()["ranking"]:
        json.dumps(row, allow_nan=False)
