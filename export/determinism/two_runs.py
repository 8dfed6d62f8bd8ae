"""A forward is a function: the same input gives the same output, and nothing that the module keeps is changed by it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import onnx
import torch
from torch import Tensor, nn

from attn_export.bundle import FLOOR
from attn_export.errors import GateError
from attn_export.export.copies import copied
from attn_export.export.determinism import draws, lines, state
from attn_export.untrusted.text import few

Outputs = Mapping[str, Tensor]
#: Seconds that a run may take to be made twice although nothing was drawn in it.
CHEAP = 0.05
_SHOWN = 3


def check(module: nn.Module, run: Callable[[nn.Module], Outputs]) -> None:
    """Run a copy of a module twice, and refuse it where that tells the runs apart.

    A value that is there after the first run and stays (a cache, the attention map of the last input) is no state.

    Raises:
        GateError: the outputs differ, or the module has changed itself.
    """
    own = copied(module)
    weights = state.weights(own)
    first = run(own)
    kept = state.attributes(own)
    _refuse_difference(own, first, run(own), lambda: run(own))
    names = state.changed(weights, state.weights(own)) + state.changed(kept, state.attributes(own))
    if names:
        fresh = copied(module)
        raise GateError(
            f"{type(module).__name__}: forward changes its own state: {_named(fresh, names, lambda: run(fresh))};"
            " a deployed graph keeps nothing from one run to the next: make it an input and an output, or leave it"
            " as it is in eval mode; nothing was written"
        )


def twice(module: nn.Module, run: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """Run; where that was quick, or somebody drew a random number, run again and refuse a difference.

    Raises:
        GateError: the outputs differ.
    """
    before, began = draws.shared(), time.perf_counter()
    first = run()
    if time.perf_counter() - began < CHEAP or draws.shared() != before:
        _refuse_difference(module, first, run(), run)
    return first


def refuse_random_nodes(model: onnx.ModelProto, name: str) -> None:
    """Refuse a graph that draws random numbers.

    Raises:
        GateError: a node of it does.
    """
    if found := draws.of_graph(model):
        raise GateError(
            f"{name} is not deterministic: {few(found, _SHOWN)} draws random numbers, so that no two runs agree; export"
            " it for inference, or make the numbers an input; nothing was written"
        )


def _refuse_difference(module: nn.Module, first: Outputs, second: Outputs, again: Callable[[], object]) -> None:
    """Refuse two runs that differ, and say why by a third.

    Where nobody draws or keeps anything, a difference in the last bits is the order in which threads have added.
    """
    different = [name for name in first if name not in second or not _same(first[name], second[name])]
    if not different:
        return
    why = [f"{few(drawn, _SHOWN)} draws random numbers"] if (drawn := draws.of_code(again)) else []
    before = state.attributes(module)
    again()
    if names := [] if why else state.changed(before, state.attributes(module)):
        why.append(_named(module, names, again))
    name = different[0]
    if not why and all(name in second and _rounding(first[name], second[name]) for name in different):
        return
    if name not in second or first[name].shape != second[name].shape:
        how = f"in the shape of {name!r}"
    else:
        apart = (first[name].double() - second[name].double()).abs()
        how = f"by {float(apart.nan_to_num(posinf=0.0).max()):.3g} in {name!r}"
    raise GateError(
        f"{type(module).__name__}: forward is not deterministic: two runs on the same input differ {how};"
        f" {'; '.join(why) or 'look for random numbers, time, or values that it keeps'};"
        " a deployed graph is a function of its inputs: take that out of forward; nothing was written"
    )


def _named(module: nn.Module, names: list[str], run: Callable[[], object]) -> str:
    """Say which values a run writes, and on which lines."""

    def watch() -> dict[str, object]:
        every = {**state.weights(module), **state.attributes(module)}
        return {name: every.get(name) for name in names}

    found = lines.writers(watch, run)
    return "it writes " + few((f"{name!r}{f' in {found[name]}' if name in found else ''}" for name in names), _SHOWN)


def _same(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    return bool(((one == other) | ((one != one) & (other != other))).all())


def _rounding(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape or not one.is_floating_point():
        return False
    apart = torch.linalg.vector_norm((one.double() - other.double()).nan_to_num())
    return float(apart) <= FLOOR * float(torch.linalg.vector_norm(one.double().nan_to_num()))
