"""``attn-export fuse`` on a network: weights or a module come back, and nobody's own checkpoint is written over."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from tests.tools.run import run

NET = """
from torch import nn
def make():
    return nn.Sequential(nn.Conv2d(2, 3, 3, bias=False), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 4, 1))
"""
SHAPE = ("--input", "x:b=2x2x6x6")


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network and its trained weights."""
    folder = tmp_path_factory.mktemp("net")
    (folder / "net.py").write_text(NET, encoding="utf-8")
    module = original()
    save_file(module.state_dict(), folder / "own.safetensors")
    return folder


def original() -> nn.Module:
    """The network with trained weights."""
    torch.manual_seed(3)
    made = nn.Sequential(nn.Conv2d(2, 3, 3, bias=False), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 4, 1))
    nn.init.uniform_(made[1].running_var, 0.5, 2)
    return made.eval()


def test_weights_and_module_come_back(net: Path) -> None:
    words = ("fuse", f"{net}/net.py:make", *SHAPE, "--weights", net / "own.safetensors")
    for _ in range(2):  # what the command itself has written is written over
        for name in ("fused.safetensors", "fused.pt2"):
            assert run(*words, "-o", net / name).code == 0
    state = load_file(net / "fused.safetensors")
    assert set(state) == {"1.fused.weight", "1.fused.bias", "3.weight", "3.bias"}
    fused = torch.export.load(net / "fused.pt2").module()
    x = torch.randn(5, 2, 6, 6)
    torch.testing.assert_close(fused(x), original()(x))
    assert torch.equal(fused.state_dict()["1.fused.weight"], state["1.fused.weight"])


@pytest.mark.parametrize(
    ("name", "code", "said"),
    [
        ("own.safetensors", 3, "is not a network that this command has written"),
        ("fused.onnx", 2, "expected -o NAME.safetensors"),
    ],
)
def test_where_it_may_not_be_written(net: Path, name: str, code: int, said: str) -> None:
    before = (net / "own.safetensors").read_bytes()
    done = run("fuse", f"{net}/net.py:make", *SHAPE, "-o", net / name)
    assert (done.code, said in done.err) == (code, True), done.err
    assert (net / "own.safetensors").read_bytes() == before


def test_a_file_takes_no_options_of_networks(net: Path) -> None:
    done = run("fuse", "model.onnx", *SHAPE, "-o", net / "out.onnx")
    assert done.code == 2
    assert "are for networks" in done.err


BY_NAME = """
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(2, 3, 3, bias=False), nn.BatchNorm2d(3))
    def forward(self, x, *, {name}):
        {line}
"""
#: What forward takes by name only, its line, what is typed, and what the fused network is called with.
NAMED = {
    "a tensor": ("mask", "return self.body(x) * mask", ("mask:1x3x1x1",), {"mask": torch.rand(1, 3, 1, 1)}),
    "a list": (
        "more",
        "return self.body(x) + more[0] - more[1]",
        ("more.0:1x3x1x1", "more.1:1x3x1x1"),
        {"more": [torch.rand(1, 3, 1, 1), torch.rand(1, 3, 1, 1)]},
    ),
    "control flow": (
        "mask",
        "return self.body(x) * (mask if mask.sum() > 0 else 2 * mask)",
        ("mask:1x3x1x1:float32[1,2]",),
        {"mask": torch.rand(1, 3, 1, 1)},
    ),
}


@pytest.mark.parametrize("kind", NAMED)
def test_inputs_by_name_alone(tmp_path: Path, kind: str) -> None:
    name, line, shapes, given = NAMED[kind]
    (tmp_path / "net.py").write_text(BY_NAME.format(name=name, line=line), encoding="utf-8")
    words = [word for text in shapes for word in ("--input", text)]
    torch.manual_seed(3)
    scope: dict[str, type[nn.Module]] = {}
    exec(BY_NAME.format(name=name, line=line), scope)  # the lines above
    plain = scope["Net"]().eval()
    nn.init.uniform_(plain.body[1].running_var, 0.5, 2)  # type: ignore[index,union-attr]
    save_file(plain.state_dict(), tmp_path / "own.safetensors")
    command = ("fuse", f"{tmp_path}/net.py:Net", *SHAPE, *words, "--weights", tmp_path / "own.safetensors")
    for file in ("fused.safetensors",) if kind == "control flow" else ("fused.safetensors", "fused.pt2"):
        done = run(*command, "-o", tmp_path / file)
        assert done.code == 0, done.err
    assert not [key for key in load_file(tmp_path / "fused.safetensors") if "running" in key]
    if kind != "control flow":
        fused, x = torch.export.load(tmp_path / "fused.pt2").module(), torch.randn(5, 2, 6, 6)
        torch.testing.assert_close(fused(x, **given), plain(x, **given))
