"""What tracing assumed becomes what is promised: in the contract, in the manifest, and in one warning."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from attn_export import bundle
from attn_export.export import promise
from attn_export.export.exporting import export_subject
from attn_export.export.graph import tables
from attn_export.export.sources.catalogue import from_spec
from attn_export.export.subject import Subject
from attn_export.mechanisms import MECHANISMS
from attn_export.mechanisms.spec import Input
from attn_export.pipeline.deploy import deploy
from attn_export.pipeline.options import DeployOptions
from attn_export.types import Dim


class Few(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if x.shape[0] <= 8 else -x


class High(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if x.shape[2] > 4 else -x


class Even(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if x.shape[2] % 2 == 0 else -x


class Area(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if x.shape[2] * x.shape[3] > 100 else -x


class Wide(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if x.shape[2] != x.shape[3] else -x


class Windows(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        return x.view(b, c, h // 4, 4, w // 2, 2).mean((3, 5))


class Pooled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.max_pool2d(x, 3, 3)


class Free(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x) + x.mean((2, 3), keepdim=True)


def subject(module: nn.Module, *dims: Dim) -> Subject:
    free = dims or (Dim("b"), Dim("h"), Dim("w"))
    return Subject("x", module.eval(), (Input("x", ("b", 3, "h", "w")),), {"b": 2, "h": 16, "w": 18}, free)


def ranges(dims: tuple[Dim, ...]) -> dict[str, tuple[int, int | None, int]]:
    return {dim.name: (dim.min, dim.max, dim.step) for dim in dims}


@pytest.mark.parametrize(
    ("module", "narrow"),
    [
        (Few(), {"b": (1, 8, 1)}),
        (High(), {"h": (5, None, 1)}),
        (Even(), {"h": (1, None, 2)}),
        (Area(), {"h": (6, None, 1), "w": (17, None, 1)}),
        (Wide(), {"h": (1, 17, 1), "w": (18, None, 1)}),
        (Windows(), {"h": (1, None, 4), "w": (1, None, 2)}),
        (Pooled(), {"h": (3, None, 1), "w": (3, None, 1)}),
        (Free(), {}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_tracing_assumed_is_the_range(module: nn.Module, narrow: dict[str, tuple[int, int | None, int]]) -> None:
    kept, said = promise.kept(asked := subject(module), export_subject(asked))
    assert ranges(kept.dynamic) == dict.fromkeys("bhw", (1, None, 1)) | narrow
    # Where the module itself stops there is nothing to warn of.
    assert len(said) == (0 if isinstance(module, (Pooled, Windows)) else len(narrow))


def test_a_range_that_was_asked_for_is_kept_within() -> None:
    asked = subject(Even(), Dim("b", 2, 16), Dim("h", 4, 32, 4))
    assert export_subject(asked).contract.dims == asked.dynamic
    assert ranges(export_subject(subject(Few(), Dim("b", 2, 6))).contract.dims) == {"b": (2, 6, 1)}
    assert ranges(export_subject(subject(Few(), Dim("b", 2, 60))).contract.dims) == {"b": (2, 8, 1)}


def test_what_only_pytorchs_kernels_asked_narrows_nothing() -> None:
    for name in ("aft_full", "depthwise_separable"):  # "not 1" and "below 16"
        asked = from_spec(name, MECHANISMS[name], "test")
        assert export_subject(asked).contract.dims == asked.dynamic, name


def test_the_bundle_promises_what_was_earned_and_is_proven_at_the_limit(tmp_path: Path) -> None:
    result = deploy(subject(Few(), Dim("b")), DeployOptions(output=tmp_path / "b", bench=False, mutants="none"))
    read = bundle.read(tmp_path / "b")
    assert read.dynamic_dims == (Dim("b", 1, 8),)
    assert {"b=8", "b=7"} <= {case.name for case in read.cases}
    assert max(len(case.inputs["x"]) for case in read.cases) == 8
    (warning,) = (text for text in result.warnings if "tracing" in text)
    assert "dimension b: tracing assumed at most 8; at b=9 the graph computes something else" in warning
    assert "promises 1 to 8" in warning
    assert warning in read.manifest["warnings"]


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.word, self.place, self.kind = nn.Embedding(50, 4), nn.Embedding(20, 4), nn.Embedding(3, 4)

    def forward(self, ids: Tensor, places: Tensor, kinds: Tensor) -> Tensor:
        return self.word(ids) + self.place(places.reshape(-1)).reshape(*places.shape, 4) + self.kind(kinds % 3)


def test_integers_take_every_row_of_the_table_they_look_up() -> None:
    inputs = tuple(Input(name, ("b", 6), "int64") for name in ("ids", "places", "kinds"))
    asked = Subject("x", Words().eval(), inputs, {"b": 2}, (Dim("b"),))
    exported = export_subject(asked)
    assert tables.rows(exported.model) == {"ids": 50, "places": 20}
    kept, said = promise.kept(asked, exported)
    assert [item.high for item in kept.inputs] == [50, 20, 2], "what is computed is left as it was"
    assert said == ()
