"""Agreement with the original implementations, in float64, through each entry's checkpoint key map."""

from __future__ import annotations

import importlib

import pytest
import torch
from torch import nn

from attn_export.export.construct import construct as call_constructor
from attn_export.export.weights import checkpoint
from attn_export.mechanisms import MECHANISMS
from tests.mechanisms.goldens import FOLDER, ROWS, load


def construct(name: str) -> nn.Module:
    row = ROWS[name]
    part, _, called = row.build.rpartition(":")
    place = f"attn_export.mechanisms.{part}" if part else MECHANISMS.entry(row.entry).module
    factory = getattr(importlib.import_module(place), called) if called else MECHANISMS[row.entry].build
    return call_constructor(factory, dict(row.arguments), 0)


def test_every_file_has_a_row_and_every_row_a_file() -> None:
    assert {path.stem for path in FOLDER.glob("*.npz")} == set(ROWS)


@pytest.mark.parametrize("name", sorted(ROWS))
def test_agrees_with_the_original(name: str) -> None:
    golden, module = load(name), construct(name)
    checkpoint.load(module, golden.state, spec=MECHANISMS[ROWS[name].entry], strict=True)
    module.double()
    chosen = ROWS[name].inputs
    inputs = [x for i, x in enumerate(golden.inputs) if chosen is None or i in chosen]
    with torch.no_grad():
        output = module(*(x.double() if x.is_floating_point() else x for x in inputs))
    assert torch.isfinite(output).all()
    if golden.outputs:  # a blind file has none
        expected = golden.outputs[0]
        assert output.shape == expected.shape
        assert (output - expected).abs().max() <= 1e-10 * expected.abs().max()
