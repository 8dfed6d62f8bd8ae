"""``--border-maps``: a 1×1 with a bias before a padded kernel becomes one convolution and a map, by both commands."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import onnx
import pytest
import torch

from tests.reparam.blocks import wake
from tests.reparam.test_onnx_graphs import dynamo
from tests.tools.run import run

SOURCE = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.wide, self.back = nn.Conv2d(8, 64, 1), nn.Conv2d(64, 8, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.back(self.wide(x)))
"""
CHAIN = torch.nn.Sequential(torch.nn.Conv2d(8, 32, 1), torch.nn.Conv2d(32, 8, 3, padding=1))


def kinds(path: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(path).graph.node)


@pytest.mark.parametrize("dynamic", [False, True])
def test_fuse_repairs_where_it_may_and_sizes_are_fixed(tmp_path: Path, dynamic: bool) -> None:
    onnx.save(dynamo(wake(CHAIN), torch.randn(2, 8, 14, 13), dynamic=dynamic), tmp_path / "plain.onnx")
    for repair in (False, True):
        output = tmp_path / f"{repair}.onnx"
        done = run("fuse", tmp_path / "plain.onnx", "-o", output, "--json", *["--border-maps"] * repair)
        assert done.code == 0, done
        assert done.json["repair"] is repair
        assert done.json["certificate"]["worst_error"] <= 1e-13
        if repair and not dynamic:
            assert kinds(output) == {"Conv": 1, "Add": 1}
            assert done.json["sites"][0]["notes"] == ["border", "static"]
            assert not done.json["not_fused"]
        else:
            assert kinds(output) == {"Conv": 2}
            (refusal,) = done.json["not_fused"]
            assert "fixed size" in refusal["remedy"] if dynamic else "--border-maps" in refusal["remedy"]
            assert "dynamic" in refusal["reason"] or not (repair and dynamic)


@pytest.mark.parametrize(
    ("dynamic", "shape", "fixed"), [("batch", "b=2x8x24x23", True), ("all", "b=2x8xh=24xw=23", False)]
)
def test_the_main_command_repairs_and_proves_it(tmp_path: Path, dynamic: str, shape: str, fixed: bool) -> None:
    (tmp_path / "net.py").write_text(SOURCE, encoding="utf-8")
    target = tmp_path / "made"
    command = (f"{tmp_path / 'net.py'}:Net", "--input", shape, "--dynamic", dynamic, "--fuse", "--border-maps")
    done = run(*command, "--no-bench", "--mutants", "none", "-q", "-o", target)
    assert done.code == 0, done
    assert kinds(target / "model.onnx")["Conv"] == (1 if fixed else 2)
    fusion = json.loads((target / "manifest.json").read_text(encoding="utf-8"))["fusion"]
    assert fusion["repair"]
    assert [site["notes"] for site in fusion["sites"]] == [["border", "static"]] * fixed
    assert fixed or "dynamic" in fusion["not_fused"][0]["reason"]
