"""Build a module of External-Attention-pytorch from a checkout, as its own demonstration does."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import io
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from attn_export.export.weights.randomize import randomize
from benchmarks.original_rows import Original


class Adapted(nn.Module):
    """Hand one input over several times where the original wants that, and take one tensor from what it gives."""

    def __init__(self, inner: nn.Module, copies: int) -> None:
        super().__init__()
        self.inner, self.copies = inner, copies

    def forward(self, x: Tensor) -> Tensor:
        """Run the original."""
        return _first(self.inner(*([_kept(x)] * self.copies)))


class AdaptedTriple(Adapted):
    """The same, of queries, keys and values."""

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:  # type: ignore[override]
        """Run the original."""
        return _first(self.inner(_kept(queries), _kept(keys), _kept(values)))


def _kept(x: Tensor) -> Tensor:
    """Copy an input: some originals write into it, and what the case holds must survive that."""
    return x if torch.compiler.is_exporting() else x.clone()


def _first(came: Any) -> Tensor:
    first: Tensor = came[0] if isinstance(came, tuple | list) else came
    return first


def build(row: Original, checkout: Path, inputs: int) -> tuple[nn.Module, nn.Module]:
    """Return the original with random weights, in eval mode, and the same one switched to its deployed form."""
    torch.manual_seed(0)
    with contextlib.redirect_stdout(io.StringIO()):
        file = _load(row, checkout)
        if row.name.startswith("dbb_transform_"):
            inner = _TRANSFORMS[int(row.name[-1]) - 1](getattr(file, row.builder)).eval()
            return (Adapted(inner, 1).eval(),) * 2
        inner = _construct(row, file)
        randomize(inner)
        deployed = inner
        if row.switch:
            deployed = _construct(row, file)
            deployed.load_state_dict(inner.state_dict())
            getattr(deployed.eval(), row.switch)()
    adapted = Adapted if inputs == 1 else AdaptedTriple
    return adapted(inner, row.copies).eval(), adapted(deployed, row.copies).eval()


def _construct(row: Original, file: types.ModuleType) -> nn.Module:
    keywords = {key: getattr(file, value) if key == "mlp_fn" else value for key, value in row.keywords.items()}
    if row.name == "hornet":
        keywords["gnconv"] = [functools.partial(file.gnconv, order=order, s=1 / 3) for order in (2, 3, 4, 5)]
        keywords["block"] = file.Block
    module: nn.Module = getattr(file, row.builder)(*row.arguments, **keywords)
    return module.eval()


def _load(row: Original, checkout: Path) -> types.ModuleType:
    _stand_in_for_timm()
    sys.path.insert(0, str(checkout))  # a few of its files import one another as model.…
    name = f"_original_{row.name}"
    spec = importlib.util.spec_from_file_location(name, checkout / "model" / row.file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _stand_in_for_timm() -> None:
    """Four names of timm are used over there, none of which matters in eval mode: no need to install it."""
    layers, registry, data = (types.ModuleType(f"timm.{name}") for name in ("models.layers", "models.registry", "data"))
    parts: dict[str, Any] = {
        "DropPath": lambda *_, **__: nn.Identity(),
        "to_2tuple": lambda x: tuple(x) if isinstance(x, tuple | list) else (x, x),
        "trunc_normal_": nn.init.trunc_normal_,
    }
    vars(layers).update(parts)
    vars(registry).update(register_model=lambda function: function)
    vars(data).update(IMAGENET_DEFAULT_MEAN=(0.485, 0.456, 0.406), IMAGENET_DEFAULT_STD=(0.229, 0.224, 0.225))
    for module in (types.ModuleType("timm"), types.ModuleType("timm.models"), layers, registry, data):
        sys.modules.setdefault(module.__name__, module)


def _filled(weight: Tensor, bias: Tensor | None = None, padding: int = 1) -> nn.Module:
    """Build a convolution with the weights that a transform gave."""
    conv = nn.Conv2d(64, weight.shape[0], 3, padding=padding, bias=bias is not None)
    conv.weight.data = weight.detach()
    if bias is not None:
        conv.bias = nn.Parameter(bias.detach())
    return conv


def _conv_norm(transform: Callable[..., Any]) -> nn.Module:
    conv, norm = nn.Conv2d(64, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64).eval()
    randomize(norm)
    return _filled(*transform(conv, norm))


def _branches(transform: Callable[..., Any]) -> nn.Module:
    return _filled(*transform(nn.Conv2d(64, 64, 3), nn.Conv2d(64, 64, 3)))


def _sequence(transform: Callable[..., Any]) -> nn.Module:
    return _filled(transform(nn.Conv2d(64, 64, 1, bias=False), nn.Conv2d(64, 64, 3, bias=False)))


def _concatenation(transform: Callable[..., Any]) -> nn.Module:
    return _filled(*transform(nn.Conv2d(64, 32, 3), nn.Conv2d(64, 32, 3)))


def _average(transform: Callable[..., Any]) -> nn.Module:
    return _filled(transform(64, 3).weight, padding=0)


def _scales(transform: Callable[..., Any]) -> nn.Module:
    parts = (nn.Conv2d(64, 64, kernel) for kernel in ((1, 1), (1, 3), (3, 1)))
    return _filled(*transform(*parts))


_TRANSFORMS = (_conv_norm, _branches, _sequence, _concatenation, _average, _scales)
