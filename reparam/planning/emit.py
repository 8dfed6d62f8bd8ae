"""Algebra → operators: lower a state to the cheapest few nodes that compute it from its root.

A lowering knows everything but the numbers, so that a candidate can be priced without building its kernel.
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


def lower(root: ir.Value, root_layout: Layout, state: State, target: ir.Value, profile: CostProfile) -> Lowering:
    """Choose the cheapest lowering.

    Raises:
        NotFusibleError: there is none.
    """
    if None in (root.sizes, target.sizes, root.shape, target.shape):
        raise NotFusibleError("sizes are not known", "export with shapes, or run shape inference on the file")
    lin = state.lin
    if state.upsampling is not None:
        return _upsampled(root, root_layout, state, target, profile)
    if lin.border_map is not None:
        return _with_border_map(root, root_layout, state, target, profile)
    if _is_scaling(state, root_layout):
        return _affine(state, root)
    if _is_product(state, root_layout):
        return _linear(lin, root, target)
    if _is_regrouped_product(state, root_layout):
        return _linear_regrouped(lin, root, target)
    if not lin.axes and len(root_layout.axes) > 2:
        return _over_all(lin, root, target)
    if not 1 <= len(lin.axes) <= 3:
        raise NotFusibleError(f"no convolution has {len(lin.axes)} spatial axes")
    return min(_convs(root, root_layout, state, target), key=lambda lowering: lowering.seconds(profile))


def _is_scaling(state: State, root_layout: Layout) -> bool:
    """Whether each channel is its own root channel, scaled and shifted, at the same place."""
    return _is_pointwise(state.lin) and state.layout.same(root_layout) and _is_diagonal(state.lin)


def _is_product(state: State, root_layout: Layout) -> bool:
    """Whether the value is a matrix product along the last axis of the root."""
    if not _is_pointwise(state.lin):
        return False
    last = len(root_layout.axes) - 1
    second = root_layout.axes[1]
    if state.layout.same(root_layout):
        holds_all = root_layout.width(last) == state.lin.channels
        return holds_all and (last == 1 or (bool(second) and second[0].kind != "c"))
    channels_first = bool(second) and second[0].kind == "c" and last > 1
    return state.layout.same(root_layout.with_width(last, state.lin.outputs)) and not channels_first


def _is_regrouped_product(state: State, root_layout: Layout) -> bool:
    """Whether the value is such a product, whose axes are then merged or cut, and nothing is moved."""
    plain = root_layout.with_width(len(root_layout.axes) - 1, state.lin.outputs)
    return state.layout.same_order(plain) and _is_product(replace(state, layout=plain), root_layout)


def _is_pointwise(lin: LinConv) -> bool:
    return all(a.taps == (0,) and a.stride == 1 and a.extent == -1 for a in lin.axes)


def _is_diagonal(lin: LinConv) -> bool:
    return (
        lin.width == 1 and lin.outputs == lin.channels and np.array_equal(lin.src[lin.grp, 0], np.arange(lin.channels))
    )


def _known(value: ir.Value) -> tuple[tuple[Dim, ...], Sizes]:
    """Return shape and sizes of a value that has both: ``lower`` has looked."""
    assert value.shape is not None
    assert value.sizes is not None
    return value.shape, value.sizes


def _with_border_map(
    root: ir.Value, root_layout: Layout, state: State, target: ir.Value, profile: CostProfile
) -> Lowering:
    """Lower without any constant, and add all constants at once behind the last kernel."""
    lin, place, border_map = state.lin, state.layout, state.lin.border_map
    assert border_map is not None
    bare = replace(lin, border_map=None, bias=np.zeros_like(lin.bias), biased=False)
    steps = lower(root, root_layout, State(bare, place), target, profile).steps
    number = max((n for n, step in enumerate(steps) if step.work.macs), default=len(steps) - 1) + 1
    sizes, turned = steps[number - 1].sizes, number < len(steps)
    if turned and steps[number - 1].work.kind == cost.PRODUCT:  # its channels are last, and only then regrouped
        turned, place = False, root_layout.with_width(len(root_layout.axes) - 1, lin.outputs)
    if not turned:
        positions.check(place)

    def build() -> ir.Op:
        constants = border_map() + lin.bias.reshape(-1, *(1,) * len(lin.axes))
        return ir.Affine(None, constants if turned else positions.lay(constants, place))

    stored = lin.outputs * prod(lin.lengths or ())
    work = Work(prod(sizes), 2 * prod(sizes) + stored, passes=cost.MAP_PASSES)
    added = LoweringStep(build, work, steps[number - 1].shape, sizes, stored)
    return Lowering((*steps[:number], added, *steps[number:]))


def _over_all(lin: LinConv, root: ir.Value, target: ir.Value) -> Lowering:
    """Multiply a matrix over all numbers of an item: flatten, connect, give it its shape."""
    (root_shape, root_sizes), (shape, sizes) = _known(root), _known(target)
    free = Work(0, 0, free=True)
    ones = (1,) * (len(root_sizes) - 2)
    flat = (lin.channels, *ones)
    if toeplitz.MATRIX not in lin.notes:
        raise NotFusibleError("a matrix over the whole map, where there was none")
    first = LoweringStep(lambda: ir.Flatten(len(ones)), free, (root_shape[0], *flat), (root_sizes[0], *flat))
    last = LoweringStep(ir.Reshape, free, shape, sizes)
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


def _upsampled(root: ir.Value, root_layout: Layout, state: State, target: ir.Value, profile: CostProfile) -> Lowering:
    """Lower to a transposed convolution, or to the coarse lowering with the rearrangement behind it."""
    lin, upsampling = state.lin, state.upsampling
    assert upsampling is not None
    shape, sizes = _known(target)
    if _is_transposed(lin, upsampling) and _to_canonical(root_layout) is None:
        op = upsample.transposed(lin, upsampling)
        done = cost.work(op, [_known(root)[1]], sizes)
        return Lowering((LoweringStep(lambda: op, done, shape, sizes, cost.parameters(op)),))
    if any(upsampling.trim) or not _can_rearrange(upsampling):
        raise NotFusibleError("a transposed convolution whose bias differs between phases", "drop the bias inside")
    coarse = _coarse(root, root_layout, lin, f"{target.name}:coarse")
    below = lower(root, root_layout, State(lin, state.layout), coarse, profile)
    last: ir.Op = ir.Upsample(upsampling.factors)
    if upsampling.kind != "repeat":
        last = ir.DepthToSpace(upsampling.factors[0], crd=True)
    step = LoweringStep(lambda: last, cost.work(last, [_known(coarse)[1]], sizes), shape, sizes)
    return Lowering((*below.steps, step))


def _is_transposed(lin: LinConv, upsampling: Upsampling) -> bool:
    """Whether a transposed convolution says it all: its constant is one number for each channel."""
    return upsampling.kind == "transposed" and lin.border_map is None and _one_bias(lin, upsampling)


def _can_rearrange(upsampling: Upsampling) -> bool:
    """Whether there is an operator that only rearranges: DepthToSpace is square and two-dimensional."""
    square = len(set(upsampling.factors)) == 1 and len(upsampling.factors) == 2
    return upsampling.kind == "repeat" or square


def _coarse(root: ir.Value, root_layout: Layout, lin: LinConv, name: str) -> ir.Value:
    """Describe the value ``(b, c, *space)`` before it is upsampled."""
    root_shape, root_sizes = _known(root)
    where = {axis[0].index: n for n, axis in enumerate(root_layout.axes) if axis and axis[0].kind == "s"}
    sizes = [axis.length(root_sizes[where[n]]) for n, axis in enumerate(lin.axes)]
    dims: list[Dim] = []
    for n, (axis, size) in enumerate(zip(lin.axes, sizes, strict=True)):
        same = axis.stride == 1 and axis.extent == -1
        dims.append(size if isinstance(root_shape[where[n]], int) else root_shape[where[n]] if same else None)
    return ir.Value(name, (root_shape[0], lin.outputs, *dims), (root_sizes[0], lin.outputs, *sizes))


def _one_bias(lin: LinConv, upsampling: Upsampling) -> bool:
    bias = lin.bias.reshape(-1, upsampling.phases)
    return bool((bias == bias[:, :1]).all())


def _affine(state: State, root: ir.Value) -> Lowering:
    lin, place = state.lin, state.layout
    shape_of_root, sizes_of_root = _known(root)
    sizes = [place.width(n) for n in range(len(place.axes))]

    def build() -> ir.Op:
        factor = lin.kernel().reshape(-1)
        shape = tuple(sizes[next((n for n, s in enumerate(sizes) if s != 1), 0) :])
        return ir.Affine(
            None if np.all(factor == 1) else factor.reshape(shape),
            None if not np.any(lin.bias) else lin.bias.reshape(shape),
        )

    scaled = bool(np.any(lin.kernel() != 1))
    count = prod(sizes_of_root)
    work = Work(count * (1 + lin.biased), 2 * count, passes=max(1, scaled + lin.biased))
    return Lowering((LoweringStep(build, work, shape_of_root, sizes_of_root, lin.outputs * (1 + lin.biased)),))


def _linear(lin: LinConv, root: ir.Value, target: ir.Value) -> Lowering:
    shape, before = _known(target)[0], _known(root)[1]
    sizes = (*before[:-1], lin.outputs)
    bias = lin.bias if lin.biased else None

    def build() -> ir.Op:
        weight = dense(lin, 1).reshape(lin.outputs, lin.channels)
        return ir.Linear(np.ascontiguousarray(weight.T), bias)

    stored = lin.outputs * lin.channels
    work = Work(prod(sizes) * lin.channels, prod(sizes) + prod(before) + stored, kind=cost.PRODUCT)
    return Lowering((LoweringStep(build, work, shape, sizes, stored + (lin.outputs if lin.biased else 0)),))


def _linear_regrouped(lin: LinConv, root: ir.Value, target: ir.Value) -> Lowering:
    shape, sizes = _known(root)
    plain = ir.Value(target.name, (*shape[:-1], lin.outputs), (*sizes[:-1], lin.outputs))
    return Lowering((*_linear(lin, root, plain).steps, _reshaped(target)))


def _reshaped(target: ir.Value) -> LoweringStep:
    """Make the last step, which groups the axes as the target has them.

    Raises:
        NotFusibleError: more than one of its sizes is dynamic.
    """
    shape, sizes = _known(target)
    if sum(not isinstance(d, int) for d in shape) > 1:
        raise NotFusibleError("its layout cannot be rebuilt with several dynamic axes", "export a fixed size")
    return _step(ir.Reshape(), Work(0, 0, free=True), shape, sizes)


def _convs(root: ir.Value, root_layout: Layout, state: State, target: ir.Value) -> Iterator[Lowering]:
    """Yield every way to write the state as one convolution: on all channels, or on those it reads."""
    before: list[LoweringStep] = []
    shape, sizes = _known(root)
    perm = _to_canonical(root_layout)
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


def _to_canonical(root_layout: Layout) -> tuple[int, ...] | None:
    """Return the permutation that brings a root to ``(b, c, *space)``, or None if it is there."""
    kinds = [axis[0].kind for axis in root_layout.axes]
    channel = kinds.index("c")
    perm = (0, channel, *(n for n in range(1, len(kinds)) if n != channel))
    return None if perm == tuple(range(len(kinds))) else perm


def _from_canonical(state: State, sizes: Sizes, target: ir.Value) -> list[LoweringStep]:
    """Make the steps that bring ``(b, c, *space)`` to the target's layout.

    Raises:
        NotFusibleError: the layout needs more than a permutation and merging.
    """
    lin, place = state.lin, state.layout
    target_sizes = _known(target)[1]
    canonical = channels_first([1, lin.outputs, *(2 for _ in lin.axes)])
    assert canonical is not None
    if place.same(canonical):
        return []
    order = _order(lin, place)
    steps: list[LoweringStep] = []
    spans = [axis.length(size) for axis, size in zip(lin.axes, _sizes_of_root(lin, sizes), strict=True)]
    full = (sizes[0], lin.outputs, *spans)
    moved = tuple(full[n] for n in order)
    if order != list(range(len(order))):
        steps.append(_step(ir.Transpose(tuple(order)), Work(0, 2 * prod(moved)), (None,) * len(order), moved))
    if moved != target_sizes or _merged(place):
        steps.append(_reshaped(target))
    return steps


def _order(lin: LinConv, place: Layout) -> list[int]:
    """Return the order in which a layout has the axes of ``(b, c, *space)``.

    Raises:
        NotFusibleError: the channels lie in several places.
    """
    order: list[int] = []
    for atom in place.atoms:
        position = {"b": 0, "c": 1, "s": atom.index + 2}[atom.kind]
        if atom.kind == "c" and ((atom.size == 1 and lin.outputs != 1) or (order and order[-1] == 1)):
            continue
        order.append(position)
    order += [n + 2 for n, axis in enumerate(lin.axes) if n + 2 not in order]
    if 0 not in order:  # a batch of one, which was merged away
        order.insert(0, 0)
    if sorted(order) != list(range(len(lin.axes) + 2)):
        raise NotFusibleError("its channels are spread over several places", "put the layout change behind it")
    return order


def _merged(place: Layout) -> bool:
    return any(len([a for a in axis if a.size != 1]) > 1 for axis in place.axes)


def _sizes_of_root(lin: LinConv, sizes: Sizes) -> Sizes:
    return sizes[2 : 2 + len(lin.axes)]
