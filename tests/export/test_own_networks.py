"""The user's own network: inputs by name, outputs by name, and float64 whatever its code says."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict, namedtuple
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from attn_export.errors import SubjectError, UsageError
from attn_export.export.exporting import export_subject
from attn_export.export.float64_run import double_inputs, doubled, in_float64
from attn_export.export.input_shapes import parse_input
from attn_export.export.outputs import bound, evaluate, flatten
from attn_export.export.sources.user_code import from_code
from attn_export.export.unwrapped import unwrapped

ONE = torch.ones(1)


class Three(nn.Module):
    def forward(self, image: Tensor, prior: Tensor | None = None, *, mask: Tensor | None = None) -> Tensor:
        return image + (0 if prior is None else 10 * prior) + (0 if mask is None else 100 * mask)


class Plain(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x - y


@pytest.mark.parametrize(
    ("names", "expected"),
    [(["image"], 1), (["image", "mask"], 101), (["image", "prior"], 11), (["image", "prior", "mask"], 111)],
)
def test_an_input_goes_to_the_parameter_of_its_name(names: list[str], expected: float) -> None:
    assert evaluate(Three(), dict.fromkeys(names, ONE))["y"].item() == expected


def test_order_does_not_matter_where_names_are_forwards_own() -> None:
    assert evaluate(Plain(), {"y": ONE, "x": 3 * ONE})["out"].item() == 2
    positional, keywords = bound(Plain(), {"y": ONE, "x": 3 * ONE})
    assert not positional
    assert list(keywords) == ["y", "x"]


def test_names_of_the_users_own_go_by_position() -> None:
    assert evaluate(Plain(), {"left": 3 * ONE, "right": ONE})["y"].item() == 2


Pair = namedtuple("Pair", ("boxes", "scores"))


@dataclasses.dataclass
class Output:
    logits: Tensor
    loss: Tensor | None = None
    states: tuple[Tensor, ...] = ()


@pytest.mark.parametrize(
    ("outputs", "names"),
    [
        (ONE, ["y"]),
        ((ONE, [ONE]), ["y0", "y1"]),
        ((ONE, None), ["y"]),
        ({"scores": ONE, "boxes": ONE}, ["scores", "boxes"]),
        (OrderedDict(out=ONE, aux=None), ["out"]),
        (Pair(ONE, ONE), ["boxes", "scores"]),
        (Output(ONE, None, (ONE, ONE)), ["logits", "states.0", "states.1"]),
        ((ONE, {"a": ONE}), ["y0", "y1.a"]),
        ({"x": ONE}, ["x_y"]),
    ],
)
def test_outputs_keep_their_keys(outputs: object, names: list[str]) -> None:
    assert list(flatten(outputs, ["x"])) == names


SOURCE = """
import warnings
import torch
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.c = nn.Conv2d(3, 8, 1)
    def forward(self, image, prior=None, *, mask=None):
        y = self.c(image)
        y = y if prior is None else y + 10 * prior
        return {"scores": y if mask is None else y * mask, "none": None, "boxes": y.mean((2, 3))}
class Norm(nn.Module):
    def __init__(self):
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.a = nn.utils.weight_norm(nn.Conv1d(4, 8, 3))
    def forward(self, x):
        return self.a(x)
def Compiled():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.compile(nn.Conv2d(3, 4, 1))
def Parallel(): return nn.DataParallel(nn.Conv2d(3, 4, 1))
def Traced():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.trace(nn.Conv2d(3, 4, 1).eval(), torch.ones(1, 3, 4, 4))
def Scripted():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.script(nn.Conv2d(3, 4, 1).eval())
"""


@pytest.fixture
def net(tmp_path: Path) -> str:
    file = tmp_path / "net.py"
    file.write_text(SOURCE, encoding="utf-8")
    return str(file)


def test_the_graph_has_inputs_and_outputs_by_name(net: str) -> None:
    subject = from_code(f"{net}:Net", ["mask:b=2x8x4x4", "image:b=2x3x4x4"])
    assert [item.name for item in subject.inputs] == ["image", "mask"], "in forward's order"
    exported = export_subject(subject)
    assert [port.name for port in exported.contract.inputs] == ["image", "mask"]
    assert [port.shape for port in exported.contract.inputs] == [("b", 3, 4, 4), ("b", 8, 4, 4)]
    assert [port.name for port in exported.contract.outputs] == ["scores", "boxes"]


@pytest.mark.parametrize(
    ("shapes", "why"),
    [
        (["mask:1x8x4x4", "foo:1x3x4x4"], "--input names 'foo'; Net.forward takes image, prior, mask"),
        (["mask:1x8x4x4"], "Net.forward needs 'image' as well"),
    ],
)
def test_a_name_that_fits_no_parameter_is_an_error(net: str, shapes: list[str], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        from_code(f"{net}:Net", shapes)


def test_what_wraps_a_module_is_taken_off(net: str) -> None:
    for name in ("Compiled", "Parallel"):
        assert isinstance(from_code(f"{net}:{name}", ["1x3x4x4"]).module, nn.Conv2d)
    for name in ("Traced", "Scripted"):
        with pytest.raises(SubjectError, match="which is TorchScript"):
            from_code(f"{net}:{name}", ["1x3x4x4"])


def test_an_old_weight_norm_can_be_copied_and_run_twice(net: str) -> None:
    subject = from_code(f"{net}:Norm", ["x:1x4x9"])
    exact = doubled(subject.module)
    x = subject.example()
    assert evaluate(exact, double_inputs(x))["y"].dtype == torch.float64
    assert evaluate(doubled(exact), double_inputs(x))["y"].dtype == torch.float64


class Narrow(nn.Module):
    """Names float32 wherever one can."""

    def __init__(self) -> None:
        super().__init__()
        self.basis = [torch.full((4, 4), 1 / 3)]
        self.register_buffer("steps", torch.arange(4).float() / 7)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.softmax(x.float() @ self.basis[0], -1)
        place = torch.arange(4, dtype=torch.float32) / 3 + torch.eye(4)[0] / 7 + torch.tensor([0.1, 0.2, 0.3, 0.4])
        return (y * place).to(torch.float32) + self.steps + torch.zeros(4, dtype=torch.float16)


def test_the_reference_is_float64_whatever_the_code_says() -> None:
    x = torch.randn(2, 4, dtype=torch.float64)
    exact = doubled(Narrow())
    with in_float64():
        found = evaluate(exact, {"x": x})["y"]
    basis = torch.full((4, 4), 1 / 3).double()  # as the module holds it, rounded once
    place = torch.arange(4).double() / 3 + torch.eye(4).double()[0] / 7 + torch.tensor([0.1, 0.2, 0.3, 0.4]).double()
    exactly = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    place = place - torch.tensor([0.1, 0.2, 0.3, 0.4]).double() + exactly
    wanted = torch.softmax(x @ basis, -1) * place + (torch.arange(4).float() / 7).double()
    assert found.dtype == torch.float64
    assert float((found - wanted).abs().max()) < 1e-15
    assert torch.get_default_dtype() == torch.float32


class Bits(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + (torch.tensor([1065353216], dtype=torch.int32).view(torch.float32))


def test_bits_read_as_a_type_are_no_precision() -> None:
    with in_float64():
        assert evaluate(Bits(), {"x": torch.zeros(1, dtype=torch.float64)})["y"].item() == 1.0


def test_a_module_in_its_own_hands_is_not_changed() -> None:
    module = Narrow()
    doubled(module)
    assert module.basis[0].dtype == torch.float32
    assert unwrapped(module, "m") is module


@pytest.mark.parametrize(
    ("text", "name", "shape", "dtype"),
    [
        ("1x3x8x8", "", (1, 3, 8, 8), "float32"),
        ("1x3x8x8:float32", "", (1, 3, 8, 8), "float32"),
        ("1x77:int64[0,9]", "", (1, 77), "int64"),
        ("[1,3]:bool", "", (1, 3), "bool"),
        ("1,3,4,4:uint8", "", (1, 3, 4, 4), "uint8"),
        ("b=2x3:int32", "", ("b", 3), "int32"),
        ("images:0:1x3", "images:0", (1, 3), "float32"),
        ("float32:1x3", "float32", (1, 3), "float32"),
        ("s:[]", "s", (), "float32"),
        ("x:[b=2, 3]:bool", "x", ("b", 3), "bool"),
    ],
)
def test_an_input_is_read_with_and_without_a_name_and_a_type(
    text: str, name: str, shape: tuple[int | str, ...], dtype: str
) -> None:
    assert parse_input(text)[:3] == (name, shape, dtype)
