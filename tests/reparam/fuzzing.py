"""Random linear nets on the small graph with dyadic weights: fused and un-fused must agree in every bit.

Collapsing is forced (a profile under which only nodes cost, work unlimited), so that as much of the algebra as
possible is met. Each net is checked at the traced size and, with dynamic axes, at two others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from attn_export.reparam import ir
from attn_export.reparam.evaluate import ir as execute
from attn_export.reparam.planning.cost import CostProfile
from attn_export.reparam.planning.plan import Planner
from attn_export.reparam.proof import certify, region
from attn_export.reparam.types import Dim

EAGER = CostProfile(dense=1e30, depthwise=1e30, bandwidth=1e30, constant=1.0, lanes=1)
#: A map costs several nodes: here the work decides, and nodes where it is the same.
FRUGAL = replace(EAGER, dense=1e9, depthwise=1e9, constant=1e-8)


@dataclass
class Net:
    """A graph under construction: values with their sizes by example and by symbols."""

    rng: np.random.Generator
    dynamic: bool
    nodes: list[ir.Node] = field(default_factory=list)
    values: dict[str, ir.Value] = field(default_factory=dict)

    def add(self, op: ir.Op, inputs: Sequence[str], shape: tuple[Dim, ...], sizes: tuple[int, ...]) -> str:
        """Append a node."""
        name = f"v{len(self.nodes)}"
        self.values[name] = ir.Value(name, shape if self.dynamic else sizes, sizes)
        self.nodes.append(ir.Node(name, op, tuple(inputs), name))
        return name

    def ints(self, shape: Sequence[int], most: int = 3) -> np.ndarray:
        """Small integers, a few of them zero."""
        return self.rng.integers(-most, most + 1, tuple(shape)).astype(np.float64)

    def bias(self, count: int) -> np.ndarray | None:
        """No bias, zeros (which pads may rely on), or integers."""
        kind = self.rng.integers(3)
        return None if kind == 0 else np.zeros(count) if kind == 1 else self.ints([count])


def _moved(dim: Dim, amount: int, step: int = 1) -> Dim:
    """The symbol of ⌊(dim + amount) / step⌋ + 1, written the same wherever it is the same."""
    if isinstance(dim, int):
        return (dim + amount) // step + 1
    if (amount, step) == (-1, 1):
        return dim
    return f"(({dim}) + ({amount}))//{step} + 1"


def _window(
    net: Net,
    v: ir.Value,
    kernel: Sequence[int],
    pads: Sequence[tuple[int, int]],
    strides: Sequence[int],
    dilations: Sequence[int],
) -> tuple[tuple[Dim, ...], tuple[int, ...]] | None:
    assert v.shape is not None and v.sizes is not None  # noqa: PT018
    shape, sizes = [], []
    for dim, size, k, (left, right), step, d in zip(
        v.shape[2:], v.sizes[2:], kernel, pads, strides, dilations, strict=True
    ):
        amount = left + right - d * (k - 1) - 1
        if size + amount < 3:
            return None
        shape.append(_moved(dim, amount, step))
        sizes.append((size + amount) // step + 1)
    return tuple(shape), tuple(sizes)


def _unknown(*values: ir.Value) -> bool:
    """A transposition put a dynamic dimension where channels are: nothing that counts channels may follow."""
    return any(isinstance(v.shape[1], str) for v in values)


def _conv(net: Net, name: str) -> str | None:
    rng, v = net.rng, net.values[name]
    channels, rank = int(v.sizes[1]), len(v.sizes) - 2
    divisors = [g for g in range(1, channels + 1) if channels % g == 0]
    groups = int(rng.choice(divisors))
    outputs = groups * int(rng.integers(1, 4))
    kernel = [int(rng.choice([1, 1, 2, 3, 3, 5])) for _ in range(rank)]
    strides = (
        [int(rng.choice([1, 1, 1, 2, 3]))] * rank
        if rng.random() < 0.8
        else [int(rng.choice([1, 2])) for _ in range(rank)]
    )
    dilations = [int(rng.choice([1, 1, 1, 2])) for _ in range(rank)]
    same = rng.random() < 0.5
    pads = [
        (d * (k - 1) // 2, d * (k - 1) - d * (k - 1) // 2)
        if same
        else (int(rng.choice([0, 0, 1, 2])), int(rng.choice([0, 0, 1, 2])))
        for k, d in zip(kernel, dilations, strict=True)
    ]
    made = _window(net, v, kernel, pads, strides, dilations)
    if made is None or outputs > 16:
        return None
    weight = net.ints([outputs, channels // groups, *kernel], 2)
    op = ir.Conv(weight, net.bias(outputs), tuple(strides), tuple(dilations), groups, tuple(pads))
    return net.add(op, [name], (v.shape[0], outputs, *made[0]), (v.sizes[0], outputs, *made[1]))


def _affine(net: Net, name: str) -> str | None:
    v = net.values[name]
    channels = int(v.sizes[1])
    factor = net.rng.choice([-2.0, -1.0, 0.5, 1.0, 2.0], channels)
    kind = net.rng.integers(3)
    op = ir.Affine(factor if kind != 1 else None, net.ints([channels]) if kind != 0 else None, axis=1)
    return net.add(op, [name], v.shape, v.sizes)


def _sum(net: Net, name: str) -> str | None:
    v = net.values[name]
    same = [n for n, w in net.values.items() if w.sizes == v.sizes and (w.shape == v.shape) and n != name]
    if not same:
        return None
    others = [str(net.rng.choice(same)) for _ in range(int(net.rng.integers(1, 3)))]
    factors = tuple(float(f) for f in net.rng.choice([1.0, -1.0, 0.5], 1 + len(others)))
    return net.add(ir.Sum(factors), [name, *others], v.shape, v.sizes)


def _concat(net: Net, name: str) -> str | None:
    v = net.values[name]
    alike = [
        n
        for n, w in net.values.items()
        if w.sizes[2:] == v.sizes[2:] and w.shape[2:] == v.shape[2:] and len(w.sizes) == len(v.sizes)
    ]
    other = str(net.rng.choice(alike))
    total = int(v.sizes[1] + net.values[other].sizes[1])
    if total > 16 or _unknown(v, net.values[other]):
        return None
    return net.add(ir.Concat(1), [name, other], (v.shape[0], total, *v.shape[2:]), (v.sizes[0], total, *v.sizes[2:]))


def _pad(net: Net, name: str) -> str | None:
    v, rng = net.values[name], net.rng
    pads = [(int(rng.choice([-2, -1, 0, 1, 2])), int(rng.choice([-2, -1, 0, 1, 2]))) for _ in v.sizes[2:]]
    value = float(rng.choice([0.0, 0.0, 1.0]))
    made = _window(net, v, [1] * len(pads), pads, [1] * len(pads), [1] * len(pads))
    if made is None:
        return None
    op = ir.Pad(((0, 0), (0, 0), *pads), value)
    return net.add(op, [name], (v.shape[0], v.shape[1], *made[0]), (*v.sizes[:2], *made[1]))


def _pool(net: Net, name: str) -> str | None:
    v, rng = net.values[name], net.rng
    rank = len(v.sizes) - 2
    kernel = [int(rng.choice([1, 2, 4])) for _ in range(rank)]
    strides = [int(rng.choice([1, 2])) for _ in range(rank)]
    pads = [(int(rng.choice([0, k // 2])),) * 2 for k in kernel]
    made = _window(net, v, kernel, pads, strides, [1] * rank)
    if made is None:
        return None
    op = ir.AvgPool(tuple(kernel), tuple(strides), tuple(pads), bool(rng.integers(2)), ceil=False)
    return net.add(op, [name], (*v.shape[:2], *made[0]), (*v.sizes[:2], *made[1]))


def _slice(net: Net, name: str) -> str | None:
    v, rng = net.values[name], net.rng
    channels = int(v.sizes[1])
    kind = rng.integers(3)
    if kind == 0 and channels > 1 and not _unknown(v):
        start = int(rng.integers(0, channels - 1))
        stop = int(rng.integers(start + 1, channels + 1))
        step = int(rng.choice([1, 1, 2]))
        count = len(range(start, stop, step))
        op: ir.Op = ir.Slice(1, start, stop, step)
        return net.add(op, [name], (v.shape[0], count, *v.shape[2:]), (v.sizes[0], count, *v.sizes[2:]))
    if kind == 1:
        index = rng.integers(0, channels, int(rng.integers(1, channels + 2)))
        shape = (v.shape[0], len(index), *v.shape[2:])
        return net.add(ir.Take(1, index), [name], shape, (v.sizes[0], len(index), *v.sizes[2:]))
    axis = int(rng.integers(2, len(v.sizes)))
    start, cut, step = int(rng.choice([0, 0, 1])), int(rng.choice([0, 1])), int(rng.choice([1, 2]))
    size = v.sizes[axis] - start - cut
    if size < 4:
        return None
    shape, sizes = list(v.shape), list(v.sizes)
    shape[axis], sizes[axis] = _moved(v.shape[axis], -start - cut - 1, step), (size - 1) // step + 1
    return net.add(ir.Slice(axis, start, -cut or None, step), [name], tuple(shape), tuple(sizes))


def _shuffle(net: Net, name: str) -> str | None:
    v = net.values[name]
    channels = int(v.sizes[1])
    groups = [g for g in range(2, channels) if channels % g == 0]
    if not groups or _unknown(v):
        return None
    g = int(net.rng.choice(groups))
    space, sizes = v.shape[2:], v.sizes[2:]
    a = net.add(ir.Reshape(), [name], (v.shape[0], g, channels // g, *space), (v.sizes[0], g, channels // g, *sizes))
    perm = (0, 2, 1, *range(3, 3 + len(space)))
    b = net.add(ir.Transpose(perm), [a], (v.shape[0], channels // g, g, *space), (v.sizes[0], channels // g, g, *sizes))
    return net.add(ir.Reshape(), [b], v.shape, v.sizes)


def _tokens(net: Net, name: str) -> str | None:
    """Through the last axis and back: permute, linear, permute."""
    v, rng = net.values[name], net.rng
    rank, channels, outputs = len(v.sizes), int(v.sizes[1]), int(rng.integers(1, 8))
    perm, back = (0, *range(2, rank), 1), (0, rank - 1, *range(1, rank - 1))
    a = net.add(ir.Transpose(perm), [name], tuple(v.shape[p] for p in perm), tuple(v.sizes[p] for p in perm))
    last = (*v.shape[2:],), (*v.sizes[2:],)
    linear = ir.Linear(net.ints([channels, outputs], 2), net.bias(outputs))
    b = net.add(linear, [a], (v.shape[0], *last[0], outputs), (v.sizes[0], *last[1], outputs))
    return net.add(ir.Transpose(back), [b], (v.shape[0], outputs, *last[0]), (v.sizes[0], outputs, *last[1]))


def _border(net: Net, name: str) -> str | None:
    v, rng = net.values[name], net.rng
    rank, channels = len(v.sizes) - 2, int(v.sizes[1])
    pads = tuple((int(rng.integers(2)), int(rng.integers(2))) for _ in range(rank))
    ring = tuple((left + int(rng.integers(2)), right + int(rng.integers(2))) for left, right in pads)
    made = _window(net, v, [1] * rank, pads, [1] * rank, [1] * rank)
    if made is None or min(made[1]) < 5:
        return None
    op = ir.Border(ring, net.ints([channels], 1) * (rng.random() < 0.5), pads)
    return net.add(op, [name], (*v.shape[:2], *made[0]), (*v.sizes[:2], *made[1]))


def _times(dim: Dim, factor: int, more: int = 0) -> Dim:
    """The symbol of factor · dim + more."""
    if isinstance(dim, int):
        return dim * factor + more
    return f"({dim})*{factor} + ({more})" if more or factor != 1 else dim


#: Enlarged values stop growing here, so that numbers stay exact and nets stay quick.
_LARGEST = 40


def _deconv(net: Net, name: str) -> str | None:
    rng, v = net.rng, net.values[name]
    channels, rank = int(v.sizes[1]), len(v.sizes) - 2
    groups = int(rng.choice([g for g in range(1, channels + 1) if channels % g == 0]))
    width = int(rng.integers(1, 4))
    kernel = [int(rng.choice([1, 2, 3, 4])) for _ in range(rank)]
    strides = [int(rng.choice([1, 2, 2, 3])) for _ in range(rank)]
    gaps = [int(rng.choice([1, 1, 1, 2])) for _ in range(rank)]
    pads = [(int(rng.integers(0, 1 + d * (k - 1) // 2)), int(rng.integers(0, 1 + d * (k - 1) // 2)))
            for k, d in zip(kernel, gaps, strict=True)]  # fmt: skip
    extra = [int(rng.integers(s)) for s in strides]
    if groups * width > 12 or any(n * s > _LARGEST for n, s in zip(v.sizes[2:], strides, strict=True)):
        return None
    more = [d * (k - 1) + 1 + e - s - left - right
            for k, s, d, (left, right), e in zip(kernel, strides, gaps, pads, extra, strict=True)]  # fmt: skip
    op = ir.ConvTranspose(
        net.ints([channels, width, *kernel], 2), net.bias(groups * width), tuple(strides), tuple(gaps), groups,
        tuple(pads), tuple(extra),
    )  # fmt: skip
    shape = [_times(n, s, m) for n, s, m in zip(v.shape[2:], strides, more, strict=True)]
    sizes = [n * s + m for n, s, m in zip(v.sizes[2:], strides, more, strict=True)]
    return net.add(op, [name], (v.shape[0], groups * width, *shape), (v.sizes[0], groups * width, *sizes))


def _enlarge(net: Net, name: str) -> str | None:
    """Pixel shuffle where channels allow it, else nearest upsampling."""
    rng, v = net.rng, net.values[name]
    channels, rank = int(v.sizes[1]), len(v.sizes) - 2
    if max(v.sizes[2:]) * 2 > _LARGEST:
        return None
    wide = v.shape[1]
    if rank == 2 and channels % 4 == 0 and not _unknown(v) and rng.random() < 0.8:
        op: ir.Op = ir.DepthToSpace(2, crd=bool(rng.integers(2)))
        factors, channels, wide = [2, 2], channels // 4, channels // 4
    else:
        factors = [int(rng.choice([1, 2])) for _ in range(rank)]
        op = ir.Upsample(tuple(factors))
    shape = [_times(n, f) for n, f in zip(v.shape[2:], factors, strict=True)]
    sizes = [n * f for n, f in zip(v.sizes[2:], factors, strict=True)]
    return net.add(op, [name], (v.shape[0], wide, *shape), (v.sizes[0], channels, *sizes))


def _pointwise(net: Net, name: str) -> str | None:
    """A 1×1 into a number of channels that a pixel shuffle can take."""
    rng, v = net.rng, net.values[name]
    outputs, rank = int(rng.choice([1, 3, 4, 8])), len(v.sizes) - 2
    weight = net.ints([outputs, int(v.sizes[1]), *(1,) * rank], 2)
    op = ir.Conv(weight, net.bias(outputs), (1,) * rank, (1,) * rank, 1, ((0, 0),) * rank)
    return net.add(op, [name], (v.shape[0], outputs, *v.shape[2:]), (v.sizes[0], outputs, *v.sizes[2:]))


def _head(net: Net, name: str) -> str | None:
    """The head of a super-resolution net: a kernel into four times as many channels, enlarged, and a 1×1 or a sum."""
    rng, v = net.rng, net.values[name]
    if len(v.sizes) != 4 or max(v.sizes[2:]) * 2 > _LARGEST:
        return None
    width, crd = int(rng.integers(1, 3)), bool(rng.integers(2))
    ends = []
    for kernel in (3, 1):
        weight, pad = net.ints([4 * width, int(v.sizes[1]), kernel, kernel], 2), kernel // 2
        op = ir.Conv(weight, net.bias(4 * width), (1, 1), (1, 1), 1, ((pad, pad),) * 2)
        deep = net.add(op, [name], (v.shape[0], 4 * width, *v.shape[2:]), (v.sizes[0], 4 * width, *v.sizes[2:]))
        shape = (v.shape[0], width, *(_times(n, 2) for n in v.shape[2:]))
        sizes = (v.sizes[0], width, *(2 * n for n in v.sizes[2:]))
        ends.append(net.add(ir.DepthToSpace(2, crd), [deep], shape, sizes))
        if rng.random() < 0.5:
            return _pointwise(net, ends[0])
    return net.add(ir.Sum((1.0, 0.5)), ends, net.values[ends[0]].shape, net.values[ends[0]].sizes)


def _relu(net: Net, name: str) -> str | None:
    v = net.values[name]
    return net.add(ir.Opaque("Relu"), [name], v.shape, v.sizes)


_MAKERS = [_conv] * 8 + [_affine] * 3 + [_sum] * 5 + [_concat] * 2 + [_pad] * 2
_MAKERS += [
    _pool,
    _slice,
    _slice,
    _shuffle,
    _tokens,
    _border,
    _relu,
    _deconv,
    _deconv,
    _enlarge,
    _enlarge,
    _pointwise,
    _head,
]


def _picture(net: Net, name: str) -> str | None:
    """Add a number to each channel and position."""
    v = net.values[name]
    return net.add(ir.Affine(None, net.ints(v.sizes[1:])), [name], v.shape, v.sizes)


def _mismatched(net: Net, name: str) -> str | None:
    """A constant for each channel, then a kernel whose padding does not show it."""
    v = net.values[name]
    return _conv(net, net.add(ir.Affine(None, net.ints([int(v.sizes[1])]), axis=1), [name], v.shape, v.sizes))


def random_net(seed: int, fixed: bool = False) -> ir.Graph:
    """Draw a net: the input is ``x``, everything that nobody reads is an output.

    ``fixed`` sizes let it add constant images as well.
    """
    rng = np.random.default_rng(seed)
    net = Net(rng, dynamic=bool(rng.integers(2)) and not fixed)
    makers = _MAKERS + ([_picture] * 2 + [_mismatched] * 6) * fixed
    rank, channels = int(rng.choice([1, 2, 2])), int(rng.integers(1, 9))
    sizes = (2, channels, *(int(rng.integers(9, 14)) for _ in range(rank)))
    symbols: tuple[Dim, ...] = ("b", channels, *("hw"[:rank]))
    net.values["x"] = ir.Value("x", symbols if net.dynamic else sizes, sizes)
    for _ in range(int(rng.integers(2, 13))):
        names = list(net.values)
        recent = names[-4:] if rng.random() < 0.7 else names
        rng.choice(makers)(net, str(rng.choice([n for n in recent if len(net.values[n].sizes) == rank + 2])))
    read = {n for node in net.nodes for n in node.inputs}
    outputs = {node.output for node in net.nodes if node.output not in read} or {"x"}
    return ir.Graph(net.nodes, net.values, ("x",), frozenset(outputs))


def run(graph: ir.Graph, x: Tensor) -> dict[str, Tensor]:
    """Execute a whole net in float64."""
    values, nodes = {"x": x}, list[ir.Node]()
    shape = graph.values["x"].shape
    assert shape is not None
    symbols = {d: n for d, n in zip(shape, x.shape, strict=True) if isinstance(d, str)}
    for node in graph.nodes:
        nodes.append(node)
        args = [values[n] for n in node.inputs]
        match node.op:
            case ir.Opaque():
                values[node.output] = torch.relu(args[0])
            case ir.Reshape():
                target = region.target_sizes(
                    graph.values[node.output], symbols, tuple(x.shape) == graph.values["x"].sizes
                )
                values[node.output] = execute.reshape(args[0], target)
            case _:
                values[node.output] = execute.apply(node.op, args)
    return {n: values[n] for n in graph.outputs}


@dataclass(frozen=True)
class Verdict:
    """What came of one net: nodes before and after, merges, and the sizes at which it was wrong; merges with a map."""

    seed: int
    before: int
    after: int
    merges: int
    wrong: tuple[tuple[int, ...], ...]
    checked: int
    maps: int = 0


def _close(got: Tensor, want: Tensor) -> bool:
    return certify.relative_error(got, want) <= 1e-13


def check(seed: int, border_maps: bool = False) -> Verdict:
    """Collapse a random net by force and compare every bit of every output at up to three sizes.

    With ``border_maps`` it has fixed sizes three times in four, and border maps are allowed.
    """
    graph = random_net(seed, fixed=border_maps and seed % 4 > 0)
    plan = Planner(FRUGAL if border_maps else EAGER, any_work=True, border_maps=border_maps).run(graph)
    rng = np.random.default_rng(seed + 1)
    traced = graph.values["x"].sizes
    assert traced is not None
    shapes = [traced]
    if graph.values["x"].shape != traced:
        shapes += [(1, traced[1], *(n + int(rng.integers(1, 4)) for n in traced[2:])),
                   (3, traced[1], *(n - int(rng.integers(1, 4)) for n in traced[2:]))]  # fmt: skip
    # An average that does not count its padding divides by what is no power of two.
    rounds = any(isinstance(n.op, ir.AvgPool) and not n.op.count_pad and any(map(any, n.op.pads)) for n in graph.nodes)
    wrong, checked = [], 0
    for shape in shapes:
        x = torch.from_numpy(rng.integers(-3, 4, shape).astype(np.float64))
        try:
            with torch.no_grad():
                want = run(graph, x)
        except (RuntimeError, ValueError):
            continue  # too small for a kernel
        if any(v.numel() == 0 for v in want.values()) or max(float(v.abs().max()) for v in want.values()) > 2.0**46:
            continue
        checked += 1
        try:
            with torch.no_grad():
                got = run(plan.graph, x)
            if not all(torch.equal(want[n], got[n]) or (rounds and _close(got[n], want[n])) for n in want):
                wrong.append(shape)
        except (RuntimeError, ValueError):
            wrong.append(shape)
    maps = sum("border" in merge.notes for merge in plan.merges)
    return Verdict(seed, len(graph.nodes), len(plan.graph.nodes), len(plan.merges), tuple(wrong), checked, maps)


__all__ = ["EAGER", "Verdict", "check", "random_net", "replace", "run"]
