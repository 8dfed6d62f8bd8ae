"""A mechanism behind layers of a network: a copy that computes the composition, keeps every name, and trains."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import attn_export as ax
from attn_export.errors import UnknownNameError, UsageError
from attn_export.export.insertion import insert, matched
from attn_export.mechanisms import MECHANISMS
from attn_export.mechanisms.at_shape import at_shape, layout_of


class Stage(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.norm(self.conv2(self.conv1(x))))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, padding=1)
        self.layer1, self.layer2 = Stage(32), nn.Sequential(Stage(32), nn.MaxPool2d(2))
        self.spare = nn.Conv2d(3, 3, 1)
        self.tokens = nn.Linear(32, 64)
        self.pair = Pair()
        self.head = nn.Linear(64, 5)

    def forward(self, image: Tensor) -> Tensor:
        x = self.layer2(self.layer1(self.stem(image)))
        return self.head(self.pair(self.tokens(x.flatten(2).transpose(1, 2)))[0].mean(1))


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, int]:
        return x, 1


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(0)
    return Net().eval()


IMAGE = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def put(net: nn.Module, mechanism: str, *after: str, **more: Any) -> Any:
    return insert(net, {"image": IMAGE}, mechanism, after, **more)


@pytest.mark.parametrize(
    ("mechanism", "after", "layout"),
    [
        ("eca", "layer1.conv2", "b c h w"),
        ("simam", "layer1.conv2", "b c h w"),
        ("self_attention", "layer1.conv2", "b (h w) c"),
        ("outlook", "layer1.conv2", "b h w c"),
        ("external", "tokens", "b n c"),
    ],
)
def test_the_copy_computes_the_layer_and_then_the_mechanism(
    net: nn.Module, mechanism: str, after: str, layout: str
) -> None:
    made = put(net, mechanism, after).module
    seen: list[Tensor] = []
    name = after.partition(".")[0] + ".norm" if "." in after else "pair"
    hook = made.get_submodule(name).register_forward_pre_hook(lambda _m, inputs: seen.append(inputs[0]))
    before: list[Tensor] = []
    other = net.get_submodule(after).register_forward_hook(lambda _m, _i, y: before.append(y))
    with torch.no_grad():
        made(IMAGE), net(IMAGE)
    hook.remove(), other.remove()
    part = made.get_submodule(f"{after}.{mechanism}")
    inner = getattr(part, "mechanism", part)
    x = before[0]
    if layout == "b (h w) c":
        x = x.flatten(2).transpose(1, 2)
    elif layout == "b h w c":
        x = x.permute(0, 2, 3, 1)
    with torch.no_grad():
        y = inner(*[x] * len(MECHANISMS[mechanism].inputs))
    if layout == "b (h w) c":
        y = y.transpose(1, 2).reshape(before[0].shape)
    elif layout == "b h w c":
        y = y.permute(0, 3, 1, 2)
    torch.testing.assert_close(seen[0], y)
    assert not torch.equal(seen[0], before[0]), "the mechanism does something"


def test_the_network_is_untouched_and_its_weights_keep_their_names(net: nn.Module) -> None:
    known = {name: value.clone() for name, value in net.state_dict().items()}
    made = put(net, "eca", "layer*.conv2")
    assert list(made.places) == ["layer1.conv2", "layer2.0.conv2"], "a star stands for dots too"
    assert list(net.state_dict()) == list(known)
    assert not any(part._forward_hooks for part in net.modules())
    state = made.module.state_dict()
    for name, value in known.items():
        torch.testing.assert_close(state[name], value, rtol=0, atol=0)
        torch.testing.assert_close(net.state_dict()[name], value, rtol=0, atol=0)
    assert set(state) - set(known) == {"layer1.conv2.eca.conv.weight", "layer2.0.conv2.eca.conv.weight"}


def test_a_sequential_runs_what_is_put_behind_it_once(net: nn.Module) -> None:
    made = put(net, "eca", "layer2").module
    calls: list[int] = []
    made.get_submodule("layer2.eca").register_forward_hook(lambda *_: calls.append(1))
    made(IMAGE)
    assert calls == [1]


def test_a_researcher_trains_what_came() -> None:
    net = Net()
    made = ax.insert(net, (IMAGE,), "se", after="layer1.conv2", reduction=4)
    assert made.training
    assert made.get_submodule("layer1.conv2.se").training
    assert net.get_submodule("layer1.norm").num_batches_tracked == 0, "telling shapes is no training"
    made(IMAGE).sum().backward()
    gradients = [value.grad for name, value in made.named_parameters() if ".se." in name]
    assert gradients
    assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients)
    assert all(value.grad is None for value in net.parameters())


@pytest.mark.parametrize(
    ("mechanism", "after", "says"),
    [
        ("eca", "layer*.conv3", r"matches no module of Net, which has 15; did you mean 'layer"),
        ("eca", "spare", "'spare' did not run"),
        ("eca", "pair", "one tensor of floats, got a tuple"),
        ("eca", "tokens", r"takes maps b x c x h x w, got 2x64x64"),
        ("resnet", "layer1", "is a whole network"),
        ("residual_attention", "layer1", r"does not keep the shape: behind 'layer1' it gets 2x32x16x16 and gives 2x"),
        ("cbam", "layer1.nothing", "did you mean"),
        ("se", "stem", "divide"),
    ],
)
def test_what_does_not_fit_is_said(net: nn.Module, mechanism: str, after: str, says: str) -> None:
    arguments = {"reduction": 7} if mechanism == "se" else {}
    with pytest.raises(UsageError, match=says):
        put(net, mechanism, after, arguments=arguments)


def test_names_that_are_none_are_refused(net: nn.Module) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'eca'"):
        put(net, "ecca", "stem")
    with pytest.raises(UnknownNameError, match="preset of eca"):
        put(net, "eca", "stem", preset="large")
    with pytest.raises(UsageError, match=r"takes channels, kernel_size.*got 'nothing'"):
        put(net, "eca", "stem", arguments={"nothing": 1})
    with pytest.raises(UsageError, match="has a part 'eca' already"):
        put(put(net, "eca", "stem").module, "eca", "stem")
    with pytest.raises(UsageError, match="expected a pattern"):
        matched(net, [])


@pytest.mark.parametrize(
    ("name", "shape", "arguments"),
    [
        ("eca", (2, 64, 56, 56), {"channels": 64}),
        ("a2", (2, 64, 56, 56), {"channels": 64, "features": 16, "descriptors": 16}),
        ("botnet_mhsa", (2, 64, 14, 28), {"channels": 64, "size": (14, 28)}),
        ("window", (2, 56, 56, 64), {"channels": 64, "heads": 2, "window": 7}),
        ("gfnet_filter", (1, 196, 384), {"channels": 384, "height": 14, "width": 14}),
        ("ufo", (1, 196, 384), {"channels": 384, "heads": 8, "d_k": 48, "d_v": 48}),
        ("aft_full", (1, 20, 16), {"channels": 16, "tokens": 20}),
        ("deit", (1, 3, 224, 224), {"size": 224}),
    ],
)
def test_a_preset_follows_the_shape(name: str, shape: tuple[int, ...], arguments: dict[str, Any]) -> None:
    spec = MECHANISMS[name]
    assert at_shape(spec, spec.configurations["readme"], shape).arguments == arguments


def test_shapes_that_an_entry_cannot_have_are_refused() -> None:
    for name, shape, says in (
        ("gfnet_filter", (1, 197, 384), "197 tokens are no square map"),
        ("deit", (1, 3, 224, 192), "got 192 beside 224"),
        ("eca", (1, 3), "takes maps"),
    ):
        spec = MECHANISMS[name]
        with pytest.raises(UsageError, match=says):
            at_shape(spec, spec.configurations["readme"], shape)
    with pytest.raises(UsageError, match="no maps, tokens or images"):
        layout_of(MECHANISMS["rope"], MECHANISMS["rope"].configurations["readme"])
