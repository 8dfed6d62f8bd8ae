"""Fuse the children of a module that cannot be traced itself: control flow stays Python, the parts become convolutions.

A child is taken as the example shows it: by what it was called with. One that was not called, or with other things than
tensors, or with other sizes each time, is gone into in its turn, or left and said.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.experimental.symbolic_shapes import is_concrete_int

from attn_export.errors import FusionError
from attn_export.reparam.result import Certificate, Fusion, Refusal, Site

#: Fuses one module on the inputs given.
Fuse = Callable[[nn.Module, tuple[Tensor, ...]], Fusion[nn.Module]]
_Call = tuple[tuple[Any, ...], dict[str, Any]]


class UntraceableError(FusionError):
    """A module cannot be traced as a whole."""


def free(part: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[dict[int, Any], ...]:
    """Every dimension of every input that may vary: the exporter is asked, and says which it had to fix.

    Raises:
        UntraceableError: the part cannot be traced.
    """
    auto = torch.export.Dim.AUTO
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            every = tuple(dict.fromkeys(range(x.ndim), auto) for x in inputs)
            program = torch.export.export(part, inputs, dynamic_shapes=every)
    except Exception as error:
        raise UntraceableError(f"{type(part).__name__} cannot be exported ({type(error).__name__})") from error
    given = [node.meta["val"] for node in program.graph.nodes if node.op == "placeholder"][-len(inputs) :]
    return tuple({axis: auto for axis, size in enumerate(x.shape) if not is_concrete_int(size)} for x in given)


def fuse_children(
    module: nn.Module, example: tuple[Any, ...], wide: tuple[Any, ...], fuse: Fuse, reason: str
) -> Fusion[nn.Module] | None:
    """A float64 copy of the module whose largest traceable parts are fused; None if there is no such part.

    Sites carry the path of the part they lie in. The certificate is for the caller to fill in. ``wide`` is the example
    in float64.
    """
    calls, result = _record(module, example), copy.deepcopy(module).double()
    refusals = [Refusal("the module", f"not traced as a whole: {reason}", "its parts were fused instead", "not traced")]
    sites, bounds = list[Site](), list[float]()
    todo = [name for name, _ in module.named_children()]
    while todo:
        name = todo.pop(0)
        part = module.get_submodule(name)
        below = [f"{name}.{child}" for child, _ in part.named_children()]
        if not below:
            continue  # a layer by itself has nothing to be fused with
        try:
            fusion = fuse(part, _inputs(calls.get(name, [])))
            _swap(result, name, fusion.model, wide)
        except FusionError as error:
            refusals.append(Refusal(name, str(error), "its parts were fused instead", "not traced"))
            todo = below + todo
            continue
        bounds.append(fusion.certificate.bound)
        sites += [replace(site, name=f"{name}.{site.name}") for site in fusion.sites]
        refusals += [replace(item, name=f"{name}.{item.name}") for item in fusion.refusals]
    return Fusion(result, tuple(sites), Certificate((), max(bounds)), tuple(refusals)) if bounds else None


def _record(module: nn.Module, example: tuple[Any, ...]) -> dict[str, list[_Call]]:
    """What each part is called with when the module runs on the example."""
    calls: dict[str, list[_Call]] = {}

    def seen(name: str, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        calls.setdefault(name, []).append((args, kwargs))

    named = [(name, part) for name, part in module.named_modules() if name]
    hooks = [part.register_forward_pre_hook(partial(seen, name), with_kwargs=True) for name, part in named]
    try:
        with torch.no_grad():
            module(*example)
    finally:
        for hook in hooks:
            hook.remove()
    return calls


def _inputs(calls: list[_Call]) -> tuple[Tensor, ...]:
    """The one way in which a part was called.

    Raises:
        FusionError: it was not called, or not in one way, or with other things than tensors.
    """
    if not calls:
        raise FusionError("not run on the example")
    if any(kwargs or not all(isinstance(x, Tensor) for x in args) for args, kwargs in calls):
        raise FusionError("takes other things than tensors")
    if len({tuple(x.shape for x in args) for args, _ in calls}) > 1:
        raise FusionError("called with different sizes")
    return tuple(x.detach().clone() for x in calls[0][0])


def _swap(module: nn.Module, name: str, part: nn.Module, example: tuple[Any, ...]) -> None:
    """Put a part in its place, unless the module reaches into it and no longer runs.

    Raises:
        FusionError: it does not run with it.
    """
    path, _, leaf = name.rpartition(".")
    parent, old = module.get_submodule(path), module.get_submodule(name)
    setattr(parent, leaf, part)
    try:
        with torch.no_grad():
            module(*example)
    except Exception as error:  # whatever reaching for what is gone raises
        setattr(parent, leaf, old)
        raise FusionError(f"the module around it reaches into it ({type(error).__name__}: {error})") from error
