"""Inputs of the user's own network: lists, tuples and dicts of tensors, numbers, and the options that are written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from attn_export.bundle import Case
from attn_export.deploy_tests.backend import Options
from attn_export.deploy_tests.backends import DEFAULT, opened
from attn_export.errors import UsageError
from attn_export.export import reference
from attn_export.export.asking import template
from attn_export.export.exporting import export_subject
from attn_export.export.in_memory import from_module
from attn_export.export.onnx.save import save
from attn_export.export.outputs import evaluate
from attn_export.export.sources.user_code import from_code


class Conv(nn.Module):
    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.layer = nn.Conv2d(channels, 4, 1)


class Feats(Conv):
    def forward(self, feats: list[Tensor]) -> Tensor:
        assert isinstance(feats, list)
        return self.layer(feats[0]) - 2 * self.layer(feats[1]) + 3 * self.layer(feats[2])


class Pair(Conv):
    def forward(self, pair: tuple[Tensor, Tensor], t: Tensor, k: float = 2.0) -> Tensor:
        one, other = pair
        assert isinstance(pair, tuple)
        return self.layer(one) - k * self.layer(other) * t


class Batch(Conv):
    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        return self.layer(batch["image"]) * batch["scale"]


class Deep(Conv):
    def forward(self, levels, *, more):  # type: ignore[no-untyped-def]
        return self.layer(levels[0]["map"]) - self.layer(levels[1]["map"]) * more["a"][0]


class Named(NamedTuple):
    left: Tensor
    right: Tensor


class Stereo(Conv):
    def forward(self, views: Named) -> Tensor:
        return self.layer(views.left) - 2 * self.layer(views.right)


class Some(Conv):
    def forward(self, x: Tensor, **more: Tensor) -> Tensor:
        return self.layer(x) * more["gain"]


class Several(Conv):
    def forward(self, *maps: Tensor) -> Tensor:
        return self.layer(maps[0]) - 2 * self.layer(maps[1])


class Number(Conv):
    def forward(self, x: Tensor, scale: float) -> Tensor:
        return self.layer(x) * scale


class Digits(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.c, self.l = nn.Conv2d(1, 2, 3, padding=1), nn.Linear(2 * 28 * 28, 10)

    def forward(self, image: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.l(self.c(image).flatten(1))


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.l = nn.Embedding(99, 8), nn.Linear(8, 8)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.l(self.table(input_ids)) * attention_mask[..., None]


class Rows(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.l = nn.GRU(12, 5, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.l(x)[0]


HERE = "tests.export.test_own_inputs:"
MAP = "b=2x3x4x4"


@pytest.mark.parametrize(
    ("name", "shapes", "order"),
    [
        ("Feats", ["feats.1:", "feats.0:", "feats.2:"], ["feats.0", "feats.1", "feats.2"]),
        ("Pair", ["t:[]", "pair.1:", "pair.0:"], ["pair.0", "pair.1", "t"]),
        ("Batch", ["batch.scale:[]", "batch.image:"], ["batch.scale", "batch.image"]),
        ("Deep", ["more.a.0:[]", "levels.1.map:", "levels.0.map:"], ["levels.0.map", "levels.1.map", "more.a.0"]),
        ("Stereo", ["views.right:", "views.left:"], ["views.left", "views.right"]),
        ("Some", ["x:b=1x3x4x4", "gain:1"], None),
        ("Several", ["left:", "right:"], ["left", "right"]),
        ("Number", ["scale:[]", "x:"], ["x", "scale"]),
    ],
)
def test_the_graph_has_an_input_for_each_place(
    name: str, shapes: list[str], order: list[str] | None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    free = order is not None  # the exporter knows no way to say what may vary inside **more
    given = [f"{shape}{MAP}" if shape.endswith(":") else shape for shape in shapes]
    subject = from_code(f"{HERE}{name}", given if free else [text.replace("b=", "") for text in given])
    exported = export_subject(subject)
    assert [port.name for port in exported.contract.inputs] == (order or ["x", "gain"])
    file = tmp_path_factory.mktemp("graph") / "model.onnx"
    save(exported.model, file)
    x = subject.example(sizes={"b": 3}) if free else subject.example()
    with opened(DEFAULT, file, Options()) as run:
        found = run({key: value.numpy() for key, value in x.items()})
    np.testing.assert_allclose(found["y"], evaluate(subject.module, x)["y"].numpy(), rtol=1e-5, atol=1e-5)
    (case,) = reference.on(subject, [("one", x)])
    assert isinstance(case, Case)


def test_nested_arguments_in_python_are_the_same() -> None:
    maps = [torch.randn(1, 3, 4, 4) for _ in range(3)]
    subject = from_module(Feats().eval(), (maps,))
    assert [item.name for item in subject.inputs] == ["feats.0", "feats.1", "feats.2"]
    given = dict(zip((item.name for item in subject.inputs), maps, strict=True))
    assert torch.equal(evaluate(subject.module, given)["y"], subject.module(maps))


@pytest.mark.parametrize(
    ("name", "shapes", "why"),
    [
        ("Feats", ["feats.0:1x3x4x4", "feats.2:1x3x4x4"], "'feats' has the places 0, 2, and a list counts from 0 on"),
        ("Feats", ["feats.0:1x3x4x4", "feats.a:1x3x4x4"], "'feats' has the places 0, a"),
        ("Feats", ["feats.0:1x3x4x4", "feats:1x3x4x4"], "'feats' is given whole and in parts"),
        (
            "Pair",
            ["pair.0:1x3x4x4", "pair.1:1x3x4x4"],
            "needs 't' as well; add, with your sizes: --input t:1x3x224x224",
        ),
        ("Number", ["x:1x3x4x4"], "needs 'scale' as well; it is a float, and a graph takes tensors: give it a default"),
        (
            "Digits",
            [],
            r"input shapes are required; add, at which it runs: --input image:1x1x28x28 \(mask may be left out",
        ),
    ],
)
def test_what_is_missing_is_an_error_that_says_what_to_type(name: str, shapes: list[str], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        from_code(f"{HERE}{name}", shapes)


@pytest.mark.parametrize(
    ("module", "options"),
    [
        (Feats(5), "--input feats.0:1x5x224x224 --input feats.1:1x5x224x224 --input feats.2:1x5x224x224"),
        (Pair(), "--input pair.0:1x3x224x224 --input pair.1:1x3x224x224 --input t:[] (k may be left out)"),
        (Batch(), "--input batch.image:1x3x224x224 --input batch.scale:[]"),
        (Words(), "--input input_ids:1x16:int64[0,98] --input attention_mask:1x16:bool"),
        (Rows(), "--input x:1x16x12"),
        (Some(), "--input x:1x3x224x224 --input gain:[]"),
        (Several(), "--input maps0:1x3x224x224 --input maps1:1x3x224x224"),
        (nn.BatchNorm1d(7), "--input input:1x7x224"),
        (nn.Sequential(nn.ReLU(), nn.ConvTranspose2d(6, 2, 2)), "--input input:1x6x224x224"),
    ],
)
def test_the_options_are_written_with_sizes_at_which_it_runs(module: nn.Module, options: str) -> None:
    assert template(module.eval()) == f"add, at which it runs: {options}"
