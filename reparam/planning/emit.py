"""Algebra → operators: the cheapest few nodes that compute a state from its root, first as a form, then in full.

A form knows everything but the numbers, so that a candidate can be priced without building its kernel.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import prod

import numpy as np

from attn_export.reparam import ir
from attn_export.reparam.algebra import positions, toeplitz, upsample
from attn_export.reparam.algebra.layout import Layout, channels_first
from attn_export.reparam.algebra.linconv import LinConv, NotFusibleError
from attn_export.reparam.algebra.state import State, Upsampling
from attn_export.reparam.planning import cost
from attn_export.reparam.planning.cost import CostProfile, Work, vector_width
from attn_export.reparam.planning.dense import class_order, dense, groups_of, renamed, taps
from attn_export.reparam.planning.lowering import Lowering, LoweringStep, Sizes
from attn_export.reparam.types import Dim


def lower(root: ir.Value, home: Layout, state: State, target: ir.Value, profile: CostProfile) -> Lowering:
    """Choose the cheapest form.

    Raises:
        NotFusibleError: there is none.
    """
    if root.sizes is None or target.sizes is None or root.shape is None or target.shape is None:
        raise NotFusibleError("sizes are not known", "export with shapes, or run shape inference on the file")
    if state.rise is not None:
        return _upsampled(root, home, state, target, profile)
    lin = state.lin
    if lin.image is not None:
        return _with_border_map(root, home, state, target, profile)
    plain = all(a.taps == (0,) and a.stride == 1 and a.extent == -1 for a in lin.axes)
    if plain and state.layout.same(home):
        if _diagonal(lin):
            return _affine(state, root)
        axis = len(home.axes) - 1
        if home.width(axis) == lin.channels and (axis == 1 or (home.axes[1] and home.axes[1][0].kind != "c")):
            return _linear(lin, root, target)
    elif (
        plain
        and state.layout.same(home.with_width(len(home.axes) - 1, lin.outputs))
        and not (home.axes[1] and home.axes[1][0].kind == "c" and len(home.axes) > 2)
    ):
        return _linear(lin, root, target)
    if not lin.axes and len(home.axes) > 2:
        return _over_all(lin, root, target)
    if not 1 <= len(lin.axes) <= 3:
        raise NotFusibleError(f"no convolution has {len(lin.axes)} spatial axes")
    return min(_convs(root, home, state, target), key=lambda f: f.seconds(profile))


def _with_border_map(root: ir.Value, home: Layout, state: State, target: ir.Value, profile: CostProfile) -> Lowering:
    """The form without any constant, and one addition of all constants behind its last kernel."""
    lin, place, image = state.lin, state.layout, state.lin.image
    assert image is not None
    silent = replace(lin, image=None, bias=np.zeros_like(lin.bias), biased=False)
    steps = lower(root, home, State(silent, place), target, profile).steps
    number = max((n for n, step in enumerate(steps) if step.work.macs), default=len(steps) - 1) + 1
    sizes, turned = steps[number - 1].sizes, number < len(steps)
    if not turned:
        positions.check(place)

    def build() -> ir.Op:
        whole = image() + lin.bias.reshape(-1, *(1,) * len(lin.axes))
        return ir.Affine(None, whole if turned else positions.lay(whole, place))

    stored = lin.outputs * prod(lin.lengths or ())
    work = Work(prod(sizes), 2 * prod(sizes) + stored, passes=cost.MAP_PASSES)
    added = LoweringStep(build, work, steps[number - 1].shape, sizes, stored)
    return Lowering((*steps[:number], added, *steps[number:]))


def _over_all(lin: LinConv, root: ir.Value, target: ir.Value) -> Lowering:
    """A matrix over all numbers of an item: flatten, connect, give it its shape."""
    assert root.sizes is not None
    assert root.shape is not None
    assert target.sizes is not None
    assert target.shape is not None
    free = Work(0, 0, free=True)
    ones = (1,) * (len(root.sizes) - 2)
    flat = (lin.channels, *ones)
    if toeplitz.MATRIX not in lin.notes:
        raise NotFusibleError("a matrix over the whole map, where there was none")
    first = LoweringStep(lambda: ir.Flatten(len(ones)), free, (root.shape[0], *flat), (root.sizes[0], *flat))
    last = LoweringStep(ir.Reshape, free, target.shape, target.sizes)
    middle = _conv_over(lin, len(ones), first)
    return Lowering((first, middle, last))


def _conv_over(lin: LinConv, rank: int, before: LoweringStep) -> LoweringStep:
    ones = (1,) * rank
    groups = groups_of(lin)
    width = lin.channels // groups
    sizes = (before.sizes[0], lin.outputs, *ones)
    bias = lin.bias if lin.biased else None

    def build() -> ir.Op:
        weight = dense(lin, groups).reshape(lin.outputs, width, *ones)
        return ir.Conv(weight, bias, ones, ones, groups, ((0, 0),) * rank)

    stored = lin.outputs * width
    moved, depthwise = prod(before.sizes) + prod(sizes) + stored, width == 1 and groups > 1
    done = Work(prod(sizes) * width, moved, depthwise, kind=cost.CONVOLUTION)
    return LoweringStep(build, done, (before.shape[0], lin.outputs, *ones), sizes, stored + lin.biased * lin.outputs)


def _upsampled(root: ir.Value, home: Layout, state: State, target: ir.Value, profile: CostProfile) -> Lowering:
    """An enlarged value: a transposed convolution, or the coarse form with the rearrangement behind it."""
    lin, rise_ = state.lin, state.rise
    assert root.sizes is not None
    assert root.shape is not None
    assert target.sizes is not None
    assert target.shape is not None
    assert rise_ is not None
    if rise_.kind == "transposed" and _to_canonical(home) is None and _one_bias(lin, rise_) and lin.image is None:
        op = upsample.transposed(lin, rise_)
        done = cost.work(op, [root.sizes], target.sizes)
        return Lowering((LoweringStep(lambda: op, done, target.shape, target.sizes, cost.parameters(op)),))
    if any(rise_.trim) or (rise_.kind != "repeat" and (len(set(rise_.factors)) > 1 or len(rise_.factors) != 2)):
        raise NotFusibleError("a transposed convolution whose bias differs between phases", "drop the bias inside")
    where = {axis[0].index: n for n, axis in enumerate(home.axes) if axis and axis[0].kind == "s"}
    sizes = [axis.length(root.sizes[where[n]]) for n, axis in enumerate(lin.axes)]
    dims: list[Dim] = []
    for n, (axis, size) in enumerate(zip(lin.axes, sizes, strict=True)):
        same = axis.stride == 1 and axis.extent == -1
        dims.append(size if isinstance(root.shape[where[n]], int) else root.shape[where[n]] if same else None)
    full = (root.sizes[0], lin.outputs, *sizes)
    coarse = ir.Value(f"{target.name}:coarse", (root.shape[0], lin.outputs, *dims), full)
    below = lower(root, home, State(lin, state.layout), coarse, profile)
    last: ir.Op = ir.Upsample(rise_.factors)
    if rise_.kind != "repeat":
        last = ir.DepthToSpace(rise_.factors[0], crd=True)
    step = LoweringStep(lambda: last, cost.work(last, [full], target.sizes), target.shape, target.sizes)
    return Lowering((*below.steps, step))


def _one_bias(lin: LinConv, rise_: Upsampling) -> bool:
    bias = lin.bias.reshape(-1, rise_.phases)
    return bool((bias == bias[:, :1]).all())


def _diagonal(lin: LinConv) -> bool:
    return (
        lin.width == 1 and lin.outputs == lin.channels and np.array_equal(lin.src[lin.grp, 0], np.arange(lin.channels))
    )


def _affine(state: State, root: ir.Value) -> Lowering:
    lin, place = state.lin, state.layout
    assert root.shape is not None
    assert root.sizes is not None
    sizes = [place.width(n) for n in range(len(place.axes))]

    def build() -> ir.Op:
        factor = lin.kernel().reshape(-1)
        shape = tuple(sizes[next((n for n, s in enumerate(sizes) if s != 1), 0) :])
        return ir.Affine(
            None if np.all(factor == 1) else factor.reshape(shape),
            None if not np.any(lin.bias) else lin.bias.reshape(shape),
        )

    scaled = bool(np.any(lin.kernel() != 1))
    work = Work(prod(root.sizes) * (1 + lin.biased), 2 * prod(root.sizes), passes=max(1, scaled + lin.biased))
    return Lowering((LoweringStep(build, work, root.shape, root.sizes, lin.outputs * (1 + lin.biased)),))


def _linear(lin: LinConv, root: ir.Value, target: ir.Value) -> Lowering:
    assert target.shape is not None
    assert root.sizes is not None
    sizes = (*root.sizes[:-1], lin.outputs)
    bias = lin.bias if lin.biased else None

    def build() -> ir.Op:
        weight = dense(lin, 1).reshape(lin.outputs, lin.channels)
        return ir.Linear(np.ascontiguousarray(weight.T), bias)

    stored = lin.outputs * lin.channels
    work = Work(prod(sizes) * lin.channels, prod(sizes) + prod(root.sizes) + stored, kind=cost.PRODUCT)
    return Lowering((LoweringStep(build, work, target.shape, sizes, stored + (lin.outputs if lin.biased else 0)),))


def _convs(root: ir.Value, home: Layout, state: State, target: ir.Value) -> Iterator[Lowering]:
    """Every way to write the state as one convolution: on all channels, or on those it reads."""
    assert root.sizes is not None
    assert root.shape is not None
    assert target.sizes is not None
    before: list[LoweringStep] = []
    sizes, shape = root.sizes, root.shape
    perm = _to_canonical(home)
    if perm is not None:
        sizes, shape = tuple(sizes[p] for p in perm), tuple(shape[p] for p in perm)
        before.append(_step(ir.Transpose(perm), Work(0, 2 * prod(sizes)), shape, sizes))
    after, lin = _from_canonical(state, sizes, target), state.lin
    crops = [(max(0, a.lo), max(0, -(a.extent + 1 + a.hi))) for a in lin.axes]
    for number, (left, right) in enumerate(crops):
        if left or right:
            cut = ir.Slice(number + 2, left, -right or None)
            sizes = (*sizes[: number + 2], sizes[number + 2] - left - right, *sizes[number + 3 :])
            shape = (*shape[: number + 2], _minus(shape[number + 2], left + right), *shape[number + 3 :])
            before.append(_step(cut, Work(0, 2 * prod(sizes)), shape, sizes))
    index = np.unique(lin.src[lin.src >= 0])
    yield Lowering((*before, *_conv_steps(lin, lin.channels, sizes, shape), *after))
    orders = [index] if len(index) < lin.channels else []
    sparse = class_order(lin)
    if sparse is not None and not (orders and np.array_equal(sparse, index)):
        orders.append(sparse)
    for order in orders:
        if np.array_equal(order, np.arange(lin.channels)) or not len(order):
            continue
        fewer = (sizes[0], len(order), *sizes[2:])
        op: ir.Op = ir.Take(1, order)
        if np.array_equal(order, np.arange(order[0], order[0] + len(order))):
            op = ir.Slice(1, int(order[0]), int(order[-1]) + 1)
        less = (shape[0], len(order), *shape[2:])
        picked = renamed(lin, order)
        steps = (*before, _step(op, Work(0, 2 * prod(fewer)), less, fewer))
        yield Lowering((*steps, *_conv_steps(picked, len(order), fewer, less), *after))


def _step(op: ir.Op, work: Work, shape: tuple[Dim, ...], sizes: Sizes) -> LoweringStep:
    return LoweringStep(lambda: op, work, shape, sizes)


def _minus(dim: Dim, amount: int) -> Dim:
    return dim - amount if isinstance(dim, int) else None


def _conv_steps(lin: LinConv, channels: int, sizes: Sizes, shape: tuple[Dim, ...]) -> list[LoweringStep]:
    regular = [taps(a) for a in lin.axes]
    groups = groups_of(lin)
    pads = tuple((max(0, -a.lo), max(0, a.extent + 1 + a.hi)) for a in lin.axes)
    lengths = tuple(
        (size + left + right - step * (count - 1) - 1) // axis.stride + 1
        for size, (left, right), (_, step, count), axis in zip(sizes[2:], pads, regular, lin.axes, strict=True)
    )
    result = (sizes[0], lin.outputs, *lengths)
    per = channels // groups * prod(count for _, _, count in regular)
    bias = lin.bias if lin.biased else None

    def build() -> ir.Op:
        return ir.Conv(
            dense(lin, groups),
            bias,
            tuple(a.stride for a in lin.axes),
            tuple(step for _, step, _ in regular),
            groups,
            pads,
        )

    stored = lin.outputs * per
    kernel = (lin.outputs, channels // groups, *(count for _, _, count in regular))
    depthwise, width = groups == channels and groups > 1, vector_width(kernel, groups)
    moved = prod(sizes) + prod(result) + stored
    work = Work(prod(result) * per, moved, depthwise, width=width, kind=cost.CONVOLUTION)
    dims: list[Dim] = [length if isinstance(dim, int) else None for length, dim in zip(lengths, shape[2:], strict=True)]
    return [
        LoweringStep(build, work, (shape[0], lin.outputs, *dims), result, stored + (lin.outputs if lin.biased else 0))
    ]


def _to_canonical(home: Layout) -> tuple[int, ...] | None:
    """The permutation that brings a root to ``(b, c, *space)``, or None if it is there."""
    kinds = [axis[0].kind for axis in home.axes]
    channel = kinds.index("c")
    perm = (0, channel, *(n for n in range(1, len(kinds)) if n != channel))
    return None if perm == tuple(range(len(kinds))) else perm


def _from_canonical(state: State, sizes: Sizes, target: ir.Value) -> list[LoweringStep]:
    """Steps that bring ``(b, c, *space)`` to the target's layout.

    Raises:
        NotFusibleError: the layout needs more than a permutation and merging.
    """
    assert target.shape is not None
    assert target.sizes is not None
    lin, place = state.lin, state.layout
    shape: list[Dim] = [None] * (len(lin.axes) + 2)
    canonical = channels_first([1, lin.outputs, *(2 for _ in lin.axes)])
    assert canonical is not None
    if place.same(canonical):
        return []
    order: list[int] = []
    for atom in place.atoms:
        position = {"b": 0, "c": 1, "s": atom.index + 2}[atom.kind]
        if atom.kind == "c" and ((atom.size == 1 and lin.outputs != 1) or (order and order[-1] == 1)):
            continue
        order.append(position)
    order += [n + 2 for n, axis in enumerate(lin.axes) if n + 2 not in order]
    if sorted(order) != list(range(len(lin.axes) + 2)):
        raise NotFusibleError("its channels are spread over several places", "put the layout change behind it")
    steps: list[LoweringStep] = []
    spans = [axis.length(size) for axis, size in zip(lin.axes, _sizes_of_root(lin, sizes), strict=True)]
    full = (sizes[0], lin.outputs, *spans)
    moved = tuple(full[n] for n in order)
    if order != list(range(len(order))):
        steps.append(_step(ir.Transpose(tuple(order)), Work(0, 2 * prod(moved)), tuple(shape[n] for n in order), moved))
    if moved != target.sizes or _merged(place):
        if sum(not isinstance(d, int) for d in target.shape) > 1:
            raise NotFusibleError("its layout cannot be rebuilt with several dynamic axes", "export a fixed size")
        steps.append(_step(ir.Reshape(), Work(0, 0, free=True), target.shape, target.sizes))
    return steps


def _merged(place: Layout) -> bool:
    return any(len([a for a in axis if a.size != 1]) > 1 for axis in place.axes)


def _sizes_of_root(lin: LinConv, sizes: Sizes) -> Sizes:
    return sizes[2 : 2 + len(lin.axes)]
