"""No batch norm is left where a linear neighbour could take it: over blocks of the catalogue, and of whole networks."""

from __future__ import annotations

import re

import onnx
import pytest
import torch
from torch import nn

from attn_export.reparam.fuse_onnx import fuse_graph
from benchmarks import networks
from benchmarks.leftovers import Judge, count, entry
from benchmarks.producers import dynamo

#: The first block of each kind, at its own width, on a small picture: whole networks are counted by the benchmark.
PARTS: dict[str, tuple[nn.Module, int]] = {
    "repvgg": (networks.Branches(8, 8), 8),
    "qarepvgg": (networks.QaBlock(8, 8, 1), 8),
    "mobileone": (nn.Sequential(networks.Branches(8, 8, 3, 2, 8, 4), networks.Branches(8, 16, 1, 1, 1, 4)), 8),
    "repvit": (nn.Sequential(networks.RepVitDw(8), networks.RepVitMixer(8), networks.AveragedHeads(8, 5)), 8),
    "fastvit": (nn.Sequential(networks.RepMixer(8), networks.ConvFfn(8)), 8),
    "repghost": (networks.RepGhostBottleneck(8, 16, 12, 2), 8),
}


@pytest.mark.parametrize("name", PARTS)
def test_none_in_blocks_of_networks(name: str) -> None:
    module, channels = PARTS[name]
    row = count(name, dynamo((module.eval(), (torch.randn(2, channels, 12, 12),)), optimize=False))
    assert row.before >= 2
    assert row.left == 0


#: Those with several norms each; all entries with their variants are counted by the benchmark.
ENTRIES = (
    "acnet",
    "dbb",
    "mbconv",
    "mobileone_block",
    "qarepvgg",
    "repghost",
    "replk",
    "repmixer",
    "repvit_block",
    "uib",
)


@pytest.mark.parametrize("name", ENTRIES)
def test_none_in_the_catalogue(name: str) -> None:
    row = count(name, entry(name, "test"))
    assert row.before
    assert row.neighbours == ()


#: What the judge sees in a graph of one norm n of c, and whether the fuser then takes it.
PLANTED = {
    "c = Conv(x, w)  n = BN(c)  y = Relu(n)": "Conv before",
    "c = Mul(x, t)  n = BN(c)  y = Relu(n)": "",
    "a = Conv(x, w)  b = Conv(x, v)  c = Add(a, b)  n = BN(c)  y = Relu(n)": "Conv before",
    "a = Conv(x, w)  c = Identity(a)  n = BN(c)  y = Relu(n)": "Conv before",
    "n = BN(x)  y = Conv(n, w)": "Conv behind",
    "n = BN(x)  a = Conv(x, w)  b = Add(a, n)  y = Relu(b)": "Conv beside",
    "c = Conv(x, w)  n = BN(c)  r = Relu(c)  y = Add(n, r)": "",
    "n = BN(x)  y = Conv <pads = [1, 1, 1, 1], group = 2> (n, k)": "",
    "c = Relu(x)  n = BN(c)  y = Relu(n)": "",
    "n = BN(x)  a = Relu(x)  y = Add(a, n)": "",
}


@pytest.mark.parametrize("body", PLANTED)
def test_the_judge_sees_what_could_take_a_norm(body: str) -> None:
    written = re.sub(r"BN\((\w)\)", r"BatchNormalization(\1, g, h, m, s)", body)
    model = onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["": 17]>
        planted (float[1, 2, 4, 4] x) => (float[1, 2, 4, 4] y)
        <float[2, 2, 1, 1] w = {{2, 1, 3, 5}}, float[2, 2, 1, 1] v = {{3, 7, 1, 2}}, float[1, 2, 1, 1] t = {{3, 4}},
         float[2, 1, 3, 3] k = {{1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 8, 7, 6, 5, 4, 3, 2, 1}},
         float[2] g = {{1.5, 1}}, float[2] h = {{0.5, 2}}, float[2] m = {{0.25, 1}}, float[2] s = {{2, 3}}>
        {{ {written} }}"""
    )
    onnx.checker.check_model(model, full_check=True)
    assert [who for _, who in Judge(model).norms()] == [PLANTED[body]]
    assert not any(who for _, who in Judge(fuse_graph(model).model).norms())
