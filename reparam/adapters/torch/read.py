"""torch.export → small graph: the functional graph after ``run_decompositions({})``, whose attributes are constants."""

# ruff: noqa: ARG002 - the readers of operators share one signature
from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from attn_export.reparam import ir
from attn_export.reparam.adapters.torch.border import short, writes
from attn_export.reparam.types import Dim
from attn_export.types import Array

_END = 2**31 - 1
_SHELLS = ("_native_batch_norm_legit_no_training", "split", "chunk", "split_with_sizes")
Read = tuple[ir.Op, tuple[fx.Node, ...]] | None


class TorchReader:
    """Reads one exported graph; nodes of the small graph carry their ``fx`` node as ``host``."""

    def __init__(self, module: fx.GraphModule) -> None:
        self._module = module
        self._constants: dict[fx.Node, Any] = {}
        self._writes = writes(module.graph.nodes, self.constant)
        written = {node for write in self._writes.values() for node in write.chain} - set(self._writes)
        nodes: list[ir.Node] = []
        values: dict[str, ir.Value] = {}
        inputs: list[str] = []
        outputs: set[str] = set()
        for node in module.graph.nodes:
            if node.op == "output":
                outputs |= {n.name for n in node.all_input_nodes}
                continue
            if node.op == "placeholder":
                inputs.append(node.name)
            values[node.name] = _value(node)
            if node in written or self._is_shell(node):
                continue
            if self.constant(node) is None and node.op not in ("placeholder", "get_attr"):
                nodes.append(self._read(node))
        self.graph = ir.Graph(nodes, values, tuple(inputs), frozenset(outputs))

    def constant(self, node: object) -> Any:
        """Return the value in float64 of what depends on attributes only; None for what does not."""
        if not isinstance(node, fx.Node):
            return None
        if node not in self._constants:
            self._constants[node] = self._fold(node)
        return self._constants[node]

    def _fold(self, node: fx.Node) -> Any:
        if node.op == "get_attr":
            found: Any = self._module
            for part in str(node.target).split("."):
                found = getattr(found, part)
            if not isinstance(found, Tensor):
                return None
            tensor = found.detach()
            return tensor.double() if tensor.is_floating_point() else tensor
        if node.op != "call_function" or node.kwargs or not node.all_input_nodes:
            return None
        known = {n: self.constant(n) for n in node.all_input_nodes}
        if any(v is None for v in known.values()):
            return None
        try:
            with torch.no_grad():
                result = fx.node.map_arg(node.args, lambda n: known[n])
                return node.target(*result)  # type: ignore[operator]
        except (RuntimeError, TypeError):
            return None

    def _read(self, node: fx.Node) -> ir.Node:
        arguments = tuple(n for n in node.all_input_nodes if self.constant(n) is None)
        read: Read = None
        if node in self._writes:
            read = (self._writes[node].op, (self._writes[node].base,))
        elif node.op == "call_function" and _floating(node):
            read = self._linear(node)
        op, inputs = read or (ir.Opaque(short(node)), arguments)
        return ir.Node(node.name, op, tuple(n.name for n in inputs), node.name, _scope(node), node)

    def _is_shell(self, node: fx.Node) -> bool:
        """Whether a node with several results is read through its pieces, each of them an operator of its own."""
        return short(node) in _SHELLS and all(short(u) == "getitem" and self._getitem(u) for u in node.users)

    def _linear(self, node: fx.Node) -> Read:
        name = short(node)
        if name == "getitem":
            return self._getitem(node)
        method: Callable[[fx.Node, list[Any]], Read] | None = getattr(self, f"_op_{name}", None)
        constant_first = not node.args or not isinstance(node.args[0], fx.Node | list | tuple)
        if method is None or (constant_first and name not in ("add", "mul", "sub")):
            return None
        try:
            return method(node, list(node.args))
        except (TypeError, ValueError):  # a symbolic size where a number is wanted
            return None

    def _array(self, argument: object) -> Array | None:
        """Return a constant operand: a tensor or a number."""
        if isinstance(argument, int | float) and not isinstance(argument, bool):
            return np.array(float(argument))
        tensor = self.constant(argument)
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            return None
        return tensor.numpy() if bool(torch.isfinite(tensor).all()) else None

    def _convolution(self, node: fx.Node, args: list[Any], pads: Sequence[tuple[int, int]] | None = None) -> Read:
        x, weight = args[0], self._array(args[1])
        bias = self._array(args[2]) if len(args) > 2 and args[2] is not None else None
        if weight is None or (bias is None and len(args) > 2 and args[2] is not None):
            return None
        rank = weight.ndim - 2
        if len(_shape(x)) != rank + 2:
            return None
        strides, dilations = _many(args, 3, rank, 1), _many(args, 5, rank, 1)
        groups = args[6] if len(args) > 6 else 1
        if pads is None:
            pads = [(p, p) for p in _many(args, 4, rank, 0)]
        return ir.Conv(weight, bias, strides, dilations, groups, tuple(pads)), (x,)

    def _op_conv2d(self, node: fx.Node, args: list[Any]) -> Read:
        if len(args) > 4 and isinstance(args[4], str):
            kernel, rank = self._array(args[1]), len(_shape(args[1])) - 2
            if kernel is None:
                return None
            totals = [d * (k - 1) for d, k in zip(_many(args, 5, rank, 1), kernel.shape[2:], strict=True)]
            same = args[4] == "same"
            return self._convolution(node, args, [(t // 2, t - t // 2) if same else (0, 0) for t in totals])
        return self._convolution(node, args)

    _op_conv1d = _op_conv3d = _op_conv2d

    def _op_conv_transpose2d(self, node: fx.Node, args: list[Any]) -> Read:
        weight = self._array(args[1])
        bias = self._array(args[2]) if len(args) > 2 and args[2] is not None else None
        if weight is None or (bias is None and len(args) > 2 and args[2] is not None):
            return None
        rank = weight.ndim - 2
        pads = tuple((p, p) for p in _many(args, 4, rank, 0))
        groups = args[6] if len(args) > 6 else 1
        strides, extra, dilations = _many(args, 3, rank, 1), _many(args, 5, rank, 0), _many(args, 7, rank, 1)
        return ir.ConvTranspose(weight, bias, strides, dilations, groups, pads, extra), (args[0],)

    _op_conv_transpose1d = _op_conv_transpose2d

    def _op_linear(self, node: fx.Node, args: list[Any]) -> Read:
        weight = self._array(args[1])
        bias = self._array(args[2]) if len(args) > 2 and args[2] is not None else None
        if weight is None or (bias is None and len(args) > 2 and args[2] is not None) or len(_shape(args[0])) < 2:
            return None
        return ir.Linear(np.ascontiguousarray(weight.T), bias), (args[0],)

    def _op_matmul(self, node: fx.Node, args: list[Any]) -> Read:
        weight = self._array(args[1])
        return None if weight is None or weight.ndim != 2 else (ir.Linear(weight, None), (args[0],))

    def _getitem(self, node: fx.Node) -> Read:
        """Read the first result of a batch norm, or a piece of a split."""
        source: Any = node.args[0]
        number: Any = node.args[1]
        kind, args = short(source), list[Any](source.args)
        if kind == "_native_batch_norm_legit_no_training" and number == 0:
            gamma, beta, mean, var = (None if a is None else self._array(a) for a in args[1:5])
            if (
                mean is None
                or var is None
                or (gamma is None and args[1] is not None)
                or (beta is None and args[2] is not None)
            ):
                return None
            factor = (np.ones_like(mean) if gamma is None else gamma) / np.sqrt(var + args[6])
            term = (np.zeros_like(mean) if beta is None else beta) - mean * factor
            return (ir.Affine(factor, term, axis=1), (args[0],)) if np.isfinite(factor).all() else None
        if kind in ("split", "chunk", "split_with_sizes"):
            x = args[0]
            axis = (args[2] if len(args) > 2 else 0) % len(_shape(x))
            pieces = [p.shape[axis] for p in source.meta["val"]]
            if not all(isinstance(p, int) for p in pieces):
                return None
            start = sum(pieces[:number])
            return ir.Slice(axis, start, start + pieces[number]), (x,)
        return None

    def _op_clone(self, node: fx.Node, args: list[Any]) -> Read:
        return ir.Sum((1.0,)), (args[0],)

    _op_alias = _op_contiguous = _op_detach = _op_clone

    def _op_add(self, node: fx.Node, args: list[Any]) -> Read:
        alpha = float(node.kwargs.get("alpha", 1.0))  # type: ignore[arg-type]
        return self._sum(args, (1.0, alpha))

    def _op_sub(self, node: fx.Node, args: list[Any]) -> Read:
        alpha = float(node.kwargs.get("alpha", 1.0))  # type: ignore[arg-type]
        return self._sum(args, (1.0, -alpha))

    def _sum(self, args: list[Any], factors: tuple[float, float]) -> Read:
        known = [self._array(a) for a in args[:2]]
        if known[0] is not None and known[1] is None and isinstance(args[1], fx.Node):
            return ir.Affine(np.array(factors[1]), factors[0] * known[0]), (args[1],)
        if known[1] is not None:
            return ir.Affine(None, factors[1] * known[1]), (args[0],)
        if not all(isinstance(a, fx.Node) for a in args[:2]):
            return None
        return ir.Sum(factors), (args[0], args[1])

    def _op_mul(self, node: fx.Node, args: list[Any]) -> Read:
        for array, other in ((self._array(args[1]), args[0]), (self._array(args[0]), args[1])):
            if array is not None and isinstance(other, fx.Node):
                return ir.Affine(array, None), (other,)
        return None

    def _op_div(self, node: fx.Node, args: list[Any]) -> Read:
        array = self._array(args[1])
        return None if node.kwargs or array is None or not np.all(array) else (ir.Affine(1 / array, None), (args[0],))

    def _op_neg(self, node: fx.Node, args: list[Any]) -> Read:
        return ir.Affine(np.array(-1.0), None), (args[0],)

    def _op_leaky_relu(self, node: fx.Node, args: list[Any]) -> Read:
        return (ir.Sum((1.0,)), (args[0],)) if len(args) > 1 and args[1] == 1 else None

    def _op_cat(self, node: fx.Node, args: list[Any]) -> Read:
        if any(self.constant(a) is not None for a in args[0]):
            return None
        axis = (args[1] if len(args) > 1 else 0) % len(_shape(args[0][0]))
        return ir.Concat(axis), tuple(args[0])

    def _op_pad(self, node: fx.Node, args: list[Any]) -> Read:
        if len(args) > 2 and isinstance(args[2], str) and args[2] != "constant":
            return None
        value = args[3] if len(args) > 3 and args[3] is not None else 0.0
        if len(args) > 2 and not isinstance(args[2], str):
            value = args[2]
        rank = len(_shape(args[0]))
        amounts = [operator.index(n) for n in args[1]]
        pads = [(0, 0)] * rank
        for n in range(len(amounts) // 2):
            pads[rank - 1 - n] = (amounts[2 * n], amounts[2 * n + 1])
        return ir.Pad(tuple(pads), float(value)), (args[0],)

    _op_constant_pad_nd = _op_pad

    def _op_slice(self, node: fx.Node, args: list[Any]) -> Read:
        axis = (args[1] if len(args) > 1 else 0) % len(_shape(args[0]))
        start = operator.index(args[2]) if len(args) > 2 and args[2] is not None else 0
        stop = operator.index(args[3]) if len(args) > 3 and args[3] is not None else None
        step = operator.index(args[4]) if len(args) > 4 else 1
        stop = None if stop is not None and stop >= _END else stop
        if start == 0 and stop is None and step == 1:
            return ir.Sum((1.0,)), (args[0],)
        return ir.Slice(axis, start, stop, step), (args[0],)

    def _op_index_select(self, node: fx.Node, args: list[Any]) -> Read:
        index = self.constant(args[2])
        return None if index is None else (ir.Take(args[1] % len(_shape(args[0])), index.numpy()), (args[0],))

    def _op_avg_pool2d(self, node: fx.Node, args: list[Any]) -> Read:
        rank = len(_shape(args[0])) - 2
        kernel = _many(args, 1, rank, 1)
        strides = _many(args, 2, rank, 1) if len(args) > 2 and args[2] else kernel
        pads = tuple((p, p) for p in _many(args, 3, rank, 0))
        ceil, count = args[4] if len(args) > 4 else False, args[5] if len(args) > 5 else True
        divisor = float(args[6]) if len(args) > 6 and args[6] else None
        return ir.AvgPool(kernel, strides, pads, count, ceil, divisor), (args[0],)

    _op_avg_pool1d = _op_avg_pool2d

    def _op_view(self, node: fx.Node, args: list[Any]) -> Read:
        return ir.Reshape(), (args[0],)

    _op_reshape = _op__unsafe_view = _op_unsqueeze = _op_squeeze = _op_flatten = _op_view

    def _op_permute(self, node: fx.Node, args: list[Any]) -> Read:
        rank = len(_shape(args[0]))
        return ir.Transpose(tuple(p % rank for p in args[1])), (args[0],)

    def _op_transpose(self, node: fx.Node, args: list[Any]) -> Read:
        perm = list(range(len(_shape(args[0]))))
        a, b = args[1] % len(perm), args[2] % len(perm)
        perm[a], perm[b] = perm[b], perm[a]
        return ir.Transpose(tuple(perm)), (args[0],)

    def _op_pixel_shuffle(self, node: fx.Node, args: list[Any]) -> Read:
        return ir.DepthToSpace(args[1], crd=True), (args[0],)

    def _op_upsample_nearest2d(self, node: fx.Node, args: list[Any]) -> Read:
        before, after = _shape(args[0])[2:], _shape(node)[2:]
        given = args[2] if len(args) > 2 else None  # dynamic sizes are products of symbols: the factors say it
        if not isinstance(given, list | tuple):
            given = [
                a / b if isinstance(a, int) and isinstance(b, int) else 0.5 for a, b in zip(after, before, strict=True)
            ]
        if any(f < 1 or f != int(f) for f in given):
            return None
        return ir.Upsample(tuple(int(f) for f in given)), (args[0],)

    _op_upsample_nearest1d = _op_upsample_nearest2d

    def _op_pixel_unshuffle(self, node: fx.Node, args: list[Any]) -> Read:
        return ir.SpaceToDepth(args[1], crd=True), (args[0],)


def _shape(node: Any) -> Sequence[Any]:
    return tuple(node.meta["val"].shape)


def _floating(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.is_floating_point()


def _many(args: list[Any], place: int, rank: int, default: int) -> tuple[int, ...]:
    """Read a list of numbers that may be short, absent or one number."""
    given = args[place] if len(args) > place and args[place] is not None else default
    numbers = [given] if isinstance(given, int) else list(given)
    return tuple(operator.index(n) for n in (numbers * rank if len(numbers) == 1 else numbers))


def _value(node: fx.Node) -> ir.Value:
    value = node.meta.get("val")
    if not isinstance(value, Tensor):
        return ir.Value(node.name, None, None)
    shape: list[Dim] = [n if isinstance(n, int) else str(n) for n in value.shape]
    sizes = [n if isinstance(n, int) else n.node.hint for n in value.shape]
    known = tuple(int(n) for n in sizes) if all(n is not None for n in sizes) else None
    return ir.Value(node.name, tuple(shape), known, str(value.dtype).removeprefix("torch."))


def _scope(node: fx.Node) -> str:
    stack = node.meta.get("nn_module_stack") or {}
    paths = [str(path) for path, _ in stack.values()]
    return paths[-1].removeprefix("L['self'].").removeprefix("L['self']") if paths else ""
