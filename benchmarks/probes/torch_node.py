"""A node as a PyTorch program, for converters that take nothing else: an operator that has no word here is unknown."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn
from torch.nn import functional

from attn_export.export.torch_program import TorchProgram
from benchmarks.probes.probe import Probe

F = functional
#: How many values of a constant may be settings.
SMALL = 64


class NoWordError(Exception):
    """The node is not written in PyTorch here."""


def wanted(converter: str) -> bool:
    """Whether a converter takes PyTorch programs."""
    return converter in ("litert", "executorch")


class Module(nn.Module):
    """The node: computed operands come in by position, constant ones are buffers."""

    def __init__(self, node: onnx.NodeProto, constants: Mapping[str, Tensor], inputs: list[str]) -> None:
        super().__init__()
        self.names, self.inputs, self.fixed = list(node.input), inputs, dict[str, str]()
        # Numbers that shape a call are Python's: a tracer cannot look into a tensor.
        self.plain = [
            constants[n].reshape(-1).tolist() if n in constants and constants[n].numel() <= SMALL else None
            for n in node.input
        ]
        for index, (name, value) in enumerate(constants.items()):
            self.fixed[name] = f"constant{index}"
            self.register_buffer(self.fixed[name], value)
        self.call = CALLS[node.op_type]
        self.given = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
        self.given = {k: v.decode() if isinstance(v, bytes) else v for k, v in self.given.items()}
        self.outputs = len([name for name in node.output if name])

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Compute the node."""
        known = dict(zip(self.inputs, tensors, strict=True))
        operands = [
            None if not name else known[name] if name in known else getattr(self, self.fixed[name])
            for name in self.names
        ]
        found = self.call(Call(operands, self.plain, self.given, self.outputs))
        return found if isinstance(found, tuple) else (found,)


class Call:
    """Operands and attributes of a call, as the functions below read them."""

    def __init__(self, operands: list[Any], plain: list[Any], given: Mapping[str, Any], outputs: int) -> None:
        self.x, self.plain, self.given, self.outputs = operands, plain, given, outputs

    def __getitem__(self, index: int) -> Any:
        return self.x[index] if index < len(self.x) else None

    def get(self, name: str, default: Any = None) -> Any:
        """Give an attribute."""
        return self.given.get(name, default)

    def ints(self, index: int, name: str = "") -> list[int] | None:
        """Give integers that stand in an attribute or a constant operand."""
        if name and name in self.given:
            return list(self.given[name])
        value = self.numbers(index)
        return None if value is None else [int(one) for one in value]

    def numbers(self, index: int) -> list[Any] | None:
        """Give the values of a small constant operand; None where there is none."""
        return self.plain[index] if index < len(self.plain) else None

    def number(self, index: int) -> float | None:
        """Give the one value of a constant operand; None where there is none."""
        values = self.numbers(index)
        return float(values[0]) if values else None


def program(probe: Probe) -> TorchProgram:
    """Write a probe as a program that gives what the reference gives.

    Raises:
        NoWordError: it is not written here, or gives something else.
    """
    nodes = probe.exported.model.graph.node
    if len(nodes) > 1:
        return _gelu(probe)
    (node,) = nodes
    if node.op_type not in CALLS:
        raise NoWordError(f"{node.op_type} is not written in PyTorch here")
    graph = probe.exported.model.graph
    constants = {one.name: torch.from_numpy(numpy_helper.to_array(one).copy()) for one in graph.initializer}
    inputs = [port.name for port in graph.input]
    module = Module(node, constants, inputs).eval()
    example = tuple(torch.from_numpy(np.ascontiguousarray(value)) for value in probe.case.inputs.values())
    try:
        got = module(*example)
    except Exception as error:  # a form that the functions below do not know
        raise NoWordError(f"this form of {node.op_type} is not written in PyTorch here: {error}") from error
    for name, value in zip(probe.case.reference, got, strict=True):
        want = probe.case.reference[name]
        if tuple(value.shape) != want.shape or not np.allclose(value.numpy(), want, rtol=1e-3, atol=1e-4):
            raise NoWordError(f"this form of {node.op_type} is not written in PyTorch here")
    return TorchProgram(module, example, tuple({} for _ in example), ())


def _gelu(probe: Probe) -> TorchProgram:
    class Gelu(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            return (F.gelu(x),)

    example = tuple(torch.from_numpy(np.ascontiguousarray(value)) for value in probe.case.inputs.values())
    return TorchProgram(Gelu().eval(), example, ({},), ())


def _unary(function: Callable[[Tensor], Tensor]) -> Callable[[Call], Any]:
    return lambda c: function(c[0])


def _fold(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Call], Any]:
    def call(c: Call) -> Any:
        whole = c[0]
        for other in c.x[1:]:
            whole = function(whole, other)
        return whole

    return call


def _pairs(pads: list[int]) -> list[int]:
    """Give padding from the last axis on, as PyTorch wants it."""
    half = len(pads) // 2
    return [value for axis in reversed(range(half)) for value in (pads[axis], pads[axis + half])]


def _conv(c: Call) -> Any:
    rank = c[0].dim() - 2
    pads = c.get("pads", [0] * 2 * rank)
    if c.get("auto_pad", "NOTSET") != "NOTSET":
        raise ValueError("automatic padding")
    x = c[0]
    if pads[:rank] != pads[rank:]:
        x, pads = F.pad(x, _pairs(pads)), [0] * 2 * rank
    function = (F.conv1d, F.conv2d, F.conv3d)[rank - 1]
    strides, dilations = c.get("strides", [1] * rank), c.get("dilations", [1] * rank)
    return function(x, c[1], c[2], strides, pads[:rank], dilations, c.get("group", 1))


def _transposed(c: Call) -> Any:
    rank = c[0].dim() - 2
    function = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[rank - 1]
    pads, more = c.get("pads", [0] * 2 * rank), c.get("output_padding", [0] * rank)
    return function(c[0], c[1], c[2], c.get("strides", [1] * rank), pads[:rank], more, c.get("group", 1))


def _pool(kind: str) -> Callable[[Call], Any]:
    def call(c: Call) -> Any:
        rank = c[0].dim() - 2
        pads, x = c.get("pads", [0] * 2 * rank), c[0]
        if pads[:rank] != pads[rank:]:
            raise ValueError("uneven padding")
        size, strides, ceil = c.get("kernel_shape"), c.get("strides", [1] * rank), bool(c.get("ceil_mode", 0))
        if kind == "max":
            function: Any = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[rank - 1]
            return function(x, size, strides, pads[:rank], c.get("dilations", [1] * rank), ceil, c.outputs > 1)
        average = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[rank - 1]
        return average(x, size, strides, pads[:rank], ceil, bool(c.get("count_include_pad", 0)))

    return call


def _reduced(function: Callable[[Tensor, list[int], bool], Tensor]) -> Callable[[Call], Any]:
    def call(c: Call) -> Any:
        axes = c.ints(1, "axes")
        return function(c[0], list(range(c[0].dim())) if axes is None else axes, bool(c.get("keepdims", 1)))

    return call


def _prod(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in sorted((axis % x.dim() for axis in axes), reverse=True):
        x = torch.prod(x, axis, keep)
    return x


def _reshape(c: Call) -> Any:
    shape = c.ints(1)
    assert shape is not None
    return c[0].reshape([c[0].shape[i] if size == 0 else size for i, size in enumerate(shape)])


def _slice(c: Call) -> Any:
    x, starts, ends = c[0], c.ints(1), c.ints(2)
    assert starts is not None
    assert ends is not None
    axes, steps = c.ints(3) or range(len(starts)), c.ints(4) or [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if step < 0:
            if (start, step) != (-1, -1) or end > -x.shape[axis]:
                raise ValueError("backwards in part")
            x = torch.flip(x, [axis])
            continue
        size = x.shape[axis]
        low = max(start + size if start < 0 else min(start, size), 0)
        high = max(end + size if end < 0 else min(end, size), 0)
        x = x[(slice(None),) * (axis % x.dim()) + (slice(low, high, step),)]
    return x


def _split(c: Call) -> Any:
    axis = c.get("axis", 0)
    sizes = c.ints(1, "split") or [c[0].shape[axis] // c.outputs] * c.outputs
    return tuple(torch.split(c[0], sizes, axis))


def _squeeze(c: Call) -> Any:
    axes = c.ints(1, "axes")
    return c[0].squeeze() if axes is None else c[0].squeeze(tuple(axes))


def _unsqueeze(c: Call) -> Any:
    x, axes = c[0], c.ints(1, "axes") or []
    rank = x.dim() + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = x.unsqueeze(axis)
    return x


def _pad(c: Call) -> Any:
    pads, mode = c.ints(1, "pads"), c.get("mode", "constant")
    assert pads is not None
    value = c.number(2) or float(c.get("value", 0.0))
    if c[3] is not None:
        raise ValueError("axes of padding")
    if mode == "constant":
        return F.pad(c[0], _pairs(pads), "constant", value)
    told = _pairs(pads)
    while told[-2:] == [0, 0]:
        told = told[:-2]
    return F.pad(c[0], told, {"reflect": "reflect", "edge": "replicate", "wrap": "circular"}[mode])


def _resize(c: Call) -> Any:
    mode, how = c.get("mode", "nearest"), c.get("coordinate_transformation_mode", "half_pixel")
    scales = c.numbers(2) or None
    size = None if scales else (c.ints(3) or [])[2:]
    if mode == "nearest" and how == "asymmetric":
        return F.interpolate(c[0], size, scales[2:] if scales else None, "nearest")
    word = {"linear": "bilinear", "cubic": "bicubic"}[mode]
    aligned = how == "align_corners"
    if scales and aligned:
        size, scales = [round(side * scale) for side, scale in zip(c[0].shape[2:], scales[2:], strict=True)], None
    return F.interpolate(c[0], size, scales[2:] if scales else None, word, aligned, antialias=bool(c.get("antialias")))


def _gather(c: Call) -> Any:
    axis, index = c.get("axis", 0), c[1]
    if index.dim() == 0:
        place = c.number(1)
        if place is None:
            raise ValueError("a computed index")
        return torch.select(c[0], axis, int(place))
    found = torch.index_select(c[0], axis, index.reshape(-1))
    axis %= c[0].dim()
    return found.reshape(*c[0].shape[:axis], *index.shape, *c[0].shape[axis + 1 :])


def _norm(c: Call) -> Any:
    axis = c.get("axis", -1) % c[0].dim()
    return F.layer_norm(c[0], c[0].shape[axis:], c[1], c[2], c.get("epsilon", 1e-5))


def _rms(c: Call) -> Any:
    axis = c.get("axis", -1) % c[0].dim()
    return F.rms_norm(c[0], c[0].shape[axis:], c[1], c.get("epsilon", 1e-5))


def _gemm(c: Call) -> Any:
    left = c[0].transpose(0, 1) if c.get("transA", 0) else c[0]
    if c.get("transB", 0):
        return F.linear(left, c[1], c[2])
    product = torch.matmul(left, c[1])
    return product if c[2] is None else product + c[2]


def _clip(c: Call) -> Any:
    return torch.clamp(c[0], c.number(1), c.number(2))


def _hard_sigmoid(c: Call) -> Any:
    if abs(c.get("alpha", 0.2) - 1 / 6) < 1e-4:
        return F.hardsigmoid(c[0])
    return torch.clamp(c[0] * c.get("alpha", 0.2) + c.get("beta", 0.5), 0, 1)


def _grid(c: Call) -> Any:
    mode = {"linear": "bilinear", "cubic": "bicubic"}.get(c.get("mode", "linear"), c.get("mode", "linear"))
    return F.grid_sample(c[0], c[1], mode, c.get("padding_mode", "zeros"), bool(c.get("align_corners", 0)))


def _cast(c: Call) -> Any:
    kinds = {1: torch.float32, 6: torch.int32, 7: torch.int64, 9: torch.bool, 10: torch.float16}
    return c[0].to(kinds[c.get("to")])


def _space_to_depth(c: Call) -> Any:
    b, ch, h, w = c[0].shape
    s = c.get("blocksize")
    return c[0].reshape(b, ch, h // s, s, w // s, s).permute(0, 3, 5, 1, 2, 4).reshape(b, -1, h // s, w // s)


def _depth_to_space(c: Call) -> Any:
    s = c.get("blocksize")
    if c.get("mode", "DCR") == "CRD":
        return F.pixel_shuffle(c[0], s)
    b, ch, h, w = c[0].shape
    return c[0].reshape(b, s, s, ch // s**2, h, w).permute(0, 3, 4, 1, 5, 2).reshape(b, ch // s**2, h * s, w * s)


def _argument(function: Callable[..., Tensor]) -> Callable[[Call], Any]:
    return lambda c: function(c[0], c.get("axis", 0), bool(c.get("keepdims", 1)))


def _transpose(c: Call) -> Any:
    return c[0].permute(c.get("perm") or tuple(reversed(range(c[0].dim()))))


CALLS: dict[str, Callable[[Call], Any]] = {
    "Abs": _unary(torch.abs),
    "Add": _fold(torch.add),
    "ArgMax": _argument(torch.argmax),
    "ArgMin": _argument(torch.argmin),
    "Atan": _unary(torch.atan),
    "Attention": lambda c: F.scaled_dot_product_attention(c[0], c[1], c[2]),
    "AveragePool": _pool("average"),
    "BatchNormalization": lambda c: F.batch_norm(c[0], c[3], c[4], c[1], c[2], eps=c.get("epsilon", 1e-5)),
    "Cast": _cast,
    "Ceil": _unary(torch.ceil),
    "Clip": _clip,
    "Concat": lambda c: torch.cat(c.x, c.get("axis")),
    "Conv": _conv,
    "ConvTranspose": _transposed,
    "Cos": _unary(torch.cos),
    "CumSum": lambda c: torch.cumsum(c[0], int(c.plain[1][0])),
    "DepthToSpace": _depth_to_space,
    "Div": _fold(torch.div),
    "Einsum": lambda c: torch.einsum(c.get("equation"), *c.x),
    "Elu": lambda c: F.elu(c[0], c.get("alpha", 1.0)),
    "Equal": lambda c: torch.eq(c[0], c[1]),
    "Erf": _unary(torch.erf),
    "Exp": _unary(torch.exp),
    "Expand": lambda c: c[0].expand(np.broadcast_shapes(c[0].shape, tuple(c.ints(1) or ()))).clone(),
    "Flatten": lambda c: c[0].flatten(c.get("axis", 1)),
    "Floor": _unary(torch.floor),
    "Gather": _gather,
    "GatherElements": lambda c: torch.gather(c[0], c.get("axis", 0), c[1]),
    "Gelu": lambda c: F.gelu(c[0], approximate=c.get("approximate", "none")),
    "Gemm": _gemm,
    "GlobalAveragePool": lambda c: c[0].mean(tuple(range(2, c[0].dim())), keepdim=True),
    "GlobalMaxPool": lambda c: c[0].amax(tuple(range(2, c[0].dim())), keepdim=True),
    "Greater": lambda c: torch.gt(c[0], c[1]),
    "GreaterOrEqual": lambda c: torch.ge(c[0], c[1]),
    "GridSample": _grid,
    "GroupNormalization": lambda c: F.group_norm(c[0], c.get("num_groups"), c[1], c[2], c.get("epsilon", 1e-5)),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _unary(F.hardswish),
    "Identity": _unary(torch.clone),
    "InstanceNormalization": lambda c: F.instance_norm(c[0], weight=c[1], bias=c[2], eps=c.get("epsilon", 1e-5)),
    "LayerNormalization": _norm,
    "LeakyRelu": lambda c: F.leaky_relu(c[0], c.get("alpha", 0.01)),
    "Less": lambda c: torch.lt(c[0], c[1]),
    "LessOrEqual": lambda c: torch.le(c[0], c[1]),
    "Log": _unary(torch.log),
    "LogSoftmax": lambda c: F.log_softmax(c[0], c.get("axis", -1)),
    "LpNormalization": lambda c: F.normalize(c[0], c.get("p", 2), c.get("axis", -1)),
    "MatMul": _fold(torch.matmul),
    "Max": _fold(torch.maximum),
    "MaxPool": _pool("max"),
    "Min": _fold(torch.minimum),
    "Mish": _unary(F.mish),
    "Mul": _fold(torch.mul),
    "Neg": _unary(torch.neg),
    "PRelu": lambda c: F.prelu(c[0], c[1].reshape(-1)),
    "Pad": _pad,
    "Pow": lambda c: torch.pow(c[0], c.plain[1][0] if c.plain[1] and len(c.plain[1]) == 1 else c[1]),
    "RMSNormalization": _rms,
    "Reciprocal": _unary(torch.reciprocal),
    "ReduceL1": _reduced(lambda x, axes, keep: x.abs().sum(axes, keepdim=keep)),
    "ReduceL2": _reduced(lambda x, axes, keep: torch.linalg.vector_norm(x, 2, axes, keep)),
    "ReduceLogSumExp": _reduced(torch.logsumexp),
    "ReduceMax": _reduced(torch.amax),
    "ReduceMean": _reduced(lambda x, axes, keep: x.mean(axes, keepdim=keep)),
    "ReduceMin": _reduced(torch.amin),
    "ReduceProd": _reduced(_prod),
    "ReduceSum": _reduced(lambda x, axes, keep: x.sum(axes, keepdim=keep)),
    "ReduceSumSquare": _reduced(lambda x, axes, keep: (x * x).sum(axes, keepdim=keep)),
    "Relu": _unary(torch.relu),
    "Reshape": _reshape,
    "Resize": _resize,
    "Round": _unary(torch.round),
    "Selu": _unary(F.selu),
    "Sigmoid": _unary(torch.sigmoid),
    "Sign": _unary(torch.sign),
    "Sin": _unary(torch.sin),
    "Slice": _slice,
    "Softmax": lambda c: F.softmax(c[0], c.get("axis", -1)),
    "Softplus": _unary(F.softplus),
    "Softsign": _unary(F.softsign),
    "SpaceToDepth": _space_to_depth,
    "Split": _split,
    "Sqrt": _unary(torch.sqrt),
    "Squeeze": _squeeze,
    "Sub": _fold(torch.sub),
    "Sum": _fold(torch.add),
    "Tan": _unary(torch.tan),
    "Tanh": _unary(torch.tanh),
    "Tile": lambda c: c[0].repeat(c.ints(1)),
    "TopK": lambda c: tuple(torch.topk(c[0], int(c.plain[1][0]), c.get("axis", -1), bool(c.get("largest", 1)))),
    "Transpose": _transpose,
    "Trilu": lambda c: torch.triu(c[0]) if c.get("upper", 1) else torch.tril(c[0]),
    "Unsqueeze": _unsqueeze,
    "Where": lambda c: torch.where(c[0], c[1], c[2]),
}
