"""The int8 model on other runtimes: with its own codes, held to its own meaning, and a wrong file is caught."""

from __future__ import annotations

import json
import platform
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from attn_export import api, bundle
from attn_export.bundle import Bundle
from attn_export.deploy_tests import backends, open_bundle
from attn_export.deploy_tests.backend import CompileOptions, Options
from attn_export.deploy_tests.compiling.evidence import graph_hash
from attn_export.deploy_tests.parity import simulated
from attn_export.deploy_tests.parity.compare import Parity
from attn_export.deploy_tests.parity.verify import verify
from attn_export.errors import BackendError, ExportError, GateError, UsageError
from attn_export.export.converters import CONVERTERS, INT8, Converted, Source
from attn_export.export.mutants import quantised as faults
from attn_export.export.onnx.exported import Contract, Exported
from attn_export.export.quantise import pairs
from attn_export.pipeline import deploy, stages
from attn_export.pipeline.options import BuildOptions, DeployOptions, Int8Options
from attn_export.tools.commands import device
from attn_export.types import Dim, ShapeRange
from tests.data.trained.pictures import part
from tests.data.trained.trained import module
from tests.edge import needs, require
from tests.tools.run import run

#: OpenVINO adds 8-bit products in 16 bits on other x86 processors, and the gate says so: 17.4 dB of 20 on an AMD EPYC.
WHOLE = platform.machine() != "x86_64" or "vnni" in Path("/proc/cpuinfo").read_text()
pytestmark = [
    pytest.mark.edge,
    pytest.mark.skipif(not WHOLE, reason="a processor without VNNI: OpenVINO cuts sums off"),
]

#: Faults of the graph that is converted, which cost more than rounding did.
FAULTS = ("weight scale halved", "one scale for all channels", "activation saturated")
#: Files of which half are learnt from, and a quarter are the bundle's cases.
FILES = 48


def offered(folder: Path) -> Path:
    """Write pictures, one a file."""
    folder.mkdir()
    for index, picture in enumerate(part("textures", "calibration").x[:FILES]):
        np.save(folder / f"{index:02}.npy", picture[None])
    return folder


def made(folder: Path, data: Path, *to: str) -> Bundle:
    """Run the main job on a trained network."""
    import torch

    subject = api.load(module("repvgg"), (torch.zeros(2, 3, 32, 32),), dynamic={"x": {0: Dim("b", 1)}}, name="repvgg")
    build = BuildOptions(fuse=True, int8=Int8Options(), to=to)
    options = DeployOptions(output=folder, build=build, data=data, bench=False, mutants="none")
    return deploy.deploy(subject, options).bundle


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return offered(tmp_path_factory.mktemp("data") / "pictures")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Bundle:
    needs("litert_torch", "ai_edge_litert", "openvino")
    return made(tmp_path_factory.mktemp("int8") / "b", data, "litert", "litert:int8", "openvino:int8")


def source(whole: Bundle, int8: onnx.ModelProto) -> Source:
    """Give what a converter of a bundle's int8 model is given, with a model of ours."""
    contract = Contract(whole.inputs, whole.outputs, whole.dynamic_dims, whole.manifest["opset"])
    plain = whole.artifact("litert")
    files = {path.name: path.read_bytes() for path in plain.files}
    known = Converted(plain.name, plain.kind, files, plain.produced_by, narrowed_dims=plain.narrowed_dims)
    exported = Exported(onnx.load(whole.model), contract)
    return Source(exported, whole.cases[0].inputs, asked=INT8, int8=int8, made={"litert": known})


def with_fault(whole: Bundle, kind: str) -> onnx.ModelProto:
    """Give the int8 model with the first fault of a kind."""
    model = onnx.load(whole.artifact("int8").path)
    return next(one for one in faults.mutations(model) if one.kind == kind).of(model)


def proven(whole: Bundle, to: str, int8: onnx.ModelProto, folder: Path) -> Parity:
    """Convert an int8 model, and prove the file in the place of the bundle's own."""
    return in_its_place(whole, to, CONVERTERS[to].convert(source(whole, int8)), folder)


def in_its_place(whole: Bundle, to: str, one: Converted, folder: Path) -> Parity:
    """Prove a file in the place of the bundle's own."""
    for name, content in one.files.items():
        (folder / name).write_bytes(content)
    artifact = replace(whole.artifact(one.name), files=tuple(folder / name for name in one.files))
    others = tuple(artifact if other.name == one.name else other for other in whole.artifacts)
    return verify(replace(whole, artifacts=others), to, artifact=one.name)


@pytest.mark.parametrize("to", ["litert", "openvino"])
def test_it_is_an_artifact_that_is_held_to_the_meaning_and_to_the_original(whole: Bundle, to: str) -> None:
    artifact = whole.artifact(f"{to}-int8")
    assert (artifact.precision, artifact.snr_db_limit) == ("int8", 20.0)
    assert len(artifact.meaning) >= 12
    parity = verify(whole, to, artifact=artifact.name)
    assert parity.ok
    original, meaning = parity.centred
    assert original.least.median_db >= 30
    # OpenVINO rounds as the graph says; LiteRT multiplies by integers and shifts.
    assert meaning.least.median_db >= (40 if to == "litert" else 100)
    record = next(one for one in whole.manifest["artifacts"] if one["name"] == artifact.name)["quantisation"]
    assert (record["meaning"], record["int8_sites"], len(record["float_sites"])) == ("int8.npz", 11, 1)
    assert record["figures"][0]["median_db"] == pytest.approx(original.least.median_db)


@pytest.mark.parametrize("kind", FAULTS)
@pytest.mark.parametrize("to", ["litert", "openvino"])
def test_a_wrong_file_is_caught(to: str, kind: str, whole: Bundle, tmp_path: Path) -> None:
    parity = proven(whole, to, with_fault(whole, kind), tmp_path)
    assert not parity.ok
    assert not parity.centred[1].ok, "it is another model than the int8 graph says"


def scale_halved(file: Any, layers: list[Any], place: int) -> None:
    tensor = file.graph.tensors[int(layers[1].inputs[place])]
    tensor.quantization.scale = tensor.quantization.scale / 2


def data_halved(file: Any, layers: list[Any]) -> None:
    scale_halved(file, layers, 0)


def weight_halved(file: Any, layers: list[Any]) -> None:
    scale_halved(file, layers, 1)


def zero_points_of_unsigned_codes(file: Any, layers: list[Any]) -> None:
    """What a writer does that forgets that codes are signed here: off by one is nothing where all readers agree."""
    del layers
    for tensor in file.graph.tensors:
        known = tensor.quantization
        if known is not None and known.zeroPoint is not None and (known.zeroPoint == -128).all():
            known.zeroPoint = known.zeroPoint + 128


def one_scale(file: Any, layers: list[Any]) -> None:
    """What a writer does that knows one scale for a weight."""
    for layer in layers:
        weight, bias = (file.graph.tensors[int(tensor)] for tensor in layer.inputs[1:])
        scale = weight.quantization.scale
        ratio, most = scale / scale.max(), np.argmax(scale)
        codes = np.asarray(file.model.buffers[weight.buffer].data, np.uint8).view(np.int8).reshape(weight.shape)
        coarse = np.rint(codes * ratio[:, None, None, None]).astype(np.int8)
        file.model.buffers[weight.buffer].data = coarse.ravel().view(np.uint8)
        added = np.asarray(file.model.buffers[bias.buffer].data, np.uint8).view(np.int32)
        file.model.buffers[bias.buffer].data = np.rint(added * ratio).astype(np.int32).view(np.uint8)
        for one in (weight, bias):
            one.quantization.scale, one.quantization.zeroPoint = one.quantization.scale[[most]], np.zeros(1, np.int64)


@pytest.mark.parametrize("fault", [data_halved, weight_halved, zero_points_of_unsigned_codes, one_scale])
def test_a_fault_in_the_flat_buffer_is_caught(fault: Any, whole: Bundle, tmp_path: Path) -> None:
    from attn_export.export.converters.litert.flatbuffer import File

    own = whole.artifact("litert-int8")
    file = File(own.path.read_bytes())
    fault(file, [one for one in file.operators if file.name(one) == "CONV_2D"])
    made = Converted(own.name, own.kind, {own.path.name: file.content()}, own.produced_by)
    assert not in_its_place(whole, "litert", made, tmp_path).ok


def test_pairs_that_disagree_are_refused(whole: Bundle) -> None:
    with pytest.raises(ExportError, match="expected pairs with one scale and zero point, got two of"):
        CONVERTERS["litert"].convert(source(whole, with_fault(whole, "zero point off by one")))


def test_a_zero_point_off_by_one_is_caught_on_openvino(whole: Bundle, tmp_path: Path) -> None:
    assert not proven(whole, "openvino", with_fault(whole, "zero point off by one"), tmp_path).ok


@pytest.mark.parametrize("to", ["litert", "openvino"])
def test_the_same_way_takes_the_right_model(to: str, whole: Bundle, tmp_path: Path) -> None:
    assert proven(whole, to, onnx.load(whole.artifact("int8").path), tmp_path).ok


def test_the_gate_of_the_job_refuses_it_and_nothing_is_written(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs("openvino")

    class Planted:
        def missing(self) -> str | None:
            return None

        def convert(self, source: Source) -> Converted:
            assert source.int8 is not None
            wrong = next(one for one in faults.mutations(source.int8) if one.kind == "weight scale halved")
            return CONVERTERS["openvino"].convert(replace(source, int8=wrong.of(source.int8)))

    monkeypatch.setattr(stages, "CONVERTERS", {"openvino": Planted()})
    with pytest.raises(GateError, match=r"after 'convert int8': .* nothing was written") as caught:
        made(tmp_path / "b", data, "openvino:int8")
    assert caught.value.exit_code == 1
    assert not (tmp_path / "b").exists()


def test_without_an_int8_model_there_is_no_file_of_it(data: Path, tmp_path: Path) -> None:
    import torch

    subject = api.load(module("repvgg"), (torch.zeros(2, 3, 32, 32),), name="repvgg")
    options = DeployOptions(output=tmp_path / "b", build=BuildOptions(to=("openvino:int8",)), data=data)
    with pytest.raises(UsageError, match="--to openvino:int8 is made from the int8 model: add --int8 --data DIR"):
        deploy.deploy(subject, options)


def test_the_file_has_the_codes_of_the_graph(whole: Bundle) -> None:
    from attn_export.export.converters.litert.flatbuffer import File

    file = File(whole.artifact("litert-int8").path.read_bytes())
    known = pairs.read(onnx.load(whole.model), onnx.load(whole.artifact("int8").path))
    layers = {one.layer.node: one for one in known.layers if one.codes is not None and one.scales is not None}
    convolutions = [one for one in file.operators if file.name(one) == "CONV_2D"]
    assert len(convolutions) == len(layers) == 11
    for operator, layer in zip(convolutions, layers.values(), strict=True):
        data, weight, bias = (file.graph.tensors[int(tensor)] for tensor in operator.inputs)
        raw = np.asarray(file.model.buffers[weight.buffer].data, np.uint8).view(np.int8).reshape(weight.shape)
        assert layer.codes is not None
        assert (raw == np.moveaxis(layer.codes, 1, 3)).all()
        assert (np.asarray(weight.quantization.scale) == layer.scales).all()
        code = known.rounded[layer.layer.reads]
        assert (data.quantization.scale[0], data.quantization.zeroPoint[0]) == (
            np.float32(code.scale),
            code.zero_point - 128,
        )
        steps = np.asarray(bias.quantization.scale, np.float64)
        codes = np.asarray(file.model.buffers[bias.buffer].data, np.uint8).view(np.int32)
        assert layer.bias is not None
        assert (np.abs(codes * steps - layer.bias) <= steps * 0.51).all()


def pieces() -> Any:
    """A network of everything that a file takes apart: gates, h-swish, a depth-wise kernel, norms, sums, two inputs."""
    import torch
    import torch.nn.functional as F
    from torch import Tensor, nn

    class Pieces(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 16, 3, 2, 1)
            self.depthwise = nn.Conv2d(16, 16, 3, 1, 1, groups=16)
            self.squeeze, self.excite = nn.Conv2d(16, 8, 1), nn.Conv2d(8, 16, 1)
            self.project = nn.Conv2d(16, 16, 1, bias=False)
            self.norm, self.wide, self.narrow = nn.LayerNorm(16), nn.Linear(16, 48), nn.Linear(48, 16)
            self.head = nn.Linear(16, 5)
            nn.init.normal_(self.norm.weight, 1, 0.2)
            nn.init.normal_(self.norm.bias, 0, 0.2)

        def forward(self, x: Tensor) -> Tensor:
            x = F.hardswish(self.stem(x))
            y = self.depthwise(x)
            y = F.hardswish(y * F.hardsigmoid(self.excite(torch.relu(self.squeeze(y.mean((2, 3), keepdim=True))))))
            x = x + self.project(F.max_pool2d(y, 3, 1, 1))
            t = x.flatten(2).transpose(1, 2)
            t = t + self.narrow(F.gelu(self.wide(self.norm(t))))
            z: Tensor = self.head(t.mean(1))
            return z

    torch.manual_seed(0)
    return Pieces().eval()


@pytest.mark.parametrize("least", [None, 45.0])
def test_every_piece_means_what_the_graph_means(least: float | None) -> None:
    """With an aim that int8 does not reach some layers are in float, in the file as in the graph."""
    needs("litert_torch", "ai_edge_litert")
    import torch

    from attn_export.export.converters.litert.flatbuffer import File
    from attn_export.export.quantise.judge import ratios
    from attn_export.export.quantise.quantise import quantise
    from attn_export.export.quantise.quantised import Wish
    from attn_export.export.quantise.watch import looked

    subject = api.load(pieces(), (torch.zeros(1, 3, 16, 16),), name="pieces")
    state = stages.build(subject, BuildOptions(to=("litert",)))
    feeds = [{"x": one[None, :, ::2, ::2].copy()} for one in part("textures", "calibration").x]
    found = quantise(state.model.model, feeds[:32], feeds[32:48], Wish(least), lambda _: None)
    floats = {site.node for site in found.sites if site.form != "int8"}
    assert bool(len(floats) > 1) == (least is not None)
    one = CONVERTERS["litert"].convert(
        Source(state.model, state.feeds[0], asked=INT8, int8=found.model, made={"litert": state.converted[0]})
    )
    assert one.floats == {}
    content = next(iter(one.files.values()))
    file = File(content)
    kinds = {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"}
    # Of a hard swish that stays in float Vela takes its steps alone.
    assert not any(file.name(op) == "HARD_SWISH" and file.is_float(int(op.inputs[0])) for op in file.operators)
    integers = [op for op in file.operators if file.name(op) in kinds and not file.is_float(int(op.inputs[1]))]
    assert len(integers) == len(found.sites) - len(floats)
    name = state.model.contract.outputs[0].name
    meaning = [values[name][0] for values in looked(found.model, [name], feeds[48:])]
    came = [answer[0] for answer in answers(content, feeds[48:])]
    assert np.median(ratios(meaning, came)) >= (35 if least is None else 45)


def answers(content: bytes, feeds: list[dict[str, Any]]) -> list[Any]:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=content, num_threads=1)
    interpreter.allocate_tensors()
    (into,), (out,) = interpreter.get_input_details(), interpreter.get_output_details()
    found = []
    for one in feeds:
        interpreter.set_tensor(into["index"], one["x"])
        interpreter.invoke()
        found.append(interpreter.get_tensor(out["index"]).copy())
    return found


def test_a_layer_that_the_file_lacks_stays_in_float_and_is_said(whole: Bundle) -> None:
    from attn_export.export.converters.litert import int8

    plain, own = onnx.load(whole.model), onnx.load(whole.artifact("int8").path)
    known = pairs.read(plain, own)
    content = whole.artifact("litert").path.read_bytes()
    first, *rest = known.layers
    other = replace(first, float_weight=first.float_weight + 1)
    refused = replace(known, layers=(other, *rest))
    with pytest.raises(ExportError, match="no operator with its weights, and its channels were levelled"):
        int8.rewritten(content, refused)
    near = replace(first, float_weight=first.float_weight * np.float32(1.01))
    found = int8.rewritten(content, replace(known, layers=(near, *rest)))
    assert dict(found.floats) == {first.layer.node: "the file has no operator with its weights"}


def test_a_float_graph_is_no_int8_to_openvino(whole: Bundle) -> None:
    with (
        pytest.raises(BackendError, match=r"expected layers that multiply integers, got \d+ in f32"),
        backends.opened("openvino", whole.model, Options(precision="int8")),
    ):
        pass


def test_a_ranking_has_every_int8_file(whole: Bundle) -> None:
    """It takes every artifact on every backend that accepts it."""
    taken = {(one.name, name) for name in ("litert", "openvino") for one in open_bundle.accepted(whole, name)}
    assert {("int8", "openvino"), ("openvino-int8", "openvino"), ("litert-int8", "litert")} <= taken


def compiled(whole: Bundle, target: str, capsys: pytest.CaptureFixture[str], **more: Any) -> dict[str, Any]:
    device.compile_(device.CompileRequest(path=whole.path, target=target, **more), as_json=True)
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_qualcomms_compiler_takes_the_int8_model(whole: Bundle, tmp_path: Path, capsys: Any) -> None:
    needs("onnxruntime_qnn")
    copy = bundle.read(copied(whole, tmp_path / "b"))
    found = compiled(copy, "qnn:sm8650", capsys, precision="int8", simulate=True)
    assert found["sha256"] == graph_hash(copy.artifact("int8").path), "it is the bundle's own, and not quantised again"
    assert (found["precision"], found["chip"]) == ("int8", "SM8650")
    assert found["simulated"]["centred"]
    right = found["simulated"]["snr_db"]
    # It takes a pair's scale and zero point from the QuantizeLinear: what only the other has wrong is nothing to it.
    for kind in ("weight scale halved", "activation saturated"):
        onnx.save(with_fault(whole, kind), tmp_path / "wrong.onnx")
        cases = simulated.fitting(whole.cases, {"x": (1, 3, 32, 32)}, whole.artifact("int8").meaning)
        feeds = tuple(case.inputs for case in cases)
        options = CompileOptions(shapes={"x": ShapeRange(*[(1, 3, 32, 32)] * 3)}, simulate=feeds)
        evidence = backends.compile_only("qnn", tmp_path / "wrong.onnx", options)
        wrong = simulated.judge_int8(cases, evidence.simulated, whole.outputs)
        assert wrong.snr_db is not None
        assert wrong.snr_db < right - 3


def test_velas_compiler_takes_the_int8_file(whole: Bundle, tmp_path: Path, capsys: Any) -> None:
    from attn_export.deploy_tests.backends.ethos_u.backend import EthosU

    require(EthosU().missing_compiler())
    copy = bundle.read(copied(whole, tmp_path / "b"))
    found = compiled(copy, "ethos-u85-256", capsys)
    assert found["sha256"] == graph_hash(copy.artifact("litert-int8").path)
    assert found["flags"] == {"quantized_here": False}
    assert found["placement"]["accelerator"] >= 11
    assert found["estimate"]["NPU cycles"] > 0
    plain = compiled(copy, "ethos-u85-256", capsys, artifact="litert")
    assert plain["flags"] == {"quantized_here": True}


def copied(whole: Bundle, into: Path) -> Path:
    import shutil

    return Path(shutil.copytree(whole.path, into))


@pytest.mark.parametrize("to", ["qnn:int8", "ethos_u:int8"])
def test_who_compiles_is_named_where_nothing_is_converted(to: str) -> None:
    done = run("repvgg", "--to", to)
    assert done.code == 2
    assert f"nothing is converted for {to.partition(':')[0]}, it compiles the bundle's own files" in done.err
    assert "--precision int8" in done.err
