"""An error names the stage that failed, the line of the user's code, and what to write instead."""

from __future__ import annotations

import re

import onnx
import pytest
import torch
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn
from torch.nn import functional as F

from attn_export.errors import AttnExportError, SubjectError
from attn_export.export import reference
from attn_export.export.exporting import export_subject
from attn_export.export.in_memory import from_module
from attn_export.export.onnx.pool_windows import settle_windows
from attn_export.export.outputs import evaluate
from attn_export.export.unwrapped import unwrapped
from attn_export.types import Dim
from tests.export.models import Conv

X = torch.linspace(-1, 1, 192).reshape(1, 3, 8, 8)


class Branch(Conv):
    def after(self, y: Tensor) -> Tensor:
        if y.sum() > 0:
            return y
        return -y


class Shrinks(Conv):
    def after(self, y: Tensor) -> Tensor:
        while y.abs().max() > 1:
            y = y / 2
        return y


class Counts(Conv):
    def after(self, y: Tensor) -> Tensor:
        n = int(y.argmax())
        return y * list(range(10000))[n]


class Checks(Conv):
    def after(self, y: Tensor) -> Tensor:
        torch._assert((y > -1e9).all(), "small")
        return y


class Decomposes(Conv):
    def after(self, y: Tensor) -> Tensor:
        return torch.linalg.svdvals(y)


class Ranks(Conv):
    def forward(self, x: Tensor) -> Tensor:
        return self.c(x).kthvalue(2, 1)[0]  # type: ignore[no-any-return]


class Exotic(Conv):
    def after(self, y: Tensor) -> Tensor:
        return torch.special.bessel_j0(y)


class Nested(Conv):
    def after(self, y: Tensor) -> Tensor:
        return torch.nested.nested_tensor([y[0]]).to_padded_tensor(0.0)


class Quantises(Conv):
    def after(self, y: Tensor) -> Tensor:
        return torch.quantize_per_tensor(y, 0.1, 0, torch.qint8).dequantize()


class Spectrum(Conv):
    def after(self, y: Tensor) -> Tensor:
        return torch.fft.rfft2(y)


class Narrows(Conv):
    def after(self, y: Tensor) -> Tensor:
        return F.conv2d(y.bfloat16(), torch.ones(2, 4, 1, 1, dtype=torch.bfloat16)).float()


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (Branch(), ["Branch runs, but cannot be traced at", "(`if y.sum() > 0:`)", "torch.where(condition, a, b)"]),
        (Shrinks(), ["cannot be traced at", "(`while y.abs().max() > 1:`)", "a fixed number of times"]),
        (Counts(), ["(`n = int(y.argmax())`)", "keep the number as a tensor, or make it a constant"]),
        (Checks(), ["(`torch._assert((y", "take the check out of forward"]),
        (Decomposes(), ["Decomposes was traced, but cannot be written as ONNX at", "compute it in the constructor"]),
        (Ranks(), ["(`return self.c(x).kthvalue(2, 1)[0]", "ONNX has no operator for kthvalue; torch.topk"]),
        (Exotic(), ["ONNX has no operator for bessel_j0; write it in other operators"]),
        (Nested(), ["ONNX has no operator for _nested_tensor_from_tensor_list"]),
        (Quantises(), ["quantised tensors of PyTorch are not exported"]),
        (Spectrum(), ["output 'y' of Spectrum is complex, and ONNX has no such type", "torch.view_as_real(y)"]),
        (Narrows(), ["forward computes in bfloat16 at", "take the autocast block or .bfloat16() out"]),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
@pytest.mark.filterwarnings("ignore")
def test_what_the_exporter_refuses_is_said_in_words_about_the_users_code(module: nn.Module, words: list[str]) -> None:
    with pytest.raises(AttnExportError) as caught:
        export_subject(from_module(module.eval(), (X,)))
    for word in words:
        assert word in str(caught.value)
    assert not re.search(r"GuardOn|OpOverload|DispatchError|decomposition", str(caught.value)), "no jargon"


class Compares(Conv):
    def after(self, y: Tensor) -> Tensor:
        return y if y.shape[0] == 2 else -y


class Repeats(Conv):
    def after(self, y: Tensor) -> Tensor:
        return torch.stack([y[i] for i in range(len(y))])


class Reshapes(Conv):
    def after(self, y: Tensor) -> Tensor:
        return y.view(2, 4, 64)


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (Compares(), "(`return y if y.shape[0] == 2 else -y`)"),
        (Repeats(), "(`return torch.stack([y[i] for i in range(len(y))])`), where len() of a tensor is a number"),
        (Reshapes(), "(`return y.view(2, 4, 64)`); it runs at the sizes of --input"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_a_size_that_forward_fixes_is_named_with_its_line(module: nn.Module, words: str) -> None:
    subject = from_module(module.eval(), (X.repeat(2, 1, 1, 1),), dynamic={"x": {0: Dim("b")}})
    with pytest.raises(AttnExportError) as caught:
        reference.refuse_dice(subject)
        export_subject(subject)
    assert words in str(caught.value)


class Wrong(Conv):
    def after(self, y: Tensor) -> Tensor:
        raise ValueError("my own words")


class Table(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.e = nn.Embedding(10, 4)

    def forward(self, ids: Tensor) -> Tensor:
        return self.e(ids)


@pytest.mark.parametrize(
    ("module", "x", "why"),
    [
        (
            Wrong(),
            X,
            r"Wrong does not run on x:1x3x8x8: ValueError: my own words, at test_explained.py, line \d+ \(`raise",
        ),
        (Table(), torch.ones(1, 4), r"\(`return self.e\(ids\)`\); give whole numbers, such as --input ids:1x16:int64"),
        (Table(), torch.full((1, 4), 10), "give the numbers that the table holds"),
        (Conv().half(), X, "give --input x:…:float16"),
    ],
)
def test_a_forward_that_fails_is_named_with_its_line(module: nn.Module, x: Tensor, why: str) -> None:
    with pytest.raises(SubjectError, match=why):
        evaluate(module.eval(), {"x" if isinstance(module, Conv) else "ids": x})


def test_a_scripted_part_is_named() -> None:
    net = nn.Sequential(nn.ReLU(), nn.Sequential(Scripted.made()))
    with pytest.raises(SubjectError, match=r"1\.0 of net is TorchScript"):
        unwrapped(net, "net")


class Scripted:
    @staticmethod
    def made() -> nn.Module:
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.jit.trace(nn.Conv2d(3, 4, 1).eval(), X)  # type: ignore[no-any-return]


class Asks(Conv):
    """Runs in float32 only."""

    def after(self, y: Tensor) -> Tensor:
        if y.dtype != torch.float32:
            raise TypeError("float32 only")
        return F.gelu(y)


class Python(Asks):
    """Its trace is not the function, and it has no float64 run."""

    def after(self, y: Tensor) -> Tensor:
        return super().after(y) * (1 if torch.compiler.is_exporting() else 2)


def test_a_module_that_wants_float32_has_the_float64_run_of_its_trace() -> None:
    said: list[str] = []
    subject = from_module(Asks().eval(), (X,))
    (case,) = reference.on(subject, [("one", {"x": X})], said.append)
    with torch.no_grad():
        wanted = F.gelu(F.conv2d(X.double(), subject.module.c.weight.double(), subject.module.c.bias.double()))  # type: ignore[union-attr, operator]
    assert float((torch.from_numpy(case.reference["y"]) - wanted).abs().max()) < 1e-14
    assert len(said) == 1
    assert "the reference is the traced graph in float64" in said[0]
    assert "our float64 run of Asks fails on x:1x3x8x8: TypeError: float32 only" in said[0]


def test_a_trace_that_is_not_the_module_is_no_reference() -> None:
    subject = from_module(Python().eval(), (X,))
    with pytest.raises(SubjectError, match="the trace of Python is not the module: 'y' differs"):
        reference.on(subject, [("one", {"x": X})])


class InPlace(Conv):
    def forward(self, x: Tensor) -> Tensor:
        x += 1
        return self.c(x)


def test_an_input_that_forward_writes_into_is_the_users_own_copy() -> None:
    subject, before = from_module(InPlace().eval(), (X,)), X.clone()
    reference.refuse_dice(subject)
    assert torch.equal(X, before)
    assert [port.name for port in export_subject(subject).contract.outputs] == ["y"]


@pytest.mark.parametrize(
    ("pool", "size"),
    [
        (nn.AvgPool2d(4, 4, 2, ceil_mode=True), (9, 9)),
        (nn.AvgPool2d(4, 4, 2, ceil_mode=True, count_include_pad=False), (9, 13)),
        (nn.MaxPool2d(2, 2, 1, ceil_mode=True), (9, 7)),
        (nn.AvgPool2d(3, 2, 1, ceil_mode=True), (9, 9)),
        (nn.MaxPool2d((2, 3), (2, 1), (1, 0), ceil_mode=True), (9, 8)),
    ],
)
def test_a_pooling_has_as_many_windows_as_in_pytorch(pool: nn.Module, size: tuple[int, int]) -> None:
    x = torch.randn(1, 3, *size)
    model = export_subject(from_module(nn.Sequential(pool, nn.ReLU()).eval(), (x,))).model
    (found,) = ReferenceEvaluator(model).run(None, {"input": x.numpy()})
    assert torch.allclose(torch.from_numpy(found), pool(x).relu(), atol=1e-6)


def test_a_window_of_an_open_size_is_left_as_it_is() -> None:
    node = helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[2], strides=[2], pads=[1, 1], ceil_mode=1)
    for dims, count in (((1, 3, 9), 1), ((1, 3, "w"), 0), ((1, 3, 8), 0)):
        ends = [helper.make_tensor_value_info("x", TensorProto.FLOAT, dims), helper.make_empty_tensor_value_info("y")]
        model = onnx.ModelProto()
        model.CopyFrom(helper.make_model(helper.make_graph([node], "g", ends[:1], ends[1:])))
        assert settle_windows(model) == count


@torch.library.custom_op("attn_export_tests::nms", mutates_args=())
def suppressed(boxes: Tensor, limit: float) -> Tensor:
    return torch.nonzero(boxes[:, 0] > limit).flatten()


@suppressed.register_fake
def _(boxes: Tensor, limit: float) -> Tensor:
    return boxes.new_empty(torch.library.get_ctx().new_dynamic_size(), dtype=torch.int64)


class Pyramid(nn.Module):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"0": x, "1": F.avg_pool2d(x, 2)}


class Head(nn.Module):
    def forward(self, features: list[Tensor]) -> dict[str, Tensor]:
        return {"boxes": torch.cat([each.flatten(2) for each in features], 2)}


class Detector(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.head = Pyramid(), Head()

    def forward(self, x: Tensor) -> Tensor:
        boxes = self.head(list(self.backbone(x).values()))["boxes"][0].T
        kept = suppressed(boxes, 0.5)
        if kept.numel() > 4:
            return boxes[kept[:4]]
        return boxes[kept]


class Chooses(Detector):
    """Without parts that give what is before it."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.predict = self.backbone, self.head
        del self.backbone, self.head

    def forward(self, x: Tensor) -> Tensor:
        kept = suppressed(x[0].flatten(1).T, 0.5)
        return x[0].flatten(1).T[: kept.numel() if kept.numel() > 3 else 3]


def test_a_detector_is_told_where_to_cut() -> None:
    raw = ": a module whose forward(self, x) returns self.net.head(list(self.net.backbone(x).values()))"
    for module, way in ((Detector(), raw), (Chooses(), "suppress behind it")):
        with pytest.raises(AttnExportError) as caught:
            export_subject(from_module(module.eval(), (X,)))
        said = str(caught.value)
        assert "cannot be traced at test_explained.py, line" in said
        assert "forward suppresses boxes at test_explained.py, line" in said
        assert "kept = suppressed(" in said
        assert said.endswith(way)
        assert "torch.where" not in said
