"""Writes over the border of a tensor in an exported graph: run them on a tensor of NaN and see what is untouched.

In-place writes come out of the exporter as chains of ``slice``, ``copy`` or ``fill`` and ``slice_scatter``. Whatever
the chain, it is a padding if the untouched cells are a box inside and the rest is one number for each channel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from math import isnan, nan
from typing import Any

import torch
from torch import Tensor, fx

from attn_export.reparam import ir
from attn_export.types import Array

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
    shape = base.meta["val"].shape
    if len(shape) < 3 or not all(_safe(node) for node in chain):
        return None
    if any(user not in chain for node in chain - {last} for user in node.users):
        return None
    marked = _run(last, base, constant)
    if marked is None or marked.shape != tuple(_hint(n) for n in shape):
        return None
    op = ring(marked)
    if op is None:
        return None
    amounts = base.args[1] if short(base) == "pad" and len(base.args) > 1 else None
    inside = all(user in chain for user in base.users) and isinstance(amounts, list | tuple)
    if inside and isinstance(amounts, list | tuple) and all(isinstance(n, int) for n in amounts):
        # What the padding puts there is overwritten: it need not be what the algebra can follow.
        flat = [int(str(n)) for n in amounts] + [0] * 2 * len(op.ring)
        pads = tuple((flat[2 * n], flat[2 * n + 1]) for n in reversed(range(len(op.ring))))
        source = base.args[0]
        fits = all(
            0 <= p <= r for pair, ring in zip(pads, op.ring, strict=True) for p, r in zip(pair, ring, strict=True)
        )
        if isinstance(source, fx.Node) and fits and len(amounts) <= 2 * len(op.ring):
            return TorchWrite(source, replace(op, pads=pads), frozenset(chain | {base}))
    return TorchWrite(base, op, frozenset(chain))


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


def ring(marked: Tensor) -> ir.Border | None:
    """Read a marked tensor: a box of NaN, and around it one number for each channel."""
    untouched = torch.isnan(marked)
    pattern = untouched[0, 0]
    if not torch.equal(untouched, pattern.expand_as(untouched)) or not pattern.any():
        return None
    ring = []
    for axis in range(pattern.ndim):
        others = [n for n in range(pattern.ndim) if n != axis]
        line = pattern.amax(others) if others else pattern
        where = torch.nonzero(line).flatten()
        ring.append((int(where[0]), int(len(line) - 1 - where[-1])))
    box = torch.zeros_like(pattern)
    box[tuple(slice(left, size - right) for (left, right), size in zip(ring, pattern.shape, strict=True))] = True
    if not torch.equal(box, pattern):
        return None
    written = marked[:, :, ~pattern]
    value: Array = written[0, :, 0].numpy()
    if any(isnan(v) for v in value.tolist()) or not bool((written == written[:1, :, :1]).all()):
        return None
    return ir.Border(tuple(ring), value.copy(), ((0, 0),) * len(ring))
