"""The main job through the command line: what it writes, what it says, and how it ends when something is wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import save_file

from attn_export import bundle
from attn_export.errors import BackendError, ContractError, ExportError
from attn_export.export.audit import constants
from attn_export.export.audit.findings import Audit
from attn_export.export.onnx.exported import Exported
from attn_export.pipeline import deploy, stages
from tests.tools.nets import Net
from tests.tools.run import Result, run

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
NETS = Path(__file__).with_name("nets.py")
QUICK = ("--no-bench", "-q")


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_whole_job() -> None:
    done = run("repvgg", "--preset", "test", "--fuse", "--json", "--duration", "0", "--iterations", "20", "-q")
    assert done.code in (0, 5), done.err  # 5: the machine was too noisy for a ratio, all else is written
    result = done.json
    assert result["parity"] is True
    stages = {stage["name"]: stage for stage in result["stages"]}
    assert list(stages) == ["export", "fuse", "simplify"]
    assert stages["simplify"]["nodes"] <= stages["fuse"]["nodes"] < stages["export"]["nodes"]
    assert all(stage["normalized_error"] <= 4 for stage in stages.values())
    assert result["certificate"] <= 1e-12
    assert result["score"] > 0.9
    assert stages["simplify"]["latency_ms"]["p50"] > 0
    contest = result["comparison"]
    assert contest["ratio"]["low"] <= contest["ratio"]["estimate"] <= contest["ratio"]["high"]
    assert len(contest["pairs"]) >= 5

    whole = bundle.read(Path("repvgg-test"))
    files = {"model.onnx", "original.onnx", "cases.npz", "manifest.json", "report.json", "report.html"}
    assert {path.name for path in whole.path.iterdir()} == files
    model = onnx.load(whole.model)
    assert not any(node.op_type == "BatchNormalization" for node in model.graph.node)
    assert [entry.version for entry in model.opset_import] == [18]
    batches = {case.inputs["x"].shape[0] for case in whole.cases}
    assert {1, 2, 3} <= batches
    report = json.loads((whole.path / "report.json").read_text())
    assert len(report["runs"][0]["latency"]["samples"]["wall_ns"]) >= 20
    assert report["runs"][0]["environment"]["libraries"]["onnxruntime"]

    again = run("verify", whole.path)
    assert again.code == 0
    assert "parity holds" in again.out


def verified_without_torch(path: Path) -> subprocess.CompletedProcess[str]:
    """Verify in an interpreter in which torch and onnx cannot be imported."""
    code = (
        "import sys\n"
        "class No:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in ('torch', 'onnx', 'onnxscript', 'onnxsim', 'onnx_ir'):\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, No())\n"
        f"sys.argv = ['attn-export', 'verify', {str(path)!r}]\n"
        "from attn_export.tools.cli import main; main()"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_a_bundle_is_proven_again_without_torch_and_an_altered_model_is_not() -> None:
    assert run("se", "--preset", "test", *QUICK).code == 0
    path = Path("se-test").absolute()
    done = verified_without_torch(path)
    assert done.returncode == 0, done.stderr

    model = onnx.load(path / "model.onnx")
    weight = model.graph.initializer[0]
    values = onnx.numpy_helper.to_array(weight).copy()
    values.flat[0] += 0.1
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    onnx.save(model, path / "model.onnx")
    assert verified_without_torch(path).returncode == 3, "the hash does not fit"
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["files"]["model.onnx"] = bundle.sha256(path / "model.onnx")
    (path / "manifest.json").write_text(json.dumps(manifest))
    done = verified_without_torch(path)
    assert done.returncode == 1, "the hash fits, the values do not"
    assert "parity fails" in done.stdout


class TestSubjects:
    """Networks of the user's."""

    def test_a_file_with_constructor_arguments_and_a_dimension_that_varies(self) -> None:
        done = run(f"{NETS}:Net", "--kwargs", '{"channels": 5}', "--input", "b=2x3x8x8", "--fuse", *QUICK, "-o", "net")
        assert done.code == 0, done.err
        whole = bundle.read(Path("net"))
        assert whole.inputs[0].name == "image"
        assert whole.inputs[0].shape == ("b", 3, 8, 8)
        assert whole.manifest["operators"] == {"Conv": 2, "Relu": 1}

    def test_a_package_with_a_factory_and_weights(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.syspath_prepend(str(ROOT))
        torch.manual_seed(5)
        trained = Net(6)
        with torch.no_grad():
            trained.body[1].running_mean.normal_()
        save_file(trained.state_dict(), "net.safetensors")
        torch.save({"epoch": 3, "model_ema": {f"module.{k}": v for k, v in trained.state_dict().items()}}, "net.pth")
        for weights in ("net.safetensors", "net.pth"):
            done = run("tests.tools.nets:build", "--input", "1x3x8x8", "--weights", weights, *QUICK, "-o", "out")
            assert done.code == 0, done.err
            whole = bundle.read(Path("out"))
            assert whole.manifest["subject"]["weights"].startswith(f"{weights} sha256 ")
            image = torch.from_numpy(whole.cases[0].inputs["image"]).double()
            with torch.no_grad():
                truth = trained.double().eval()(image).numpy()
            np.testing.assert_allclose(whole.cases[0].reference["y"], truth, rtol=1e-12, atol=1e-12)

    def test_weights_that_do_not_fit_are_listed(self) -> None:
        state = Net(6).state_dict()
        del state["body.0.weight"]
        state["head.bias"] = torch.zeros(3)
        save_file(state, "net.safetensors")
        command = (f"{NETS}:build", "--input", "1x3x8x8", "--weights", "net.safetensors", *QUICK, "-o", "out")
        done = run(*command)
        assert done.code == 3
        assert "missing 1 (body.0.weight); unexpected 1 (head.bias); --no-strict" in done.err
        assert not Path("out").exists()
        assert run(*command, "--no-strict-weights").code == 0
        assert bundle.read(Path("out")).manifest["subject"]["weights"].endswith("2 names left alone")

    def test_several_inputs_and_outputs(self) -> None:
        shapes = ("--input", "x:[1,4,5]", "--input", "y:1,4,5")
        assert run(f"{NETS}:Two", *shapes, *QUICK, "-o", "two").code == 0
        assert [port.name for port in bundle.read(Path("two")).outputs] == ["out0", "out1"]

    def test_a_module_that_is_there_already(self) -> None:
        assert run(f"{NETS}:ready", "--input", "1x3x4x4", *QUICK, "-o", "ready").code == 0


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("repvg",), 2, "there is no mechanism 'repvg'; did you mean 'repvgg'"),
        (("se", "--preset", "tset"), 2, "did you mean 'test'"),
        (("se", "--preset", "test", "--dynamic", "q"), 2, "no dynamic dimension of se:test 'q'"),
        (("se", "--input", "1x3x8x8"), 2, "--input and --kwargs are for your own code"),
        (("se", "--opset", "nine"), 2, "Invalid value for '--opset'"),
        (
            (
                "se",
                "--no-such-flag",
            ),
            2,
            "No such option",
        ),
        ((f"{NETS}:Net",), 2, "input shapes are required; add, at which it runs: --input image:1x3x224x224"),
        ((f"{NETS}:Net", "--input", "1x3xQ"), 2, "expected [name:]shape[:dtype]"),
        ((f"{NETS}:Net", "--input", "1x3x8x8:float8"), 2, "there is no input type 'float8'"),
        ((f"{NETS}:Net", "--input", "1x3x8x8", "--kwargs", "{"), 2, "--kwargs: expected a JSON object"),
        ((f"{NETS}:Net", "--input", "1x3x8x8", "--kwargs", '{"width": 3}'), 2, "unexpected keyword argument 'width'"),
        ((f"{NETS}:number", "--input", "1x3x8x8"), 3, "expected a class or function that gives a module"),
        ((f"{NETS}:Nett", "--input", "1x3x8x8"), 3, "did you mean 'Net'"),
        (("nowhere.py:Net", "--input", "1x3x8x8"), 3, "there is no file nowhere.py"),
        (("no_such_package.net:Net", "--input", "1x3x8x8"), 3, "cannot be imported: ModuleNotFoundError"),
        ((f"{NETS}:Net", "--input", "1x3x8x8", "--weights", "gone.pth"), 3, "there is no file gone.pth"),
        ((f"{NETS}:Net", "--input", "1x4x8x8"), 3, "does not run on image:1x4x8x8"),
        ((f"{NETS}:Crash", "--input", "1x4"), 3, "no such luck"),
        ((f"{NETS}:Breaks", "--input", "1x4"), 3, "runs, but cannot be traced at nets.py"),
        ((f"{NETS}:Baked", "--input", "b=2x4"), 3, "error"),
        (("se", "--preset", "test", "-o", "/proc/se"), 3, "cannot write the bundle /proc/se"),
        (("verify", "nowhere"), 3, "is not a bundle"),
        (("bench", "a", "b", "c"), 2, "one bundle, or two"),
        (("show", "tripplet"), 2, "did you mean 'triplet'"),
        (("list", "--family", "attentoin"), 2, "did you mean 'attention'"),
    ],
)
def test_what_is_wrong_is_one_sentence_and_an_exit_code(arguments: tuple[str, ...], code: int, message: str) -> None:
    quiet = () if arguments[0] in ("verify", "show", "list") else ("-q",)
    done = run(*arguments, *quiet)
    assert (done.code, message in done.err) == (code, True), done
    assert "Traceback" not in done.err
    assert os.listdir() == [], "nothing is left behind"


def test_weights_that_need_code_to_be_read_are_refused() -> None:
    torch.save(Net(6), "whole.pth")
    done = run(f"{NETS}:build", "--input", "1x3x8x8", "--weights", "whole.pth", "-q")
    assert done.code == 3
    assert "save a plain state dict" in done.err


def test_errors_are_json_where_json_was_asked_for() -> None:
    done = run("repvg", "--json", "-q")
    assert done.json["exit_code"] == done.code == 2
    assert "did you mean" in done.json["error"]


def test_a_missing_backend_is_said_and_never_passes() -> None:
    assert run("se", "--preset", "test", *QUICK).code == 0
    assert run("verify", "se-test", "--backend", "onnxruntime", "--backend", "tensorrt").code == 0
    said = run("verify", "se-test", "--backend", "onnxruntime", "--backend", "tensorrt").out
    assert "tensorrt: not run: " in said
    assert "attn-export[tensorrt]" in said or "cudaError" in said
    assert run("verify", "se-test", "--backend", "tensorrt").code == 4, "proven on nothing"
    required = run("verify", "se-test", "--require", "tensorrt")
    assert required.code == 4
    assert "required, but not available here: tensorrt" in required.err


def test_a_check_that_zeros_would_pass_is_refused() -> None:
    done = run(f"{NETS}:Silent", "--input", "1x3x4x4", *QUICK, "-o", "silent")
    assert done.code == 5, done
    assert "the parity check is vacuous" in done.err
    assert os.listdir() == []
    unchecked = run(f"{NETS}:Silent", "--input", "1x3x4x4", *QUICK, "-o", "silent", "--mutants", "none")
    assert unchecked.code == 5, unchecked
    assert "is zero in every case, so zeros would pass" in unchecked.err
    assert os.listdir() == []


def test_float16_is_in_the_graph_and_gated_by_its_own_measure() -> None:
    done = run("se", "--preset", "test", "--fp16", *QUICK)
    assert done.code == 0, done
    whole = bundle.read(Path("se-test"))
    model = onnx.load(whole.model)
    assert any(t.data_type == onnx.TensorProto.FLOAT16 for t in model.graph.initializer)
    assert whole.artifacts[0].snr_db_limit == 40
    assert run("verify", "se-test").code == 0


def test_own_data_becomes_cases() -> None:
    np.savez(
        "mine.npz", **{"one.x": np.ones((1, 32, 7, 9), np.float32), "two.x": np.full((3, 32, 5, 5), 9, np.float32)}
    )
    done = run("se", "--preset", "test", "--dynamic", "all", "--data", "mine.npz", *QUICK)
    assert done.code == 0, done
    names = [case.name for case in bundle.read(Path("se-test")).cases]
    assert sum(name.startswith("data: mine.npz") for name in names) == 2


def test_the_users_own_tolerance_can_fail_the_job() -> None:
    done = run("se", "--preset", "test", *QUICK, "--atol", "1e-12")
    assert done.code == 1
    assert "lie outside atol 1e-12" in done.err
    assert os.listdir() == []


def test_what_was_audited_once_is_not_audited_again(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    audits = constants.Auditor.audits

    def counted(tier: constants.Auditor, model: onnx.ModelProto) -> dict[str, Audit]:
        asked.append(len(model.graph.node))
        return audits(tier, model)

    monkeypatch.setattr(constants.Auditor, "audits", counted)
    done = run("repvgg", "--preset", "test", "--fuse", "--no-bench", "--mutants", "none")
    assert done.code == 0
    assert len(asked) == 1


@pytest.mark.parametrize("half", [True, False])
def test_what_is_fused_competes_in_its_own_precision(half: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    types: list[set[int]] = []

    def noted(*models: Path, **_: object) -> None:
        for model in models[:2]:
            weights = [t for t in onnx.load(model).graph.initializer if len(t.dims) == 4]
            assert weights
            types.append({weight.data_type for weight in weights})
        raise BackendError("noted")

    monkeypatch.setattr(deploy, "compare_latency", noted)
    quick = ("--mutants", "none", "--duration", "0", "--iterations", "1", "--warmup", "0")
    done = run("repvgg", "--preset", "test", "--fuse", *(["--fp16"] if half else []), *quick)
    assert "noted" in done.err
    assert types == [{onnx.TensorProto.FLOAT16 if half else onnx.TensorProto.FLOAT}] * 2


def test_a_bundle_is_not_lost_for_want_of_a_twin(monkeypatch: pytest.MonkeyPatch) -> None:
    halved, calls = stages.lowered, list[int]()

    def once(model: onnx.ModelProto, *rest: Any) -> Any:
        calls.append(len(model.graph.node))
        if len(calls) > 1:
            raise ExportError("an operator is missing")
        return halved(model, *rest)

    monkeypatch.setattr(stages, "lowered", once)
    quick = ("--mutants", "none", "--duration", "0", "--iterations", "1", "--warmup", "0")
    done = run("repvgg", "--preset", "test", "--fuse", "--fp16", *quick, "-o", "out")
    assert done.code == 0
    assert len(calls) == 2
    assert "no ratio can be given: the original model has no float16" in done.err.replace("\n", " ")
    assert bundle.read(Path("out")).artifacts[0].precision == "float16"


class TestRollback:
    """A simplifier that breaks something is rolled back, and said."""

    def test_of_the_contract(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken(exported: Exported) -> Exported:
            raise ContractError("wanted inputs x, came none")

        monkeypatch.setattr(stages, "simplify", broken)
        done = run("se", "--preset", "test", "--no-bench")
        assert done.code == 0
        assert "the stage 'simplify' was rolled back: wanted inputs x" in done.err.replace("\n", " ")
        assert bundle.read(Path("se-test")).manifest["warnings"]

    def test_of_the_parity(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken(exported: Exported) -> Exported:
            model = onnx.ModelProto()
            model.CopyFrom(exported.model)
            node = next(n for n in model.graph.node if n.op_type == "Relu")
            node.op_type = "Identity"
            return Exported(model, exported.contract)

        monkeypatch.setattr(stages, "simplify", broken)
        done = run("se", "--preset", "test", "--no-bench")
        assert done.code == 0
        assert "the stage 'simplify' was rolled back: parity fails" in done.err.replace("\n", " ")
        assert "Relu" in bundle.read(Path("se-test")).manifest["operators"]


KILLED = """
import os, signal, sys
import torch
torch.set_num_threads(1)
from attn_export.pipeline import deploy, stages
from attn_export.tools.cli import main
for stage, target in zip({named!r}, ["out", "fresh"] * 3):
    child = os.fork()  # the imports are done once
    if not child:
        place = {{"cases": deploy.reference, "export_subject": stages, "simplify": stages}}.get(stage, deploy)
        setattr(place, stage, lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL))
        sys.argv = ["attn-export", "se", "--preset", "test", "-q", "--no-bench", "-o", target]
        main()
        os._exit(0)
    print(stage, target, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_run_killed_at_any_stage_leaves_nothing_or_the_older_bundle() -> None:
    assert run("se", "--preset", "test", *QUICK, "-o", "out").code == 0
    before = bundle.read(Path("out")).manifest
    named = ["cases", "export_subject", "simplify", "run_mutants", "save", "verify"]
    code = KILLED.format(named=named)
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False)
    ends = [line.split() for line in done.stdout.splitlines()]
    assert [(stage, target) for stage, target, _ in ends] == [*zip(named, ["out", "fresh"] * 3, strict=True)], done
    assert {end for _, _, end in ends} == {str(-signal.SIGKILL)}
    assert bundle.read(Path("out")).manifest == before
    assert not Path("fresh").exists()
    assert run("se", "--preset", "test", *QUICK, "-o", "fresh").code == 0
    assert run("se", "--preset", "test", *QUICK, "-o", "out").code == 0
    assert sorted(os.listdir()) == ["fresh", "out"], "the next run removes what the killed ones left"


def test_an_interrupt_is_exit_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(deploy.reference, "cases", interrupted)
    done: Result = run("se", "--preset", "test", *QUICK)
    assert done.code == 130
    assert os.listdir() == []


def test_bench_compares_two_bundles_and_says_when_it_cannot() -> None:
    assert run("se", "--preset", "test", *QUICK, "-o", "one").code == 0
    began = time.perf_counter()
    done = run("bench", "one", "one", "--duration", "0", "--iterations", "10", "--processes", "3", "--json", "-q")
    assert done.code in (0, 5)
    assert time.perf_counter() - began < 120
    if done.code == 0:
        assert done.json["comparison"]["verdict"] in ("no difference shown", "faster", "slower")
