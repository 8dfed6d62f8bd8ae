"""What the general fuser makes of the re-parameterised originals is what their own deployment made, in float64."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from attn_export.export.weights import checkpoint
from attn_export.mechanisms import MECHANISMS
from attn_export.reparam import fuse_module
from tests.mechanisms.goldens import ROWS, load
from tests.mechanisms.test_goldens import construct

NAMES = sorted(name for name in ROWS if load(name).fused)


def test_there_are_such_files() -> None:
    assert len(NAMES) >= 8


@pytest.mark.parametrize("name", NAMES)
def test_fused_outputs_and_kernels_agree(name: str) -> None:
    golden, module = load(name), construct(name)
    checkpoint.load(module, golden.state, spec=MECHANISMS[ROWS[name].entry])
    module.double()
    (x,) = (value.double() for value in golden.inputs)
    fusion = fuse_module(module, (x,))
    assert fusion.certificate.ok
    with torch.no_grad():
        came = fusion.model(x)
    if "output.0" in golden.fused:
        wanted = golden.fused["output.0"]
        assert (came - wanted).abs().max() <= 1e-10 * wanted.abs().max()
    kernels = [part for part in fusion.model.modules() if isinstance(part, nn.Conv2d)]
    if "weight" in golden.fused and len(kernels) == 1 and kernels[0].weight.shape == golden.fused["weight"].shape:
        wanted = golden.fused["weight"]
        assert (kernels[0].weight - wanted).abs().max() <= 1e-10 * wanted.abs().max()
    if "state.fc3.weight" in golden.fused:  # RepMLP: all its branches in one matrix
        (layer,) = kernels
        assert layer.bias is not None
        for have, wanted in (
            (layer.weight, golden.fused["state.fc3.weight"]),
            (layer.bias, golden.fused["state.fc3.bias"]),
        ):
            assert (have - wanted).abs().max() <= 1e-10 * wanted.abs().max()
    if name.startswith(("repvgg", "acnet", "dbb")) and name != "dbb_transform_5":  # a pooling alone stays a pooling
        assert len(kernels) == 1
        assert not any(isinstance(part, nn.BatchNorm2d) for part in fusion.model.modules())
