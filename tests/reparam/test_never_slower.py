"""What was measured to be slower when fused is left alone: each rule of price that keeps it so."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from attn_export.export.onnx.torch_export import export as dynamo_export
from attn_export.export.sources.catalogue import from_spec
from attn_export.mechanisms import MECHANISMS
from attn_export.reparam import ir
from attn_export.reparam.fuse_onnx import fuse_graph
from attn_export.reparam.planning import cost, emit, plan, profitability
from benchmarks.fusion import export


class _Apart(nn.Module):
    """A wide 1×1 of which a few outputs go one way and the rest another, as in gated convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Conv2d(64, 128, 1)

    def forward(self, x: Tensor) -> Tensor:
        few, most = torch.split(self.wide(x), [4, 124], 1)
        return torch.cat((few.relu(), most.sigmoid()), 1)


class _Shifted(nn.Module):
    """A shift and then a scale, both of one number: one operation in algebra, two nodes either way."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.erf(x) * ((torch.tanh(x) + 1.0) * 0.5)


class _Heads(nn.Module):
    """Queries, keys and values from one product, as in every attention."""

    def __init__(self) -> None:
        super().__init__()
        self.all = nn.Linear(8, 24)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.all(x.relu()).chunk(3, -1)
        return torch.softmax(q @ k.transpose(1, 2), -1) @ v


def _products() -> int:
    graph = fuse_graph(export(_Heads().eval(), torch.randn(2, 48, 8)), certificate=False).model.graph
    return sum(node.op_type in ("MatMul", "Gemm") for node in graph.node)


class _Gated(nn.Module):
    """A scale behind the larger part of a split: the split stays for the smaller one."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.deep = nn.Conv2d(64, 128, 1), nn.Conv2d(124, 124, 7, padding=3, groups=124)

    def forward(self, x: Tensor) -> Tensor:
        few, most = torch.split(self.wide(x), [4, 124], 1)
        return torch.cat((few.relu(), (self.deep(most) * 0.5).sigmoid()), 1)


def _emsa() -> int:
    """Convolutions of the entry whose products are turned to heads, fused; one before."""
    plain = dynamo_export(from_spec("emsa", MECHANISMS["emsa"], "plain")).model
    return sum(node.op_type == "Conv" for node in fuse_graph(plain, certificate=False).model.graph.node)


def _sites(module: nn.Module, *shape: int) -> int:
    return len(fuse_graph(export(module.eval(), torch.randn(shape)), certificate=False).sites)


def test_a_kernel_is_not_taken_apart_for_a_few_percent() -> None:
    assert _sites(_Apart(), 2, 64, 56, 56) == 0


def test_a_scale_and_a_shift_are_two_nodes() -> None:
    assert _sites(_Shifted(), 2, 8, 8) == 0


def test_a_bias_that_the_runtime_takes_in_is_no_gain() -> None:
    assert _emsa() == 1


def test_one_product_for_queries_keys_and_values_stays_one() -> None:
    assert _products() == 3


def test_a_product_and_its_bias_are_no_site_where_they_are_written_as_they_were(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert _sites(nn.Linear(16, 8), 2, 9, 16) == 0
    assert _sites(nn.Sequential(nn.Linear(16, 8), nn.Linear(8, 8)), 2, 9, 16) == 1
    monkeypatch.setattr(profitability, "_same_again", lambda graph, dead: False)
    assert _sites(nn.Linear(16, 8), 2, 9, 16) == 1


def test_of_equals_the_one_that_leaves_the_split_alone() -> None:
    plain = export(_Gated().eval(), torch.randn(2, 64, 14, 14))
    fused = [node.op_type for node in fuse_graph(plain, certificate=False).model.graph.node]
    assert "Mul" not in fused
    assert fused.count("Slice") == sum(node.op_type == "Slice" for node in plain.graph.node)


def test_a_turn_of_axes_of_length_one_is_free() -> None:
    turn = ir.Transpose((0, 2, 1))
    assert cost.work(turn, [(2, 1, 512)], (2, 512, 1)).free
    assert not cost.work(turn, [(2, 9, 512)], (2, 512, 9)).free


def test_each_rule_is_what_holds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profitability, "_taken_apart", lambda before, after: False)
    assert _products() > 3
    doubt = profitability.DOUBT
    monkeypatch.setattr(profitability, "DOUBT", 1.0)
    assert _sites(_Apart(), 2, 64, 56, 56) == 1
    work = emit.Work
    monkeypatch.setattr(emit, "Work", lambda *given, passes=1, **more: work(*given, **more))
    assert _sites(_Shifted(), 2, 8, 8) == 1
    order = plan._order
    monkeypatch.setattr(plan, "_order", lambda candidate: (order(candidate)[0], -order(candidate)[1]))
    fused = fuse_graph(export(_Gated().eval(), torch.randn(2, 64, 14, 14)), certificate=False).model.graph
    assert "Slice" in [node.op_type for node in fused.node]
    monkeypatch.setattr(profitability, "DOUBT", doubt)
    assert _emsa() == 1
    monkeypatch.setattr(profitability, "_is_bias", lambda graph, node: False)
    assert _emsa() == 2
