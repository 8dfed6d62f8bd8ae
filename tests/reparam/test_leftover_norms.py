"""No batch norm is left where a linear neighbour could take it: over blocks of the catalogue, and of whole networks."""

from __future__ import annotations

import onnx
import pytest
import torch
from torch import nn

from attn_export.export.torch_onnx import export
from attn_export.mechanisms import MECHANISMS
from attn_export.mechanisms.subject import from_spec
from attn_export.reparam.graph import fuse_graph
from attn_export.tools.benchmarks import networks
from attn_export.tools.benchmarks.fusion import export as dynamo

_TAKES = {"Conv", "ConvTranspose", "Gemm"}
#: The first block of each kind, at its own width, on a small picture: whole networks are counted by the benchmark.
PARTS: dict[str, tuple[nn.Module, int]] = {
    "repvgg": (networks.Branches(8, 8), 8),
    "qarepvgg": (networks.QaBlock(8, 8, 1), 8),
    "mobileone": (nn.Sequential(networks.Branches(8, 8, 3, 2, 8, 4), networks.Branches(8, 16, 1, 1, 1, 4)), 8),
    "repvit": (nn.Sequential(networks.RepVitDw(8), networks.RepVitMixer(8), networks.AveragedHeads(8, 5)), 8),
    "fastvit": (nn.Sequential(networks.RepMixer(8), networks.ConvFfn(8)), 8),
    "repghost": (networks.RepGhostBottleneck(8, 16, 12, 2), 8),
}


def leftovers(model: onnx.ModelProto) -> list[str]:
    """Batch norms whose producer is a convolution or a linear layer that nobody else reads."""
    producer = {name: node for node in model.graph.node for name in node.output}
    readers: dict[str, int] = {}
    for node in model.graph.node:
        for name in node.input:
            readers[name] = readers.get(name, 0) + 1
    return [
        node.name
        for node in model.graph.node
        if node.op_type == "BatchNormalization"
        and (before := producer.get(node.input[0])) is not None
        and before.op_type in _TAKES
        and readers[node.input[0]] == 1
    ]


@pytest.mark.parametrize("name", PARTS)
def test_none_in_blocks_of_networks(name: str) -> None:
    module, channels = PARTS[name]
    model = dynamo(module.eval(), torch.randn(2, channels, 12, 12))
    fused = fuse_graph(model).model
    assert [n.op_type for n in fused.graph.node].count("BatchNormalization") == 0


@pytest.mark.parametrize("name", [n for n, place in MECHANISMS.places.items() if place.family == "rep"])
def test_none_in_the_catalogue(name: str) -> None:
    model = export(from_spec(name, MECHANISMS[name], "test")).model
    assert leftovers(fuse_graph(model, certificate=False).model) == []


def test_a_planted_leftover_is_seen() -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["": 17]>
        planted (float[1, 1, 4, 4] x) => (float[1, 1, 4, 4] y)
        <float[1, 1, 1, 1] w = {2}, float[1] a = {1.5}, float[1] b = {0.5}, float[1] m = {0.25}, float[1] v = {2}>
        { c = Conv(x, w)  y = BatchNormalization(c, a, b, m, v) }"""
    )
    assert len(leftovers(model)) == 1
    assert leftovers(fuse_graph(model).model) == []
