"""Modules that are no plain class in evaluation mode: lazy ones, programs, parts in lists, training mode left on."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attn_export.errors import ExportError, SubjectError
from attn_export.export import reference
from attn_export.export.audit import constants
from attn_export.export.copies import copied
from attn_export.export.exporting import export_subject
from attn_export.export.float64_run import double_inputs, doubled, in_float64
from attn_export.export.outputs import evaluate
from attn_export.export.parts import hidden
from attn_export.export.refused_files import refusal
from attn_export.export.source import SourceOptions
from attn_export.export.sources import SOURCES, load
from attn_export.export.sources.user_code import from_code
from attn_export.pipeline.options import BuildOptions
from attn_export.pipeline.stages import build
from tests.export.models import Conv

HERE = "tests.export.test_odd_modules:"


def lazy() -> nn.Module:
    return nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.Flatten(), nn.LazyLinear(5))


class Unused(Conv):
    def __init__(self) -> None:
        super().__init__()
        self.spare = nn.LazyLinear(3)


def program() -> torch.export.ExportedProgram:
    net = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4, eps=1e-3)).eval()
    return torch.export.export(net, (torch.ones(1, 3, 8, 8),))


class InList(Conv):
    def __init__(self) -> None:
        super().__init__()
        self.norms = [nn.BatchNorm2d(4), nn.BatchNorm2d(4)]
        self.more = {"last": (nn.PReLU(4),)}

    def after(self, y: Tensor) -> Tensor:
        for norm in self.norms:
            y = norm(y)
        return self.more["last"][0](y)  # type: ignore[no-any-return]


class OwnNorm(Conv):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(4))
        for name in ("running_mean", "running_var"):
            self.register_buffer(name, torch.rand(4) + 0.5)

    def after(self, y: Tensor) -> Tensor:
        return F.batch_norm(y, self.running_mean, self.running_var, self.weight, None, False, 0.1, 1e-3)


class Orthogonal(Conv):
    """A weight that is computed by an operator that ONNX does not have."""

    def __init__(self) -> None:
        super().__init__()
        self.l = nn.utils.parametrizations.orthogonal(nn.Linear(8, 8))

    def after(self, y: Tensor) -> Tensor:
        return self.l(y)


class Chooses(Conv):
    def after(self, y: Tensor) -> Tensor:
        wide = torch.full((8,), 1 / 3)
        return torch.cond(y.sum() > 0, lambda v: v * torch.full((8,), 1 / 3), lambda v: v - 1, (y,)) * wide  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", ["lazy", "program", "InList", "OwnNorm", "Orthogonal", "Chooses"])
def test_it_runs_in_float64_and_all_its_constants_are_accounted_for(name: str) -> None:
    subject = from_code(f"{HERE}{name}", ["1x3x8x8"])
    x = subject.example()
    with in_float64():
        exact = evaluate(doubled(subject.module), double_inputs(x))["y"]
    plain = evaluate(subject.module, x)["y"]
    assert exact.dtype == torch.float64
    assert 0 < float((exact - plain).abs().max()) < 1e-4
    model = export_subject(subject).model
    audit = constants.audit_initializers(model, constants.known(subject.module))
    assert not audit.findings, audit.findings[0]
    assert audit.checked


def test_lazy_layers_are_said_and_get_the_weights_of_the_seed() -> None:
    one, same, other = (from_code(f"{HERE}lazy", ["1x3x8x8"], seed=seed) for seed in (0, 0, 1))
    assert one.notes == ("lazy layers have taken their sizes from one run on these inputs: 0, 1, 3",)
    weights = [subject.module.state_dict()["3.weight"] for subject in (one, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    with pytest.raises(SubjectError, match="spare stays without weights"):
        from_code(f"{HERE}Unused", ["1x3x8x8"])


def test_parts_in_lists_are_named_and_evaluated() -> None:
    subject = from_code(f"{HERE}InList", ["1x3x8x8"])
    assert list(hidden(subject.module)) == ["norms.0", "norms.1", "more.last.0"]
    assert not any(part.training for part in hidden(subject.module).values())
    assert (
        "no checkpoint reaches, keep the weights of their constructor: norms.0, norms.1, more.last.0"
        in subject.notes[0]
    )


def wide() -> nn.Module:
    return Conv().double()


def half() -> nn.Module:
    return Conv().half()


def test_a_module_of_another_precision_is_said() -> None:
    with pytest.raises(ExportError, match=r"wide computes in float64, .* def net\(\): return Net\(\).float\(\)"):
        build(from_code(f"{HERE}wide", ["1x3x8x8:float64"]), BuildOptions(), through="export")
    state = build(from_code(f"{HERE}half", ["1x3x8x8:float16"]), BuildOptions(), through="export")
    assert state.precision.name == "float16"
    assert state.warnings == ("the graph computes in float16: it is held to 40 dB against its own float64 meaning",)


class Listens(Conv):
    """Its hook holds the module itself, which a copy is not."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []
        self.c.register_forward_hook(lambda _m, _x, y: self.seen.append(y))

    def forward(self, x: Tensor) -> Tensor:
        self.seen.clear()
        self.c(x)
        return self.seen[0]


def patched() -> nn.Module:
    net = Conv()
    net.forward = lambda x: net.c(x) * 2  # type: ignore[method-assign]
    return net


@pytest.mark.parametrize("name", ["Listens", "patched"])
def test_functions_that_hold_the_module_are_copied_with_it(name: str) -> None:
    subject = from_code(f"{HERE}{name}", ["1x3x8x8"])
    reference.refuse_dice(subject)
    (case,) = reference.on(subject, [("one", subject.example())])
    assert case.reference["y"].dtype == "float64"
    assert 0 < case.float32_error["y"] < 1e-4
    own = copied(subject.module)
    own.c.weight.zero_()  # type: ignore[union-attr, operator]
    assert float(subject.module.c.weight.abs().max()) > 0  # type: ignore[union-attr, operator]


class Anchors(Conv):
    """Keeps a grid of the size that it saw last, as detectors do."""

    def __init__(self) -> None:
        super().__init__()
        self.shape: torch.Size | None = None
        self.grid = torch.empty(0)

    def after(self, y: Tensor) -> Tensor:
        if self.shape != y.shape:
            self.grid, self.shape = torch.arange(y.shape[-1]).float().expand(y.shape), y.shape
        return y + self.grid


def test_what_a_run_keeps_is_not_in_the_trace() -> None:
    subject = from_code(f"{HERE}Anchors", ["b=2x3x8x8"])
    reference.refuse_dice(subject)
    assert subject.module.shape is None
    (port,) = export_subject(subject).contract.inputs
    assert port.shape == ("b", 3, 8, 8)
    assert subject.module.shape is None


class TrainsNorm(Conv):
    def __init__(self) -> None:
        super().__init__()
        self.n, self.d = nn.BatchNorm2d(4), nn.Dropout()

    def after(self, y: Tensor) -> Tensor:
        return self.n.train()(y)  # type: ignore[no-any-return]


class TrainsDropout(TrainsNorm):
    def after(self, y: Tensor) -> Tensor:
        return self.d.train()(y)  # type: ignore[no-any-return]


class Stuck(TrainsNorm):
    def train(self, mode: bool = True) -> Stuck:
        return super().train(True or mode)  # noqa: SIM222


class Harmless(Conv):
    def after(self, y: Tensor) -> Tensor:
        self.c.train()
        return y


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("TrainsNorm", r"forward puts n \(BatchNorm2d\) in training mode, where it takes the statistics of the batch"),
        ("TrainsDropout", r"forward puts d \(Dropout\) in training mode, where it draws random numbers"),
        ("Stuck", r"eval\(\) leaves n \(BatchNorm2d\), d \(Dropout\) in training mode"),
        ("Harmless", ""),
    ],
)
def test_what_is_in_training_mode_is_named(name: str, why: str) -> None:
    if not why:
        assert from_code(f"{HERE}{name}", ["1x3x8x8"])
        return
    with pytest.raises(SubjectError, match=why):
        from_code(f"{HERE}{name}", ["1x3x8x8"])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("net.pt2", "def net(): return torch.export.load('net.pt2')"),
        ("folder/net.pt2:Net", "PyTorch reads it by pickle, which runs whatever code is in it"),
        ("script.pt", "attn-export file.py:Class --input … --weights script.pt"),
        ("net.safetensors", "holds weights alone"),
        ("net.tflite", "convert it to ONNX"),
    ],
)
def test_a_file_that_cannot_be_read_without_running_it_has_a_way_out(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(SubjectError) as caught:
        load(SourceOptions(text=text))
    assert words in str(caught.value)
    assert not refusal("net.onnx")
    assert not refusal("net.py:Net")
    assert "user_code" in SOURCES


def test_functions_that_hold_what_cannot_be_copied_are_taken_as_they_are() -> None:
    """Such as ONNX's schemas, which the functions hold that evaluate a graph."""
    held = [onnx.defs.get_schema("Relu")]
    module = nn.ReLU()
    module.forward = lambda x: x.relu() if held else x  # type: ignore[method-assign]
    assert copied(module).forward is module.forward
