"""The stages are data: one contract, run in one place, over a state that nobody changes."""

from __future__ import annotations

import io
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import nn

from attn_export import bundle
from attn_export.deploy_tests import backends
from attn_export.deploy_tests.backend import Options
from attn_export.deploy_tests.parity import verify as proofs
from attn_export.errors import BackendError, BundleError, ContractError, ConversionError, GateError, UnknownNameError
from attn_export.export.converters import CONVERTERS, Converted, Converter, Source
from attn_export.export.precision.float16 import Float16Report
from attn_export.export.sources.catalogue import from_spec
from attn_export.export.subject import Subject
from attn_export.mechanisms import MECHANISMS
from attn_export.mechanisms.spec import Input
from attn_export.pipeline import deploy, gate, stages
from attn_export.pipeline.int8 import Int8Inputs
from attn_export.pipeline.options import BuildOptions, DeployOptions
from attn_export.pipeline.stage import Made, PipelineState
from attn_export.reparam.result import Fusion
from attn_export.types import Dim
from tests.tools.run import run

ALL = BuildOptions(fuse=True, equalize=True, fp16=True, to=("ort",))
#: The stages that these options ask for; int8 is made of a float32 model, and of data.
ASKED = tuple(stage for stage in stages.STAGES if stage not in (stages.QUANTISE, stages.CONVERT_INT8))


@pytest.fixture(scope="module")
def state() -> PipelineState:
    subject = from_spec("repvgg", MECHANISMS["repvgg"], "test")
    return stages.build(subject, ALL)


def test_they_run_in_their_order_and_each_leaves_what_it_made(state: PipelineState) -> None:
    assert [made.stage for made in state.made] == [stage.name for stage in ASKED]
    assert state.account(Fusion) is not None
    assert state.account(Float16Report) is not None
    assert [one.name for one in state.converted] == ["ort"]
    assert state.model is state.made[-1].exported


@pytest.mark.parametrize("stage", ASKED[1:], ids=lambda stage: stage.name)
def test_what_a_stage_requires_is_asked_before_it_runs(state: PipelineState, stage: Any) -> None:
    empty = replace(state, made=())
    assert "run the stage 'export' first" in stage.requires(empty)
    assert stage.requires(state) == ""


def test_int8_is_made_of_data_and_of_float32(state: PipelineState) -> None:
    requires = stages.QUANTISE.requires
    assert "give a folder with --data" in requires(state)
    ready = replace(state, int8=Int8Inputs(split=None, cases=(), batched=True))  # type: ignore[arg-type]
    assert "computes in float16; leave out --fp16" in requires(ready)
    assert requires(ready.back_to("simplify")) == ""
    assert "run the stage 'export' first" in requires(replace(ready, made=()))
    assert "add --int8 --data DIR" in stages.CONVERT_INT8.requires(ready)


def test_a_state_is_frozen_and_goes_back(state: PipelineState) -> None:
    with pytest.raises(FrozenInstanceError):
        state.made = ()  # type: ignore[misc]
    back = state.back_to("export")
    assert [made.stage for made in back.made] == ["export"]
    again = stages.run(back, BuildOptions(), through="simplified")
    assert [made.stage for made in again.made] == ["export", "simplify"], "by the name of its result, too"
    assert len(state.made) == len(ASKED), "the state that was given is as it was"


def test_models_before_a_stage_are_not_changed_by_it(state: PipelineState) -> None:
    start = state.back_to("export")
    before = start.model.model.SerializeToString()
    stages.run(start, ALL)
    assert start.model.model.SerializeToString() == before


def test_norms_that_the_exporter_folded_are_said() -> None:
    module = nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2), nn.ReLU(), nn.BatchNorm2d(2)).eval()
    subject = Subject("net", module, (Input("x", (1, 2, 4, 4)),), {}, ())
    (warning,) = stages.build(subject, BuildOptions(fuse=True)).made[1].warnings
    assert warning.endswith("is worth it; the exporter itself folded 1 of 2 batch norms")


class Gate:
    """Lets nothing pass that one stage has made."""

    def __init__(self, stage: str) -> None:
        self.stage, self.seen = stage, list[str]()

    def check(self, _state: PipelineState, made: Made) -> Made:
        self.seen.append(made.stage)
        return made

    def refuse(self, _state: PipelineState, made: Made) -> str:
        return "it is wrong" if made.stage == self.stage else ""


def test_the_gate_is_asked_after_every_stage(state: PipelineState) -> None:
    gate = Gate("")
    stages.run(state.back_to("export"), ALL, gate=gate)
    assert gate.seen == [stage.name for stage in ASKED[1:]]


def test_what_the_gate_refuses_ends_the_run_but_for_an_optional_stage(state: PipelineState) -> None:
    with pytest.raises(GateError, match="after 'fuse': it is wrong; nothing was written") as caught:
        stages.run(state.back_to("export"), ALL, gate=Gate("fuse"))
    assert caught.value.stage == "fuse"
    went_on = stages.run(state.back_to("export"), BuildOptions(), gate=Gate("simplify"))
    assert [made.stage for made in went_on.made] == ["export"]
    assert went_on.warnings == ("the stage 'simplify' was rolled back: it is wrong",)


def test_a_stage_that_breaks_its_contract_is_refused(state: PipelineState, monkeypatch: pytest.MonkeyPatch) -> None:
    right = stages.lowered

    def renamed(*words: Any) -> Any:
        model, report = right(*words)
        model.graph.output[0].name = "other"
        return model, report

    monkeypatch.setattr(stages, "lowered", renamed)
    with pytest.raises(ContractError):
        stages.run(state.back_to("simplify"), BuildOptions(fp16=True))


class Large(nn.Module):
    """Activations of some 1e5, and an output of some 1."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Conv2d(2, 4, 1), nn.Conv2d(4, 2, 1)
        with torch.no_grad():
            self.up.weight.mul_(2e5)
            self.down.weight.mul_(1e-5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.down(torch.relu(self.up(x)))
        return y


def test_what_is_too_large_for_float16_is_offered_and_mended() -> None:
    torch.manual_seed(0)
    subject = Subject("net", Large().eval(), (Input("x", (1, 2, 4, 4)),), {}, ())
    plain = stages.build(subject, BuildOptions(fp16=True))
    assert any("--equalize divides them by powers of two" in text for text in plain.warnings)
    account = plain.account(Float16Report)
    assert account is not None
    assert account.kept
    mended = stages.build(subject, BuildOptions(fp16=True, equalize=True))
    account = mended.account(Float16Report)
    assert account is not None
    assert account.kept == ()
    assert not any("--equalize" in text for text in mended.warnings)
    assert mended.by("equalize") is not None


class Wrong:
    """Converts another model than it is given."""

    def missing(self) -> str | None:
        return None

    def convert(self, source: Source) -> Converted:
        model = onnx.ModelProto()
        model.CopyFrom(source.exported.model)
        weight = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
        weight.raw_data = bytes(len(weight.raw_data))
        changed = replace(source, exported=replace(source.exported, model=model))
        return replace(CONVERTERS["ort"].convert(changed), name="wrong")


class OneImage:
    """Writes the network with a batch of one, as formats do that know no other."""

    def missing(self) -> str | None:
        return None

    def convert(self, source: Source) -> Converted:
        program = source.as_torch("one")
        written = io.BytesIO()
        fixed = source.fixed_dims()
        contract = source.exported.contract
        names = [port.name for port in contract.inputs], [port.name for port in contract.outputs]
        torch.onnx.export(
            program.module,
            program.at(fixed),
            written,
            input_names=names[0],
            output_names=names[1],
            dynamo=True,
            verbose=False,
        )
        return Converted("one", "onnx", {"one.onnx": written.getvalue()}, "a test", narrowed_dims=fixed)


def offered(monkeypatch: pytest.MonkeyPatch, **converters: Converter) -> None:
    """Offer these converters in place of those that there are."""
    monkeypatch.setattr(stages, "CONVERTERS", converters)
    monkeypatch.setattr(stages, "parse", lambda text: (text, ""))


@pytest.mark.filterwarnings("ignore")  # PyTorch's exporter uses what PyTorch deprecates
def test_a_file_of_one_batch_is_proven_on_every_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offered(monkeypatch, one=OneImage())
    subject = from_spec("repvgg", MECHANISMS["repvgg"], "test")
    build = BuildOptions(fuse=True, to=("one",))
    options = DeployOptions(output=tmp_path / "b", build=build, bench=False, mutants="none")
    whole = deploy.deploy(subject, options).bundle
    assert whole.artifact("one").narrowed_dims == (Dim("b", 1, 1), Dim("h", 64, 64), Dim("w", 64, 64))
    larger = next(case for case in whole.cases if case.inputs["x"].shape[0] > 1)
    one = whole.artifact("one").path
    with backends.opened("onnxruntime", one, Options()) as run_, pytest.raises(BackendError):
        run_(larger.inputs)  # it is really one
    parity = proofs.verify(whole, "onnxruntime", artifact="one")
    assert parity.ok
    assert len(parity.comparisons) + len(parity.left_out) == len(whole.cases)
    assert "h=65, and this file takes 64" in parity.summary()
    compared = {one.case for one in parity.comparisons}
    assert {len(case.inputs["x"]) for case in whole.cases if case.name in compared} > {1}  # batches in pieces
    # Proven of the fused network, as ``--fuse`` says.
    assert sum(node.op_type == "BatchNormalization" for node in onnx.load(whole.path / "one.onnx").graph.node) == 0


def test_a_converter_that_changes_the_model_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offered(monkeypatch, wrong=Wrong())
    subject = from_spec("se", MECHANISMS["se"], "test")
    options = DeployOptions(output=tmp_path / "b", build=BuildOptions(to=("wrong",)), bench=False, mutants="none")
    with pytest.raises(GateError, match="after 'convert': parity fails"):
        deploy.deploy(subject, options)
    assert not (tmp_path / "b").exists()


def test_a_converted_model_is_an_artifact_with_a_proof_of_its_own(tmp_path: Path) -> None:
    subject = from_spec("se", MECHANISMS["se"], "test")
    options = DeployOptions(output=tmp_path / "b", build=BuildOptions(to=("ort",)), bench=False, mutants="none")
    result = deploy.deploy(subject, options)
    assert [(one.name, one.kind) for one in result.bundle.artifacts] == [("model", "onnx"), ("ort", "ort")]
    runs = bundle.report(result.bundle)["runs"]
    assert [(run["artifact"], run["parity"]["ok"]) for run in runs] == [("model", True), ("ort", True)]
    (tmp_path / "b" / "model.ort").write_bytes(b"other")
    with pytest.raises(BundleError, match=r"model\.ort"):
        bundle.read(tmp_path / "b")


def test_an_unknown_format_is_said_with_those_that_are_known() -> None:
    subject = from_spec("se", MECHANISMS["se"], "test")
    with pytest.raises(UnknownNameError, match=r"no converter 'tflit'; known: .*ort"):
        stages.build(subject, BuildOptions(to=("tflit",)))


def test_a_stage_without_what_it_requires_is_an_error(state: PipelineState, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "STAGES", stages.STAGES[1:])
    with pytest.raises(ConversionError, match="simplify: expected an exported model, got none"):
        stages.run(replace(state, made=()), BuildOptions())


def test_one_artifact_of_several_is_proven_or_measured_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = run("se", "--preset", "test", "--to", "ort", "--no-bench", "--mutants", "none", "-o", "b")
    assert made.code == 0, made
    both, alone = run("verify", "b", "--json"), run("verify", "b", "--artifact", "ort", "--json")
    assert [row["artifact"] for row in both.json["runs"]] == ["model", "ort"]
    assert [row["artifact"] for row in alone.json["runs"]] == ["ort"]
    assert "known: model, ort" in run("verify", "b", "--artifact", "nope").err
    timed = run("bench", "b", "--artifact", "ort", "--duration", "0", "--iterations", "1", "--json")
    assert [row["artifact"] for row in timed.json["runs"]] == ["ort"]


def test_what_a_stage_leaves_as_it_was_is_proven_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model that fusing gave back is the one that was proven as the export's."""
    subject = from_spec("se", MECHANISMS["se"], "test")
    asked: list[int] = []
    prove = gate.prove

    def counted(*words: Any, **options: Any) -> Any:
        asked.append(1)
        return prove(*words, **options)

    monkeypatch.setattr(gate, "prove", counted)
    options = DeployOptions(build=BuildOptions(fuse=True), output=tmp_path / "se", bench=False, mutants="none")
    result = deploy.deploy(subject, options)
    assert [stage.name for stage in result.stages] == ["export", "fuse", "simplify"]
    assert len(asked) == 2
    assert result.stages[0].parity is result.stages[1].parity
