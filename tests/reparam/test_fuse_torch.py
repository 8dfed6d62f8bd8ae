"""What comes back from fusing a module: an ordinary module, trainable, with names, at every size it promises."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from attn_export.errors import FusionError
from attn_export.reparam import fuse_module
from tests.reparam.blocks import REFUSED as BLOCKS
from tests.reparam.blocks import Block, Parallel, Shared, acnet, conv_bn, repvgg, wake
from tests.reparam.test_blocks import left

AUTO = torch.export.Dim.AUTO
FREE = ({0: AUTO, 2: AUTO, 3: AUTO},)


def test_training_mode_is_refused() -> None:
    module = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))
    with pytest.raises(FusionError, match=r"training mode; call \.eval\(\)"):
        fuse_module(module, (torch.randn(1, 3, 8, 8),))
    module.eval()[1].train()
    with pytest.raises(FusionError, match="1 is in training mode"):
        fuse_module(module, (torch.randn(1, 3, 8, 8),))


def test_fusing_a_module_loads_nothing_of_onnx() -> None:
    code = (
        "import sys, torch\n"
        "from torch import nn\n"
        "from attn_export.reparam import fuse_module\n"
        "net = nn.Sequential(nn.Conv2d(2, 2, 1, bias=False), nn.BatchNorm2d(2)).eval()\n"
        "assert fuse_module(net, (torch.randn(1, 2, 4, 4),)).sites\n"
        "loaded = [name for name in sys.modules if 'onnx' in name.split('.')]\n"
        "print(*(name for name in loaded if not name.startswith('torch.')))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not done.stdout.split()


def test_what_cannot_be_exported_is_refused_with_the_reason() -> None:
    class Choice(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(FusionError, match="Choice cannot be exported"):
        fuse_module(Choice().eval(), (torch.randn(1, 3),))


class Gated(nn.Module):
    """Control flow that depends on data, around parts that do not; two outputs; one part that is not always run."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(repvgg(3, 8, 2), nn.ReLU())
        self.body = Deeper()
        self.rare = repvgg(8, 8)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the features, and what a data-dependent choice makes of them."""
        y = self.stem(x)
        return {"features": y, "score": self.body(y) if float(y.sum()) > -1e9 else self.rare(y)}


class Deeper(nn.Module):
    """Another choice one level below, and a layer that is reached into."""

    def __init__(self) -> None:
        super().__init__()
        self.block, self.reached = repvgg(8, 8), conv_bn(8, 4, 1, 1, 0)

    def forward(self, y: torch.Tensor) -> torch.Tensor:
        """Run the block, then the first layer of a part."""
        y = self.block(y)
        return self.reached[0](y) if bool((y == y).all()) else y


def test_parts_are_fused_where_the_whole_cannot_be_traced() -> None:
    module, x = wake(Gated()), torch.randn(2, 3, 12, 12)
    before = module.state_dict()
    fusion = fuse_module(module, (x,), dynamic=FREE)
    fused = fusion.model
    assert fusion.certificate.ok
    assert {name.split(".fused")[0] for name in fused.state_dict() if "fused" in name} == {
        "stem.0",
        "body.block.branches",
    }
    assert {site.name.split(".")[0] for site in fusion.sites} == {"stem", "body"}
    kept = [name for name in fused.state_dict() if name.startswith(("rare", "body.reached"))]
    assert kept
    assert all(torch.equal(fused.state_dict()[name], before[name]) for name in kept)
    said = {item.name: item.reason for item in fusion.refusals if item.kind == "not traced"}
    assert "not run on the example" in said["rare"]
    assert "cannot be exported" in said["body"]
    other = torch.randn(3, 3, 9, 16)
    for key, want in module(other).items():
        assert torch.allclose(want, fused(other)[key], rtol=1e-4, atol=1e-5)
    fused(x)["score"].sum().backward()
    assert all(p.grad is not None for name, p in fused.named_parameters() if name.startswith("stem"))


def test_gradients_flow_and_names_survive() -> None:
    module = wake(nn.Sequential(repvgg(3, 8, 2), nn.Conv2d(8, 4, 3), nn.Sigmoid()))
    fused = fuse_module(module, (torch.randn(2, 3, 12, 12),)).model
    assert set(fused.state_dict()) == {"0.fused.weight", "0.fused.bias", "1.weight", "1.bias"}
    assert torch.equal(fused.state_dict()["1.weight"], module.state_dict()["1.weight"])
    fused.train()
    fused(torch.randn(1, 3, 12, 12)).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in fused.parameters())
    assert all(p.grad is None for p in module.parameters())
    before = module.state_dict()["1.weight"].clone()
    with torch.no_grad():
        fused.get_parameter("1.weight").add_(1)
    assert torch.equal(module.state_dict()["1.weight"], before)


def test_the_fused_module_can_be_exported_again() -> None:
    fused = fuse_module(wake(repvgg(4, 4)), (torch.randn(2, 4, 9, 9),)).model
    again = fuse_module(fused, (torch.randn(2, 4, 9, 9),))
    assert left(again.model) == (1, 0, 0, 0)
    assert not again.sites


def test_dynamic_sizes_hold_at_every_size() -> None:
    module = wake(nn.Sequential(repvgg(3, 8, 2), acnet(8, 8), repvgg(8, 8)))
    fusion = fuse_module(module, (torch.randn(2, 3, 16, 18),), dynamic=FREE)
    assert left(fusion.model) == (3, 0, 0, 0)
    for shape in ((1, 3, 9, 31), (3, 3, 24, 8)):
        x = torch.randn(shape)
        assert torch.allclose(module(x), fusion.model(x), rtol=1e-4, atol=1e-5)


def test_a_residual_is_no_refusal() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.b(torch.relu(self.a(x)))

    assert not fuse_module(Residual().eval(), (torch.randn(1, 4, 9, 9),)).refusals


@pytest.mark.parametrize("mode", ["circular", "reflect"])
def test_branches_that_pad_alike_pad_once(mode: str) -> None:
    convs = [nn.Conv2d(4, 6, 3, padding=1, padding_mode=mode, bias=False) for _ in range(2)]
    fusion = fuse_module(Parallel(*convs).eval(), (torch.randn(2, 4, 9, 9),))
    assert fusion.certificate.ok
    assert left(fusion.model) == (1, 0, 0, 0)


class Uneven(nn.Module):
    """Branches whose windows agree for odd sizes only."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = conv_bn(4, 4, 3, 2, 1), nn.Conv2d(4, 4, 2, 2, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Sum where sizes allow."""
        return self.a(x) + self.b(x)


def test_what_holds_for_one_size_is_noted_there_and_refused_elsewhere() -> None:
    module = wake(Uneven())
    fixed = fuse_module(module, (torch.randn(2, 4, 10, 10),))
    assert left(fixed.model) == (1, 0, 0, 0)
    assert fixed.sites[0].notes == ("static",)
    assert "exported size only" in fixed.sites[0].pattern
    even = ({0: AUTO, 2: 2 * torch.export.Dim("h"), 3: 2 * torch.export.Dim("w")},)
    free = fuse_module(module, (torch.randn(2, 4, 10, 10),), dynamic=even)
    assert left(free.model)[0] == 2
    assert any("dynamic" in refusal.reason for refusal in free.refusals)


def test_a_value_that_happens_to_be_zero_is_reported() -> None:
    module = nn.Sequential(nn.Conv2d(4, 16, 1), nn.Conv2d(16, 4, 3, padding=1)).eval()
    assert isinstance(module[0], nn.Conv2d)
    assert module[0].bias is not None
    nn.init.zeros_(module[0].bias)
    fusion = fuse_module(module, (torch.randn(2, 4, 9, 9),))
    assert left(fusion.model)[0] == 1
    assert fusion.sites[0].notes == ("value",)


def test_keep_leaves_branches_but_folds_norms() -> None:
    module = wake(nn.Sequential(repvgg(4, 4), repvgg(4, 4)))
    fusion = fuse_module(module, (torch.randn(2, 4, 9, 9),), keep_branches=["0*"])
    assert left(fusion.model)[0] == 3
    assert any("pattern" in refusal.reason for refusal in fusion.refusals)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("bias-then-padding", "padded with 0 where its bias makes"),
        ("pool-without-padding-count", "fewer positions at the border"),
        ("per-pixel", "differs between positions"),
        ("shared-producer", "done twice"),
        ("dw-then-pw", "does not pay"),
        ("low-rank", "does not pay"),
    ],
)
def test_refusals_say_why(name: str, reason: str) -> None:
    block: Block = next(block for block in BLOCKS if block.name == name)
    fusion = fuse_module(wake(block.build()), (torch.randn(block.shape),))
    assert any(reason in refusal.reason for refusal in fusion.refusals), fusion.refusals


def test_flops_profile_never_adds_work() -> None:
    fusion = fuse_module(wake(Shared()), (torch.randn(2, 8, 9, 9),), fuse_cost="flops")
    assert left(fusion.model)[0] == 3


def test_the_quantization_error_shows_what_quantising_costs() -> None:
    site = fuse_module(wake(repvgg(16, 16)), (torch.randn(2, 16, 9, 9),), quantization_error=True).sites[0]
    assert site.precision is not None
    assert 0 < site.precision.int8_before < site.precision.int8_after
    assert site.precision.fp16_before > 0
