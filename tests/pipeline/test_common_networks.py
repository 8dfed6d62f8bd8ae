"""Correct graphs of what people's networks are made of pass every gate, plain and fused, and nothing is rolled back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from attn_export.export.subject import Subject
from attn_export.export.weights.randomize import randomize
from attn_export.mechanisms.spec import Input
from attn_export.pipeline.deploy import deploy
from attn_export.pipeline.options import BuildOptions, DeployOptions
from attn_export.pipeline.progress import Progress
from attn_export.types import Dim
from tests.pipeline.common_networks import NETS

pytestmark = pytest.mark.slow


#: Fusing goes through all that a plain run does, so that a quarter of the plain ones is enough.
RUNS = [(name, fuse) for index, name in enumerate(NETS) for fuse in (True, False) if fuse or index % 4 == 0]


@pytest.mark.parametrize(("name", "fuse"), RUNS)
def test_no_gate_cries_wolf(name: str, fuse: bool, tmp_path: Path) -> None:
    sizes, make = NETS[name]
    torch.manual_seed(0)
    module = make().eval()
    randomize(module, 0)
    subject = Subject(name, module, (Input("x", ("b", *sizes)),), {"b": 2}, (Dim("b"),), "random, seed 0")
    outcome = deploy(
        subject,
        DeployOptions(output=tmp_path / "out", build=BuildOptions(fuse=fuse), bench=False, mutants="none"),
        Progress(),
    )
    assert outcome.stages[-1].parity.ok
    usual = ("nothing was fused", "cases that are left out")
    assert [warning for warning in outcome.warnings if not warning.startswith(usual)] == []
