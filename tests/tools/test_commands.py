"""The commands on bundles and bare graphs: what they print, write, and how they end."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from attn_export import bundle
from attn_export.deploy_tests.latency.comparison import summarise
from attn_export.reparam.proof import certify
from attn_export.tools.commands import bench as benching
from tests.tools.run import run


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain bundle of a small RepVGG, with latency."""
    target = tmp_path_factory.mktemp("bundles") / "plain"
    command = ("repvgg", "--preset", "test", "-q", "-o", target, "--duration", "0", "--iterations", "20")
    assert run(*command).code == 0
    return target


def test_fuse_collapses_a_bare_file_and_writes_only_whole_ones(made: Path, tmp_path: Path) -> None:
    output = tmp_path / "fused.onnx"
    done = run("fuse", made / "model.onnx", "-o", output, "--json")
    assert done.code == 0
    assert len(done.json["sites"]) == 6
    assert done.json["certificate"]["worst_error"] <= 1e-12
    kinds = [node.op_type for node in onnx.load(output).graph.node]
    assert (kinds.count("Conv"), kinds.count("BatchNormalization")) == (6, 0)
    kept = run("fuse", made / "model.onnx", "-o", tmp_path / "kept.onnx", "--keep-branches", "*", "--json")
    assert len(kept.json["sites"]) < 6
    assert run("fuse", tmp_path / "gone.onnx", "-o", output).code == 3
    assert run("fuse", made / "model.onnx", "-o", "/proc/fused.onnx").code == 3
    assert run("fuse", made / "model.onnx", "-o", output, "--fuse-cost", "cpuu").code == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fused.onnx", "kept.onnx"]


def test_fuse_takes_external_data_and_says_what_it_left_and_what_precision_costs(made: Path, tmp_path: Path) -> None:
    model = onnx.load(made / "model.onnx")
    onnx.save_model(model, tmp_path / "far.onnx", save_as_external_data=True, size_threshold=0, location="far.data")
    output = tmp_path / "fused.onnx"
    done = run("fuse", tmp_path / "far.onnx", "-o", output, "--weight-error")
    assert done.code == 0, done
    assert "weight error int8" in done.out
    fused = onnx.load(output, load_external_data=False)
    assert not any(t.data_location == onnx.TensorProto.EXTERNAL for t in fused.graph.initializer)
    straight = run("fuse", made / "model.onnx", "-o", tmp_path / "straight.onnx")
    assert straight.code == 0
    assert "weight error" not in straight.out
    for one, other in zip(
        fused.graph.initializer, onnx.load(tmp_path / "straight.onnx").graph.initializer, strict=True
    ):
        assert (onnx.numpy_helper.to_array(one) == onnx.numpy_helper.to_array(other)).all()


def test_fuse_splits_what_no_single_file_can_hold(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attn_export.export.onnx.save.EXTERNAL", 1000)  # as if it had more than 2 GB
    assert run("fuse", made / "model.onnx", "-o", tmp_path / "large.onnx").code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["large.onnx", "large.onnx.data"]
    onnx.checker.check_model(str(tmp_path / "large.onnx"), full_check=True)
    assert run("fuse", tmp_path / "large.onnx", "-o", tmp_path / "again.onnx").code == 0


def test_fuse_warns_of_a_site_that_is_rolled_back_and_fails_when_strict(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prove, count = certify.prove, itertools.count()

    def doubt(*arguments: Any) -> certify.Proof:
        proof = prove(*arguments)
        return replace(proof, structure=False) if next(count) == 0 else proof

    monkeypatch.setattr(certify, "prove", doubt)
    output = tmp_path / "fused.onnx"
    strict = run("fuse", made / "model.onnx", "-o", output, "--fail-on-rollback")
    assert strict.code == 1
    assert not output.exists()
    count = itertools.count()
    done = run("fuse", made / "model.onnx", "-o", output, "--json")
    assert done.code == 0
    assert "rolled back: its certificate failed (bits differ" in done.err
    assert [r["kind"] for r in done.json["not_fused"]].count("rolled back") == 1
    assert done.json["certificate"]["worst_error"] <= 1e-12


def test_diff_finds_where_a_changed_graph_parts(made: Path, tmp_path: Path) -> None:
    assert run("diff", made).code == 0
    model = onnx.load(made / "model.onnx")
    weight = next(t for t in model.graph.initializer if len(t.dims) == 4)
    values = onnx.numpy_helper.to_array(weight).copy()
    values[0] *= 2
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    reader = next(node for node in model.graph.node if weight.name in node.input)
    onnx.save(model, tmp_path / "changed.onnx")
    done = run("diff", made, tmp_path / "changed.onnx", "-o", tmp_path / "repro")
    assert done.code == 1
    assert reader.name in done.out
    assert (tmp_path / "repro" / "repro.py").is_file()


@pytest.mark.parametrize(("kind", "begins"), [("markdown", "###"), ("junit", "<?xml"), ("sarif", "{"), ("html", "<!")])
def test_report_prints_every_format(made: Path, kind: str, begins: str) -> None:
    done = run("report", made, "--format", kind)
    assert done.code == 0
    assert done.out.lower().startswith(begins)


def test_report_writes_whole_files(made: Path, tmp_path: Path) -> None:
    assert run("report", made, "--format", "json", "-o", tmp_path / "r.json").code == 0
    assert json.loads((tmp_path / "r.json").read_text())["runs"]
    assert run("report", made, "--format", "pdf").code == 2
    assert run("report", made, "-o", "/proc/r.md").code == 3


def test_bench_holds_a_bundle_against_budgets_and_baselines(made: Path) -> None:
    quick = ("--duration", "0", "--iterations", "200", "-q")
    kept = run("bench", made, *quick, "--budget", "p90<=100s", "--budget", "size<=1MB", "--json")
    assert kept.code == 0, kept
    assert [finding["verdict"] for finding in kept.json["budgets"]] == ["passed", "passed"]
    assert run("bench", made, *quick, "--budget", "p50<=1ns").code == 1
    assert run("bench", made, *quick, "--budget", "speed<=9").code == 2
    assert run("bench", made, *quick, "--max-regression", "fast").code == 2
    then = run("bench", made, *quick, "--baseline", made / "report.json", "--max-regression", "10000%")
    assert then.code == 0, then
    assert run("bench", made, *quick, "--baseline", made / "cases.npz").code == 2
    assert run("bench", made, *quick, "--batch-sweep", "1,x").code == 2


def test_bench_fails_what_is_slower_than_its_baseline(made: Path, tmp_path: Path) -> None:
    quick = ("--duration", "0", "--iterations", "200", "-q")
    then = json.loads((made / "report.json").read_text(encoding="utf-8"))
    then["runs"][0]["latency"]["cpu_ms"]["p50"] /= 100
    (tmp_path / "then.json").write_text(json.dumps(then), encoding="utf-8")
    slower = run("bench", made, *quick, "--baseline", tmp_path / "then.json", "--max-regression", "3%")
    assert slower.code == 1, slower
    assert "at most 3 % slower than the baseline report: failed" in slower.out


@pytest.mark.parametrize(("ratio", "control", "code"), [(-0.1, 0.0, 0), (0.1, 0.0, 1), (0.0, 0.0, 5), (-0.1, 0.2, 5)])
def test_bench_is_faster_than_another_or_slower_or_cannot_say(
    made: Path, monkeypatch: pytest.MonkeyPatch, ratio: float, control: float, code: int
) -> None:
    pairs = [(ratio + 0.001 * (-1) ** i, control + 0.002 * (-1) ** i) for i in range(6)]
    monkeypatch.setattr(benching, "compare_latency", lambda *_, **__: summarise(pairs))
    came = run("bench", made, "--duration", "0", "--iterations", "200", "-q", "--faster-than", made)
    assert came.code == code, came


def test_bench_says_all_that_it_was_asked_for(made: Path) -> None:
    asked = ("--mlperf", "--soak", "0.3", "--thread-sweep", "--batch-sweep", "1,2", "--profile")
    came = run("bench", made, "--duration", "0.1", "--iterations", "1100", "-q", *asked)
    assert came.code == 0, came
    for words in ("MLPerf single stream p90", "threads 1: p50", "batch of 2: p50", "from the first quarter", "of peak"):
        assert words in came.out, words
    assert "cold start" in came.out
    assert "peak memory" in came.out


def test_lint_speaks_by_rules(made: Path) -> None:
    assert "findings for ort_mobile" in run("lint", made, "--target", "ort_mobile").out
    assert run("lint", made, "--target", "tensorflow").code == 2
    done = run("lint", made, "--target", "openvino")
    assert (done.code, " 0 findings for openvino, by rules" in done.out) == (0, True), done.out


def test_lint_speaks_of_float16_by_the_ranges_of_the_cases(made: Path) -> None:
    done = run("lint", made, "--target", "fp16")
    assert done.code == 0
    assert "findings for fp16, by" in done.out
    assert run("lint", made / "model.onnx", "--target", "fp16").code == 2


def test_float16_goes_by_the_users_data(made: Path, tmp_path: Path) -> None:
    """What they are decides: a hundred thousand times as large, and everything overflows."""
    small = np.random.default_rng(0).standard_normal((1, 3, 64, 64)).astype(np.float32)
    for factor, broken in ((1, False), (1e5, True)):
        np.save(tmp_path / "one.npy", small * np.float32(factor))
        for what in (made, made / "model.onnx"):
            done = run("lint", what, "--target", "fp16", "--data", tmp_path, "--json")
            assert done.code == 0
            assert bool(done.json["findings"]) is broken
            assert (done.json["confirmed"]["throughout_db"] is None) is broken
            assert done.json["confirmed"]["kept_db"] > 40
            assert done.json["confirmed"]["inputs"] == 1
    assert "rounded to float16 throughout: NaN" in run("lint", made, "--target", "fp16", "--data", tmp_path).out
    assert run("lint", made, "--target", "fp16", "--data", tmp_path / "gone").code == 3
    done = run("lint", made, "--target", "ort_mobile", "--data", tmp_path)
    assert (done.code, "only --target fp16 goes by" in done.err) == (2, True)


def test_conform_says_what_is_missing(made: Path, tmp_path: Path) -> None:
    assert run("conform", made).code == 2
    assert run("conform", made, "-o", tmp_path / "kit").code == 4
    assert not (tmp_path / "kit").exists()
    assert run("conform", "check", made).code == 3


def test_verify_takes_an_older_bundle_without_extras(made: Path) -> None:
    whole = bundle.read(made)
    assert not whole.manifest["mutation"]["vacuous"]
    assert run("verify", made).code == 0
