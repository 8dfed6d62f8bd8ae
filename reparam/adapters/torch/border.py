"""Writes over the border of a tensor in an exported graph: run them on a tensor of NaN and see what is untouched.

In-place writes come out of the exporter as chains of ``slice``, ``copy`` or ``fill`` and ``slice_scatter``. Whatever
the chain, it is a padding if the untouched cells are a box inside and the rest is one number for each channel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from math import nan
from typing import Any

import torch
from torch import Tensor, fx

from attn_export.reparam import ir
from attn_export.reparam.adapters.border import fits_in, ring

_STEPS = {"slice_scatter", "slice", "copy", "fill", "clone", "alias", "expand", "select_scatter", "select"}


@dataclass(frozen=True)
class TorchWrite:
    """A chain of writes: the tensor written over, the operator it amounts to, and the nodes it consists of."""

    base: fx.Node
    op: ir.Border
    chain: frozenset[fx.Node]


def short(node: fx.Node) -> str:
    """``aten.conv2d.default`` → ``conv2d``."""
    return str(getattr(node.target, "__name__", node.target)).split(".")[0]


def writes(nodes: Iterable[fx.Node], constant: Callable[[object], Any]) -> dict[fx.Node, TorchWrite]:
    """Find the last node of every chain of writes that is a padding."""
    found: dict[fx.Node, TorchWrite] = {}
    for node in nodes:
        if short(node) in ("slice_scatter", "select_scatter") and not all(short(user) in _STEPS for user in node.users):
            write = _write(node, constant)
            if write is not None:
                found[node] = write
    return found


def _write(last: fx.Node, constant: Callable[[object], Any]) -> TorchWrite | None:
    found = _chain(last, constant)
    if found is None:
        return None
    chain, base = found
    marked = _run(last, base, constant)
    if marked is None or marked.shape != tuple(_hint(n) for n in base.meta["val"].shape):
        return None
    op = ring(marked)
    if op is None:
        return None
    alone = all(user in chain for user in base.users)
    return (_with_padding(base, op, chain) if alone else None) or TorchWrite(base, op, frozenset(chain))


def _chain(last: fx.Node, constant: Callable[[object], Any]) -> tuple[set[fx.Node], fx.Node] | None:
    """Follow the writes upwards to the one tensor they write over; None where they are read in between."""
    chain, bases, todo = set[fx.Node](), dict[fx.Node, None](), [last]
    while todo:
        node = todo.pop()
        if node in chain or constant(node) is not None or not isinstance(node.meta.get("val"), Tensor):
            continue
        if short(node) not in _STEPS:
            bases[node] = None
            continue
        chain.add(node)
        todo += node.all_input_nodes
    if len(bases) != 1:
        return None
    base = next(iter(bases))
    if len(base.meta["val"].shape) < 3 or not all(_safe(node) for node in chain):
        return None
    if any(user not in chain for node in chain - {last} for user in node.users):
        return None
    return chain, base


def _with_padding(base: fx.Node, op: ir.Border, chain: set[fx.Node]) -> TorchWrite | None:
    """Take in a padding of which everything is overwritten: it need not be what the algebra can follow."""
    amounts = base.args[1] if short(base) == "pad" and len(base.args) > 1 else None
    source = base.args[0] if base.args else None
    if not isinstance(amounts, list | tuple) or not isinstance(source, fx.Node):
        return None
    if not all(isinstance(n, int) for n in amounts) or len(amounts) > 2 * len(op.ring):
        return None
    flat = [int(str(n)) for n in amounts] + [0] * 2 * len(op.ring)
    pads = tuple((flat[2 * n], flat[2 * n + 1]) for n in reversed(range(len(op.ring))))
    if not fits_in(pads, op.ring):
        return None
    return TorchWrite(source, replace(op, pads=pads), frozenset(chain | {base}))


def _hint(size: Any) -> int:
    return size if isinstance(size, int) else int(size.node.hint)


def _safe(node: fx.Node) -> bool:
    """Whether a slice means the same at other sizes: it is counted from its end by less than half of the axis."""
    if short(node) not in ("slice", "slice_scatter"):
        return short(node) not in ("select", "select_scatter") or isinstance(node.args[-1], int)
    offset = 1 if short(node) == "slice" else 2
    source = node.args[0]
    axis, start, stop = (
        node.args[offset + n] if len(node.args) > offset + n else d for n, d in ((0, 0), (1, 0), (2, None))
    )
    if not isinstance(source, fx.Node) or not isinstance(axis, int):
        return False
    size = source.meta["val"].shape[axis]
    bounds = [n for n in (start, stop) if n is not None]
    if not all(isinstance(n, int) for n in bounds):
        return False
    return isinstance(size, int) or all(
        abs(n) < _hint(size) / 2 or n >= 2**31 - 1 for n in bounds if isinstance(n, int)
    )


def _run(last: fx.Node, base: fx.Node, constant: Callable[[object], Any]) -> Tensor | None:
    """Execute the chain with NaN for the tensor that is written over."""
    values: dict[fx.Node, Any] = {
        base: torch.full([_hint(n) for n in base.meta["val"].shape], nan, dtype=torch.float64)
    }

    def value(node: fx.Node) -> Any:
        if node in values:
            return values[node]
        known = constant(node)
        if known is not None:
            return known
        made = node.meta.get("val")
        if not isinstance(made, Tensor):  # a size
            return _hint(made)
        args = fx.node.map_arg(node.args, value)
        values[node] = node.target(*args)  # type: ignore[operator]
        return values[node]

    try:
        with torch.no_grad():
            result = value(last)
    except (RuntimeError, TypeError, AttributeError):
        return None
    return result if isinstance(result, Tensor) else None
