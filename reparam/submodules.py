"""Fuse the children of a module that cannot be traced itself: its control flow stays Python.

A child is fused on what the example calls it with. Where a child was not called, or with other things than tensors, or
with different sizes, its own children are tried instead, and a refusal says so.
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
from attn_export.reparam.proof.end_to_end_torch import Call, compare
from attn_export.reparam.result import Certificate, Fusion, Refusal

#: Fuses one module on the inputs given.
Fuse = Callable[[nn.Module, tuple[Tensor, ...]], Fusion[nn.Module]]


class UntraceableError(FusionError):
    """A module cannot be traced as a whole."""


def free(submodule: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[dict[int, Any], ...]:
    """Ask the exporter which dimensions of the inputs may vary; it says which it had to fix.

    Raises:
        UntraceableError: the submodule cannot be traced.
    """
    auto = torch.export.Dim.AUTO
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            every = tuple(dict.fromkeys(range(x.ndim), auto) for x in inputs)
            program = torch.export.export(submodule, inputs, dynamic_shapes=every)
    except Exception as error:
        raise UntraceableError(f"{type(submodule).__name__} cannot be exported ({type(error).__name__})") from error
    given = [node.meta["val"] for node in program.graph.nodes if node.op == "placeholder"][-len(inputs) :]
    return tuple({axis: auto for axis, size in enumerate(x.shape) if not is_concrete_int(size)} for x in given)


def fuse_children(module: nn.Module, example: Call, fuse: Fuse, reason: str) -> Fusion[nn.Module]:
    """Fuse the largest traceable submodules in a float64 copy of the module.

    Sites carry the path of the submodule they lie in; the certificate is that of the whole module on the example.

    Raises:
        UntraceableError: there is no such submodule; ``reason`` says why the whole module is none.
    """
    calls, result = _record(module, example), copy.deepcopy(module).double()
    refusals = [_untraced("the module", f"not traced as a whole: {reason}")]
    fused: dict[str, Fusion[nn.Module]] = {}
    todo = _composites(module)
    while todo:
        name = todo.pop(0)
        submodule = module.get_submodule(name)
        try:
            fusion = fuse(submodule, _inputs(calls.get(name, [])))
            _replace_submodule(result, name, fusion.model, example.in_float64())
        except FusionError as error:
            refusals.append(_untraced(name, str(error)))
            todo = [f"{name}.{child}" for child in _composites(submodule)] + todo
            continue
        fused[name] = fusion
        refusals += [replace(item, name=f"{name}.{item.name}") for item in fusion.refusals]
    if not fused:
        raise UntraceableError(reason)
    sites = [replace(site, name=f"{name}.{site.name}") for name, fusion in fused.items() for site in fusion.sites]
    bound = max(fusion.certificate.bound for fusion in fused.values())
    return Fusion(result, tuple(sites), Certificate((compare(module, result, example),), bound), tuple(refusals))


def _untraced(name: str, reason: str) -> Refusal:
    return Refusal(name, reason, "its parts were fused instead", "not traced")


def _composites(module: nn.Module) -> list[str]:
    """List the children that have children: a layer by itself has nothing to be fused with."""
    return [name for name, child in module.named_children() if next(child.children(), None) is not None]


def _record(module: nn.Module, example: Call) -> dict[str, list[Call]]:
    """Record what each submodule is called with when the module runs on the example."""
    calls: dict[str, list[Call]] = {}

    def seen(name: str, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        calls.setdefault(name, []).append(Call(args, kwargs))

    named = [(name, submodule) for name, submodule in module.named_modules() if name]
    hooks = [child.register_forward_pre_hook(partial(seen, name), with_kwargs=True) for name, child in named]
    try:
        example.of(module)
    finally:
        for hook in hooks:
            hook.remove()
    return calls


def _inputs(calls: list[Call]) -> tuple[Tensor, ...]:
    """Return the one way in which a submodule was called.

    Raises:
        FusionError: it was not called, or not in one way, or with other things than tensors.
    """
    if not calls:
        raise FusionError("not run on the example")
    if any(call.keywords or not all(isinstance(x, Tensor) for x in call.args) for call in calls):
        raise FusionError("takes other things than tensors")
    if len({tuple(x.shape for x in call.args) for call in calls}) > 1:
        raise FusionError("called with different sizes")
    return tuple(x.detach().clone() for x in calls[0].args)


def _replace_submodule(module: nn.Module, name: str, new: nn.Module, example: Call) -> None:
    """Put a submodule in its place, unless the module reaches into it and no longer runs.

    Raises:
        FusionError: it does not run with it.
    """
    path, _, leaf = name.rpartition(".")
    parent, old = module.get_submodule(path), module.get_submodule(name)
    setattr(parent, leaf, new)
    try:
        example.of(module)
    except Exception as error:  # whatever reaching for what is gone raises
        setattr(parent, leaf, old)
        raise FusionError(f"the module around it reaches into it ({type(error).__name__}: {error})") from error
