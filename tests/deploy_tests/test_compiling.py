"""What compilers for absent chips share: targets, evidence in words, and a process that may die, hang or refuse."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from attn_export.bundle import Case
from attn_export.bundle.figures import SimulatedRecord
from attn_export.deploy_tests import backends
from attn_export.deploy_tests.backend import CompileOptions
from attn_export.deploy_tests.compiling import child
from attn_export.deploy_tests.compiling.evidence import ChipEvidence, CpuNode, Placement
from attn_export.deploy_tests.parity import simulated
from attn_export.deploy_tests.refusal import Complaint, RefusedError
from attn_export.errors import BackendError, BackendMissingError, UnknownNameError
from attn_export.types import JsonDict, TensorSpec

ME = __name__


def build(folder: Path, request: JsonDict) -> JsonDict:
    """What the worker below does, as the request has it."""
    os.write(1, b"line one\nlast line\n")
    if request["do"] == "die":
        os.abort()
    if request["do"] == "hang":
        time.sleep(60)
    if request["do"] == "refuse":
        raise RefusedError("it refuses", "build", [Complaint("n", "Conv", "no")], "do else")
    rows = child.load(folder / child.FEEDS)
    return {"sum": float(sum(row["a/b"].sum() for row in rows)), "python": sys.executable}


def do(what: str, folder: Path, limit: float = 30.0) -> JsonDict:
    root = str(Path(__file__).parents[2])
    job = child.Job(ME, "Toy", Path("m.onnx"), {"do": what}, limit=limit, env={"PYTHONPATH": root})
    return child.run(job, folder, [{"a/b": np.ones(3)}, {"a/b": np.ones(2)}])


def test_a_build_gives_its_result(tmp_path: Path) -> None:
    result = do("build", tmp_path)
    assert (result["sum"], result["python"]) == (5.0, sys.executable)
    assert result["seconds"] >= 0
    assert child.said(tmp_path).splitlines() == ["line one", "last line"]


def test_a_refusal_comes_across(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="it refuses: Conv 'n': no; do else") as caught:
        do("refuse", tmp_path)
    assert caught.value.nodes == ("n",)


def test_a_compiler_that_dies_or_hangs_is_said_to(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match=r"Toy built m\.onnx was killed by SIGABRT; its last words: .*last line"):
        do("die", tmp_path)
    began = time.monotonic()
    with pytest.raises(BackendError, match=r"Toy did not build m\.onnx within 2 s and was stopped"):
        do("hang", tmp_path, limit=2.0)
    assert time.monotonic() - began < 20


@pytest.mark.parametrize(
    ("text", "name", "chip"),
    [
        ("qnn:sm8650", "qnn", "sm8650"),
        ("QNN:SM8650", "qnn", "sm8650"),
        ("sm8550", "qnn", "sm8550"),
        ("qnn", "qnn", ""),
        ("ethos-u85-256", "ethos_u", "ethos-u85-256"),
        ("ethos-u:ethos-u55-128", "ethos_u", "ethos-u55-128"),
        ("tensorrt_rtx:sm86", "tensorrt_rtx", "sm86"),
        ("tensorrt:sm86", "tensorrt_rtx", "sm86"),
    ],
)
def test_a_target_may_be_written_short(text: str, name: str, chip: str) -> None:
    assert backends.compile_target(text) == (name, chip)


def test_a_chip_that_does_not_exist_is_a_matter_of_usage() -> None:
    with pytest.raises(UnknownNameError, match="there is no chip that qnn compiles for 'sm9999'") as caught:
        backends.compile_target("qnn:sm9999")
    assert caught.value.exit_code == 2
    with pytest.raises(UnknownNameError, match=r"no target to compile for 'rk3589'; known: .*rknn:rk3588"):
        backends.compile_target("rk3589")
    with pytest.raises(UnknownNameError, match="there is no target to compile for 'nowhere:x'"):
        backends.compile_target("nowhere:x")


def test_another_kind_of_file_is_refused_before_the_compiler_sees_it(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match=r"qnn: expected a file of kind onnx, got m\.tflite"):
        backends.compile_only("qnn", tmp_path / "m.tflite", CompileOptions())


def test_what_compiles_only_runs_nothing() -> None:
    why = backends.missing("qnn")
    assert why
    assert "here it compiles" in why
    from attn_export.deploy_tests.backend import Options

    with pytest.raises(BackendMissingError, match=r"m\.onnx cannot run"):
        backends.BACKENDS["qnn"].open(Path("m.onnx"), Options())


def evidence(placement: Placement) -> ChipEvidence:
    return ChipEvidence(
        "maker",
        "1.2",
        "qnn:x",
        "X1",
        "soc=X1",
        "int8",
        {"x": (1, 3)},
        "ab" * 32,
        placement,
        10,
        "cd" * 32,
        0.5,
        estimate={"cycles": 7},
    )


def test_evidence_says_what_stays_on_the_cpu_and_whose_the_estimate_is() -> None:
    shown = evidence(Placement(3, (CpuNode("m", "Mean", "no axes"), CpuNode("", "Pad")), "Mean is unknown"))
    assert shown.summary() == (
        "builds under maker 1.2 for X1 in int8, 3 of 5 nodes on the accelerator, 2 on the CPU, not run"
    )
    assert shown.details() == (
        "sizes fixed at x:1x3; the artifact says soc=X1; on the CPU: Mean 'm' (no axes), Pad;"
        " the whole graph was refused: Mean is unknown; the compiler's own estimate, measured nowhere: cycles 7"
    )
    plain = shown.to_dict()
    assert (plain["level"], plain["executed"], plain["placement"]["nodes"]) == ("E1", False, 5)
    assert plain["placement"]["cpu"][0] == {"node": "m", "op": "Mean", "reason": "no axes"}


def case(name: str, x: np.ndarray, y: np.ndarray) -> Case:
    return Case(name, {"x": x}, {"y": y}, {"y": 1.0})


def test_a_simulator_is_asked_for_the_built_sizes_and_usual_values_only() -> None:
    ones, y = np.ones((1, 3), np.float32), np.ones((1, 2))
    cases = [case("first", ones, y), case("b=2", np.ones((2, 3), np.float32), y), case("bright", 3 * ones, y)]
    cases.append(case("usual", -2 * ones, y))
    assert [one.name for one in simulated.fitting(cases, {"x": (1, 3)})] == ["first", "usual"]


def test_the_worst_of_what_was_simulated_counts() -> None:
    x, y = np.ones((1, 3), np.float32), np.array([[3.0, 4.0]])
    step = np.array([[1.0, 0.0]])
    cases = [case("a", x, y), case("b", x, y)]
    found = simulated.judge(cases, [{"y": y + 0.5 * step}, {"y": y + 0.05 * step}])
    assert found is not None
    assert (found.case, round(found.snr_db or 0, 6)) == ("a", 20.0)
    broken = simulated.judge(cases, [{"y": y}, {"y": y * np.nan}])
    assert broken is not None
    assert (broken.case, broken.snr_db, broken.failure) == ("b", None, "NaN or infinite values")
    assert "NaN or infinite values" in broken.summary()
    shape = simulated.judge(cases[:1], [{"y": y[0]}])
    assert shape is not None
    assert shape.failure == "expected the shape (1, 2), got (2,)"
    assert simulated.judge([], []) is None


def test_int8_is_simulated_on_the_data_it_was_made_for_and_by_what_varies() -> None:
    """A model that lost its input would have 15 dB and more by the usual ratio."""
    x, port = np.ones((1, 3), np.float32), TensorSpec("y", "float32", (1, 2))
    images = [case(f"data: {i}", x, np.array([[10.0 + i, 5.0 - i]])) for i in range(4)]
    drawn = case("as traced", x, np.zeros((1, 2)))
    chosen = simulated.fitting([drawn, *images], {"x": (1, 3)}, images)
    assert [one.name for one in chosen] == [one.name for one in images]
    lost = simulated.judge_int8(chosen, [{"y": np.float32([[11.5, 3.5]])}] * 4, [port])
    assert lost.snr_db == pytest.approx(0, abs=0.1)
    assert "0.0 dB of what varies at the least" in lost.summary()
    usual = simulated.judge(chosen, [{"y": np.float32([[11.5, 3.5]])}] * 4)
    assert usual is not None
    assert usual.snr_db is not None
    assert usual.snr_db > 14
    near = [{"y": (one.reference["y"] + 0.01).astype(np.float32)} for one in images]
    worst = simulated.judge_int8(chosen, [*near[:3], {"y": near[3]["y"] + np.float32(0.1)}], [port])
    assert worst.case == "data: 3"
    assert SimulatedRecord(**worst.to_dict()).centred


if __name__ == "__main__":
    child.work(Path(sys.argv[1]), build)
