"""Single nodes drawn at random, with inputs: what the examples of the standard leave out (attributes together, sizes).

    python -m benchmarks.node_draws [--each 50] [--seed 0] [--only OPERATOR]

Each is evaluated by us and by ONNX Runtime, which implements most operators in most versions; what it refuses is left
out and counted. Exits with 1 if they disagree.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper

from attn_export.errors import ExportError
from attn_export.reparam.evaluate.onnx import OnnxEvaluator
from attn_export.types import Array
from benchmarks.backend_tests import differ

#: Drawn numbers may cancel; another meaning is off by millions of these.
ROUNDINGS = 4096

Random = np.random.Generator


@dataclass(frozen=True)
class Draw:
    """A node to be: inputs (None where one is left out), attributes, an opset, and how many outputs are asked for."""

    operator: str
    inputs: Sequence[Any]
    opset: int
    attributes: Mapping[str, Any] = field(default_factory=dict)
    outputs: int = 1

    def model(self) -> onnx.ModelProto:
        """Build a model of this one node."""
        names = ["" if x is None else f"i{n}" for n, x in enumerate(self.inputs)]
        given = max(n + 1 for n, name in enumerate(names) if name)  # the runtime crashes on one left out at the end
        made = [f"o{n}" for n in range(self.outputs)]
        ports = [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
            for name, x in zip(names, self.inputs, strict=True)
            if x is not None
        ]
        node = helper.make_node(self.operator, names[:given], made, "node", **self.attributes)
        graph = helper.make_graph([node], "g", ports, [onnx.ValueInfoProto(name=name) for name in made])
        version = 10 if self.opset > 18 else 8
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=version)

    def feeds(self) -> dict[str, Array]:
        """Return the inputs by name."""
        return {f"i{n}": np.asarray(x) for n, x in enumerate(self.inputs) if x is not None}


def compare(draw: Draw) -> str | None:
    """How we differ from ONNX Runtime: nothing if we agree, None if that does not take the node."""
    model = draw.model()
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        wanted = session.run(None, draw.feeds())
    except Exception:  # its errors share no base class
        return None
    try:
        came = list(OnnxEvaluator(model).run(draw.feeds()).values())
    except ExportError as error:
        return str(error)
    faults = [differ(mine, theirs, most=ROUNDINGS)[0] for mine, theirs in zip(came, wanted, strict=True)]
    return next((f"output {n}: {fault}" for n, fault in enumerate(faults) if fault), "")


def draws(seed: int, each: int, only: str = "") -> Iterator[Draw]:
    """So many draws of each operator."""
    for name, make in MAKERS.items():
        for number in range(each if only in name else 0):
            random = np.random.default_rng([seed, number, *name.encode()])
            yield make(name, random)


def _single(values: Any) -> Array:
    return np.asarray(values, np.float32)


def _floats(random: Random, *shape: int) -> Array:
    return random.standard_normal(shape).astype(np.float32)


def _whole(random: Random, low: int, high: int, count: int) -> list[int]:
    return [int(n) for n in random.integers(low, high + 1, count)]


def _one(random: Random, *choices: Any) -> Any:
    return choices[int(random.integers(len(choices)))]


def _some(random: Random, attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Each attribute with an even chance."""
    return {name: value for name, value in attributes.items() if random.random() < 0.5}


def _spatial(random: Random, least: int = 5) -> tuple[int, list[int]]:
    rank = _one(random, 1, 2, 2, 3)
    return rank, _whole(random, least, 9, rank)


def _border(random: Random, rank: int, most: int) -> dict[str, Any]:
    """Draw padding by amounts or by rule."""
    if random.random() < 0.6:
        return {"pads": _whole(random, 0, most, 2 * rank)}
    return {"auto_pad": _one(random, "SAME_UPPER", "SAME_LOWER", "VALID", "NOTSET")}


def _conv(name: str, random: Random) -> Draw:
    rank, sizes = _spatial(random, 7)
    group, kernel = _one(random, 1, 1, 2), _whole(random, 1, 3, rank)
    border = _border(random, rank, 2)
    attributes = _some(random, {"strides": _whole(random, 1, 3, rank), "kernel_shape": kernel})
    if border.get("auto_pad", "")[:4] != "SAME":
        attributes |= _some(random, {"dilations": _whole(random, 1, 2, rank)})
    x, w = _floats(random, 2, 4, *sizes), _floats(random, 4, 4 // group, *kernel)
    return Draw(name, [x, w, _one(random, None, _floats(random, 4))], 13, {"group": group, **attributes, **border})


def _conv_transpose(name: str, random: Random) -> Draw:
    rank, sizes = _spatial(random, 3)
    group, kernel, steps = _one(random, 1, 2), _whole(random, 1, 4, rank), _whole(random, 1, 3, rank)
    attributes: dict[str, Any] = {"group": group, "strides": steps}
    how = random.integers(4)
    if how == 0:
        attributes["pads"] = [int(random.integers(0, max(1, kernel[n % rank]))) for n in range(2 * rank)]
        attributes["output_padding"] = [int(random.integers(0, step)) for step in steps]
        attributes["dilations"] = _whole(random, 1, 2, rank)
    elif how == 1:
        attributes["auto_pad"] = _one(random, "SAME_UPPER", "SAME_LOWER", "VALID")
        kernel = [
            max(k, s) for k, s in zip(kernel, steps, strict=True)
        ]  # the runtime's size is not the standard's else
    elif how == 2:
        whole = [s * (n - 1) + k for s, n, k in zip(steps, sizes, kernel, strict=True)]
        attributes["output_shape"] = [n - int(random.integers(0, 3)) for n in whole]
        attributes |= _some(random, {"auto_pad": _one(random, "SAME_UPPER", "SAME_LOWER")})
    x, w = _floats(random, 2, 4, *sizes), _floats(random, 4, 2, *kernel)
    return Draw(name, [x, w, _one(random, None, _floats(random, 2 * group))], 11, attributes)


def _pool(name: str, random: Random) -> Draw:
    rank, sizes = _spatial(random, 6)
    kernel = _whole(random, 2, 3, rank)
    attributes = _some(random, {"strides": _whole(random, 1, 3, rank), "ceil_mode": 1}) | _border(random, rank, 1)
    if attributes.get("auto_pad", "NOTSET") != "NOTSET":
        attributes.pop("ceil_mode", None)
    opset, outputs = _one(random, 11, 13, 22), 1
    if name == "MaxPool":
        outputs = _one(random, 1, 2)
        attributes |= _some(random, {"storage_order": 1} if outputs > 1 else {})
    if name == "AveragePool":
        attributes |= _some(random, {"count_include_pad": 1})
    if name == "LpPool":
        attributes |= _some(random, {"p": _one(random, 1, 2, 3)})
    if "auto_pad" not in attributes and (name == "MaxPool" or opset >= 22):
        attributes |= _some(random, {"dilations": _whole(random, 1, 2, rank)})
    return Draw(name, [_floats(random, 2, 3, *sizes)], opset, {"kernel_shape": kernel, **attributes}, outputs)


def _global(name: str, random: Random) -> Draw:
    return Draw(name, [_floats(random, 2, 3, *_spatial(random)[1])], 13, {"p": 3} if "Lp" in name else {})


def _along(name: str, random: Random) -> Draw:
    """Softmaxes, in both of their meanings, with rows that hold −∞."""
    shape = _whole(random, 1, 5, int(random.integers(1, 5)))
    x = np.where(random.random(shape) < 0.2, -np.inf, _floats(random, *shape)).astype(np.float32)
    axis = int(random.integers(-len(shape), len(shape)))
    return Draw(name, [x], _one(random, 9, 11, 12, 13, 17), _some(random, {"axis": axis if axis > 0 else 0}))


def _recurrent(name: str, random: Random) -> Draw:
    gates, time, batch, count, hidden = {"RNN": 1, "GRU": 3, "LSTM": 4}[name], 4, 3, 2, 3
    way = _one(random, "forward", "reverse", "bidirectional")
    ways = 2 if way == "bidirectional" else 1
    usual = {"RNN": 1, "GRU": 2, "LSTM": 3}[name]
    names = [
        "Tanh",
        "Sigmoid",
        "Relu",
        "HardSigmoid",
        "LeakyRelu",
        "Softsign",
        "Softplus",
        "Elu",
        "ScaledTanh",
        "Affine",
    ]
    attributes = _some(random, {"clip": 0.4})
    if random.random() < 0.4:
        gate, inner = names[:2] if usual > 1 else names, names
        chosen = [_one(random, *(inner if place % usual else gate)) for place in range(usual * ways)]
        attributes["activations"] = chosen  # gates that have no bound would let the cells grow beyond float32
        known: dict[str, tuple[float, float | None]] = {
            "HardSigmoid": (0.3, 0.4),
            "ScaledTanh": (0.7, 0.9),
            "Affine": (0.6, 0.1),
        }
        known |= {"LeakyRelu": (0.2, None), "Elu": (0.8, None)}
        numbers = [known[n] for n in attributes["activations"] if n in known]
        attributes |= {"activation_alpha": [a for a, _ in numbers]} if numbers else {}
        betas = [b for _, b in numbers if b is not None]
        attributes |= {"activation_beta": betas} if betas else {}
    if name == "GRU":
        attributes |= _some(random, {"linear_before_reset": 1})
    state = [_one(random, None, _floats(random, ways, batch, hidden)) for _ in range(2 if name == "LSTM" else 1)]
    peep = [_one(random, None, _floats(random, ways, 3 * hidden))] if name == "LSTM" else []
    lengths = _one(random, None, random.integers(1, time + 1, batch).astype(np.int32))
    weights = [_floats(random, ways, gates * hidden, n) for n in (count, hidden)]
    bias = _one(random, None, _floats(random, ways, 2 * gates * hidden))
    inputs = [_floats(random, time, batch, count), *weights, bias, lengths, *state, *peep]
    return Draw(name, inputs, _one(random, 7, 14, 22), {"hidden_size": hidden, "direction": way, **attributes}, usual)


def _resize(name: str, random: Random) -> Draw:
    opset, mode = _one(random, 10, 11, 13, 18, 19), _one(random, "nearest", "linear", "cubic")
    sizes = _whole(random, 2, 9, 2)
    scales = [_one(random, 0.5, 0.6, 0.7, 1.0, 1.3, 1.5, 2.0, 2.7, 3.0) for _ in sizes]
    if [int(n * s) for n, s in zip(sizes, scales, strict=True)] == sizes:
        scales[0] = 2.0  # the runtime copies what keeps its lengths, whatever the scales
    x = _floats(random, 1, 2, *sizes)
    if opset == 10:
        way = "nearest" if mode == "cubic" else mode
        return Draw(name, [x, _single([1, 1, *scales])], opset, {"mode": way})
    attributes: dict[str, Any] = {"mode": mode}
    way = _one(random, "half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners", "tf_crop_and_resize")
    attributes["coordinate_transformation_mode"] = way
    if mode == "nearest":
        attributes["nearest_mode"] = _one(random, "floor", "ceil", "round_prefer_floor", "round_prefer_ceil")
    if mode == "cubic":
        attributes |= _some(random, {"cubic_coeff_a": -0.5, "exclude_outside": 1})
    region = _single([0, 0, *random.uniform(0, 0.3, 2), 1, 1, *random.uniform(0.6, 1.2, 2)])
    lengths = [max(1, int(n * s)) for n, s in zip(sizes, scales, strict=True)]
    if way == "tf_crop_and_resize":  # the runtime forgets the region of an axis that keeps its length
        lengths = [m + 1 if m == n else m for n, m in zip(sizes, lengths, strict=True)]
    if way in ("align_corners", "tf_crop_and_resize") or random.random() < 0.5:
        # With scales that do not fit, the standard's width is no whole number here and the runtime's is.
        return Draw(name, [x, region, None, np.array([1, 2, *lengths])], opset, attributes)
    return Draw(name, [x, region, _single([1, 1, *scales])], opset, attributes)


def _upsample(name: str, random: Random) -> Draw:
    scales = [1.0, 1.0, *(_one(random, 1.0, 1.5, 2.0, 2.7, 3.0) for _ in range(2))]  # no less: it may keep the length
    x, mode = _floats(random, 1, 2, *_whole(random, 2, 6, 2)), {"mode": _one(random, "nearest", "linear")}
    if random.random() < 0.3:
        return Draw(name, [x], 7, {"scales": scales, **mode})
    return Draw(name, [x, _single(scales)], 9, mode)


def _reduce(name: str, random: Random) -> Draw:
    shape = _whole(random, 1, 4, int(random.integers(1, 5)))
    axes = [int(n) for n in random.permutation(len(shape))[: int(random.integers(1, len(shape) + 1))]]
    axes = [axis - len(shape) if random.random() < 0.3 else axis for axis in axes]
    x = np.abs(_floats(random, *shape)) + 0.1 if "Log" in name else _floats(random, *shape)
    opset = _one(random, 11, 13, 18)
    as_input = opset >= (13 if name == "ReduceSum" else 18)
    inputs = [x, *([np.array(axes)] if as_input and random.random() < 0.8 else [])]
    attributes = {} if as_input else _some(random, {"axes": axes})
    attributes |= _some(random, {"noop_with_empty_axes": 1} if as_input else {})
    return Draw(name, inputs, opset, {**attributes, **_some(random, {"keepdims": 0})})


def _arg(name: str, random: Random) -> Draw:
    shape = _whole(random, 1, 4, 3)
    x = random.integers(0, 3, shape).astype(np.float32)
    attributes = {"axis": int(random.integers(-3, 3)), "keepdims": 0, "select_last_index": 1}
    return Draw(name, [x], _one(random, 12, 13), _some(random, attributes))


def _elementwise(name: str, random: Random) -> Draw:
    near = name in ("Gelu", "Sigmoid")  # far out they are nearly 0, which the runtime computes to 1e-7 absolutely
    x = _floats(random, *_whole(random, 1, 4, int(random.integers(0, 4)))) * (0.5 if near else 3)
    positive = {
        "Log": (1e-3, 9),
        "Sqrt": (0, 9),
        "Acosh": (1, 9),
        "Atanh": (-0.99, 0.99),
        "Asin": (-1, 1),
        "Acos": (-1, 1),
    }
    if name in positive:
        x = random.uniform(*positive[name], x.shape).astype(np.float32)
    known: dict[str, dict[str, float]] = {
        "Celu": {"alpha": 0.7}, "Elu": {"alpha": 0.7}, "HardSigmoid": {"alpha": 0.3, "beta": 0.4},
        "LeakyRelu": {"alpha": 0.3}, "Selu": {"alpha": 1.1, "gamma": 0.9}, "Shrink": {"lambd": 0.7, "bias": 0.2},
        "ThresholdedRelu": {"alpha": 0.6},
    }  # fmt: skip
    attributes: dict[str, Any] = dict(known.get(name, {}))
    if name == "Gelu":
        attributes["approximate"] = _one(random, "none", "tanh")
    return Draw(name, [x], 20, _some(random, attributes))


def _pair(name: str, random: Random) -> Draw:
    shape = _whole(random, 1, 4, int(random.integers(0, 4)))
    other = [1 if random.random() < 0.4 else n for n in shape][int(random.integers(0, len(shape) + 1)) :]
    a: Any
    b: Any
    if name in ("And", "Or", "Xor"):
        a, b = random.random(shape) < 0.5, random.random(other) < 0.5
    elif name in ("Div", "Mod") and random.random() < 0.6:
        kind = _one(random, np.int32, np.int64, np.uint8, np.int8)
        low = 0 if kind == np.uint8 else -20
        a, b = random.integers(low, 20, shape).astype(kind), random.integers(1, 7, other).astype(kind)
        b = np.asarray(np.where(random.random(other) < (0.4 if low else 0), -b, b)).astype(kind)
    elif name in ("Add", "Sub", "Mul", "Max", "Min", "Equal", "Greater", "Less") and random.random() < 0.4:
        kind = _one(random, np.int32, np.int64)
        limit = np.iinfo(kind).max
        a, b = (random.integers(-limit, limit, s).astype(kind) for s in (shape, other))
    else:
        a, b = _floats(random, *shape), _floats(random, *other)
        a = np.abs(a) if name == "Pow" else a
    attributes = {"fmod": 1} if name == "Mod" and (a.dtype == np.float32 or random.random() < 0.5) else {}
    return Draw(name, [np.asarray(a), np.asarray(b)], _one(random, 13, 17), attributes)


def _gather(name: str, random: Random) -> Draw:
    x, axis = _floats(random, *_whole(random, 2, 5, 3)), int(random.integers(-3, 3))
    size = x.shape[axis]
    if name == "Gather":
        return Draw(name, [x, random.integers(-size, size, _one(random, (), (2,), (2, 3)))], 13, {"axis": axis})
    shape = [int(random.integers(1, n + 1)) for n in x.shape]
    shape[axis] = int(random.integers(1, 5))
    if name == "GatherElements":
        return Draw(name, [x, random.integers(-size, size, shape)], 13, {"axis": axis})
    shape[axis] = int(random.integers(1, size + 1))
    places = np.argsort(random.random([*shape[: axis % 3], size, *shape[axis % 3 + 1 :]]), axis=axis)
    places = places.take(range(shape[axis]), axis)
    places = np.where(random.random(shape) < 0.3, places - size, places)
    if name == "Scatter":
        return Draw(name, [x, places, _floats(random, *shape)], 9, {"axis": axis % 3})
    how = _one(random, "none", "add", "mul", "max", "min")
    attributes = {"axis": axis, **({"reduction": how} if how != "none" else {})}
    return Draw(name, [x, places, _floats(random, *shape)], 18, attributes)


def _gather_nd(name: str, random: Random) -> Draw:
    x, depth = _floats(random, *_whole(random, 2, 4, 3)), int(random.integers(1, 4))
    rows = np.stack([random.integers(-n, n, 4) for n in x.shape[:depth]], -1)
    if name == "GatherND":
        return Draw(name, [x, rows], 13)
    how = _one(random, "none", "add", "mul", "max", "min")
    if how == "none":
        rows = np.unique(np.mod(rows, x.shape[:depth]), axis=0)
    attributes = {"reduction": how} if how != "none" else {}
    return Draw(name, [x, rows, _floats(random, len(rows), *x.shape[depth:])], 18, attributes)


def _top(name: str, random: Random) -> Draw:
    x = _one(random, _floats(random, 3, 4, 5), random.integers(0, 4, (3, 4, 5)).astype(np.float32))
    axis = int(random.integers(-3, 3))
    count = np.array([int(random.integers(0, x.shape[axis] + 1))])
    return Draw(name, [x, count], 11, {"axis": axis, **_some(random, {"largest": 0})}, 2)


def _slice(name: str, random: Random) -> Draw:
    x = _floats(random, *_whole(random, 2, 6, 3))
    axes = random.permutation(3)[: int(random.integers(1, 4))]
    starts, ends = random.integers(-8, 9, len(axes)), random.integers(-8, 9, len(axes))
    steps = np.array([_one(random, 1, 2, -1, -2) for _ in axes])
    return Draw(name, [x, starts, ends, np.array([_one(random, a, a - 3) for a in axes]), steps], _one(random, 10, 13))


def _pad(name: str, random: Random) -> Draw:
    x, mode = _floats(random, 2, *_whole(random, 3, 5, 2)), _one(random, "constant", "reflect", "edge")
    low = -1 if mode == "constant" else 0
    inputs = [x, np.array(_whole(random, low, 2, 6) if mode == "constant" else [0, *_whole(random, 0, 2, 2)] * 2)]
    if mode == "constant" and random.random() < 0.5:
        inputs.append(_single(1.5))
    return Draw(name, inputs, _one(random, 11, 13, 18), {"mode": mode})


def _norm(name: str, random: Random) -> Draw:
    x = _floats(random, 2, 4, *_whole(random, 2, 4, int(random.integers(1, 4)))) + 1
    weights = [np.abs(_floats(random, 4)) + 0.5 for _ in range(4)]
    epsilon = _some(random, {"epsilon": 1e-2})
    if name == "BatchNormalization":
        return Draw(name, [x, *weights], _one(random, 9, 14, 15), epsilon)
    if name == "InstanceNormalization":
        return Draw(name, [x, *weights[:2]], 6 + 16 * int(random.integers(0, 2)), epsilon)
    if name == "GroupNormalization":
        opset = _one(random, 18, 21)
        scales = [w[: 2 if opset == 18 else 4] for w in weights[:2]]
        return Draw(name, [x, *scales], opset, {"num_groups": 2, **epsilon})
    if name == "MeanVarianceNormalization":
        return Draw(name, [_floats(random, 2, 3, 4, 5)], 13, _some(random, {"axes": [0, 2, 3]}))
    if name == "LRN":
        return Draw(name, [x], 13, {"size": _one(random, 1, 3, 2), "alpha": 0.3, "beta": 0.6, "bias": 1.2})
    if name == "LpNormalization":
        return Draw(name, [x], 13, _some(random, {"axis": int(random.integers(0, x.ndim)), "p": 1}))
    axis = int(random.integers(-x.ndim, x.ndim))
    shape = x.shape[axis % x.ndim :]
    wide = [_floats(random, *shape), _one(random, None, _floats(random, *shape))]
    count = _one(random, 1, 3) if name == "LayerNormalization" else 1
    if name == "RMSNormalization":
        return Draw(name, [x, wide[0]], 23, {"axis": axis, **epsilon})
    return Draw(name, [x, *wide], 17, {"axis": axis, **epsilon}, count)


def _product(name: str, random: Random) -> Draw:
    if name == "Gemm":
        a, b = _floats(random, 3, 4), _floats(random, 4, 5)
        flags = _some(random, {"transA": 1, "transB": 1, "alpha": 0.5, "beta": 0.7})
        c = _one(random, None, *(_floats(random, *shape) for shape in ((5,), (3, 1), (1,), (3, 5), ())))
        return Draw(name, [a.T if "transA" in flags else a, b.T if "transB" in flags else b, c], 13, flags)
    if name == "Einsum":
        equation = _one(
            random, "ij,jk->ik", "ij,jk", "bij,bjk->bik", "ij->j", "ii->i", "ij,kj->ik", "...ij,...jk->...ik"
        )
        terms = equation.replace("...", "b").split("->")[0].split(",")
        return Draw(name, [_floats(random, *[3] * len(term)) for term in terms],
                    12, {"equation": equation})  # fmt: skip
    left, right = _one(
        random, ((4,), (4, 5)), ((3, 4), (4,)), ((2, 3, 4), (4, 5)), ((2, 1, 3, 4), (3, 4, 2)), ((4,), (4,))
    )
    if name == "MatMul" and random.random() < 0.3:
        return Draw(name, [random.integers(-9, 9, s).astype(np.int32) for s in (left, right)], 13)
    return Draw(name, [_floats(random, *left), _floats(random, *right)], 13)


def _bytes(random: Random, *shape: int) -> Array:
    kind = _one(random, np.uint8, np.int8)
    return np.asarray(random.integers(np.iinfo(kind).min, np.iinfo(kind).max, shape).astype(kind))


def _zero(random: Random, like: Array, *shape: int) -> Array:
    return np.asarray(random.integers(0, 20, shape).astype(like.dtype))


def _quantised(name: str, random: Random) -> Draw:
    if name == "DynamicQuantizeLinear":
        return Draw(name, [_floats(random, 3, 4) * 3], 11, {}, 3)
    if "MatMul" in name:
        a, b = _bytes(random, 3, 4), _bytes(random, 4, 5)
        zeros = [_zero(random, a), _zero(random, b, *_one(random, (), (5,)))]
        if name == "MatMulInteger":
            return Draw(name, [a, b, *zeros], 10)
        y = _zero(random, a)
        scales = [np.float32(random.uniform(0.01, 0.1)), random.uniform(0.01, 0.1, zeros[1].shape).astype(np.float32)]
        return Draw(name, [a, scales[0], zeros[0], b, scales[1], zeros[1], np.float32(0.7), y], 10)
    x, group = random.integers(0, 255, (1, 4, 6, 5)).astype(np.uint8), _one(random, 1, 2)
    w = _bytes(random, 4, 4 // group, 3, 2)
    # Without VNNI, ONNX Runtime adds two products of an unsigned and a signed byte in 16 bits, which saturate; with
    # weights of seven bits they cannot (255 · 64 · 2 < 32767), so that the draw asks the same of every processor.
    w = w // 2 if w.dtype == np.int8 else w
    attributes = {"group": group, **_some(random, {"strides": [2, 1], "pads": [1, 0, 1, 1], "dilations": [1, 2]})}
    if name == "ConvInteger":
        return Draw(name, [x, w, _zero(random, x), _zero(random, w)], 10, attributes)
    each = _one(random, (), (4,))
    scale_w, zero_w = random.uniform(0.01, 0.1, each).astype(np.float32), np.zeros(each, w.dtype)
    bias = _one(random, None, random.integers(-500, 500, 4).astype(np.int32))
    inputs = [x, np.float32(0.02), _zero(random, x), w, scale_w, zero_w, np.float32(0.9), _zero(random, x), bias]
    return Draw(name, [None if value is None else np.asarray(value) for value in inputs], 10, attributes)


def _shape_of(name: str, random: Random) -> Draw:
    """Operators that move numbers about."""
    shape = _whole(random, 1, 4, 3)
    x = _floats(random, *shape)
    axis = int(random.integers(-3, 3))
    made: dict[str, Callable[[], Draw]] = {
        "Concat": lambda: Draw(name, [x, x, x], 13, {"axis": axis}),
        "CumSum": lambda: Draw(name, [x, np.array(axis)], 14, _some(random, {"exclusive": 1, "reverse": 1})),
        "DepthToSpace": lambda: Draw(name, [_floats(random, 1, 8, 2, 3)], 13,
                                     {"blocksize": 2, **_some(random, {"mode": "CRD"})}),
        "Expand": lambda: Draw(name, [_floats(random, 1, shape[1], 1), np.array([2, *shape])], 13),
        "Flatten": lambda: Draw(name, [x], 13, {"axis": int(random.integers(-3, 4))}),
        "NonZero": lambda: Draw(name, [random.integers(0, 2, shape).astype(np.float32)], 13),
        "OneHot": lambda: Draw(name, [random.integers(-4, 4, (2, 3)), np.array([4]), _single([-1, 2])], 11,
                               {"axis": axis}),
        "Range": lambda: Draw(name, [*_one(random, np.array([9, 1, -3]), np.array([0, 7, 0.7], np.float32),
                                           np.array([0, 1, 0.1], np.float32))], 11),
        "Reshape": lambda: Draw(name, [x, np.array([0, -1])], 14),
        "ReverseSequence": lambda: Draw(name, [_floats(random, 4, 3, 2), np.array([1, 4, 2])], 10),
        "SpaceToDepth": lambda: Draw(name, [_floats(random, 1, 2, 4, 6)], 13, {"blocksize": 2}),
        "Split": lambda: Draw(name, [_floats(random, 2, 7)], 18, {"axis": _one(random, 1, -1), "num_outputs": 3}, 3),
        "Squeeze": lambda: Draw(name, [_floats(random, 1, 3, 1), np.array([_one(random, 0, -1)])], 13),
        "Tile": lambda: Draw(name, [x, np.array(_whole(random, 1, 3, 3))], 13),
        "Transpose": lambda: Draw(name, [x], 13, _some(random, {"perm": [int(n) for n in random.permutation(3)]})),
        "Trilu": lambda: Draw(name, [_floats(random, 2, 4, 5), np.array(int(random.integers(-3, 4)))], 14,
                              _some(random, {"upper": 0})),
        "Unique": lambda: Draw(name, [random.integers(0, 5, 9).astype(np.float32)], 11,
                               _some(random, {"sorted": 0}), 4),
        "Unsqueeze": lambda: Draw(name, [x, np.array([0, _one(random, 2, -1)])], 13),
        "Where": lambda: Draw(name, [random.random(shape) < 0.5, x, _floats(random, shape[2])], 16),
    }  # fmt: skip
    return made[name]()


def _more(name: str, random: Random) -> Draw:
    """Draw what is left."""
    shape = _whole(random, 1, 4, int(random.integers(1, 5)))
    x = _floats(random, *shape)
    axis, kind = int(random.integers(-len(shape), len(shape))), _one(random, np.uint8, np.uint32, np.uint64)
    low, high = (_one(random, None, _single(v)) for v in (-0.4, 0.6))
    bits = [random.integers(0, most, shape).astype(kind) for most in (99, 5)]
    ends = np.where(np.abs(x) > 0.5, np.copysign(np.inf, x), x).astype(np.float32)
    made: dict[str, Callable[[], Draw]] = {
        "BitShift": lambda: Draw(name, bits, 11, {"direction": _one(random, "LEFT", "RIGHT")}),
        "Clip": lambda: Draw(name, [x, low, high], 13),
        "Col2Im": lambda: Draw(name, [_floats(random, 1, 8, 12), np.array([4, 5]), np.array([2, 2])], 18),
        "Compress": lambda: Draw(name, [x, random.random(x.shape[axis]) < 0.6], 11, {"axis": axis}),
        "ConstantOfShape": lambda: Draw(name, [np.array(shape)], 9),
        "Det": lambda: Draw(name, [_floats(random, *shape, 3, 3)], 11),
        "EyeLike": lambda: Draw(name, [_floats(random, 4, 5)], 9, _some(random, {"k": axis, "dtype": 7})),
        "Identity": lambda: Draw(name, [x], 16),
        "IsInf": lambda: Draw(name, [ends], 10, _some(random, {"detect_positive": 0})),
        "IsNaN": lambda: Draw(name, [np.where(x > 0, np.nan, x).astype(np.float32)], 13),
        "Mean": lambda: Draw(name, [x, x[:1], x[..., :1]], 13),
        "Not": lambda: Draw(name, [x > 0], 1),
        "Shape": lambda: Draw(name, [x], 15, _some(random, {"start": axis, "end": -1})),
        "Size": lambda: Draw(name, [x], 13),
        "Sum": lambda: Draw(name, [x, x[:1], x[..., :1]], 13),
    }  # fmt: skip
    return made[name]()


def _attention(name: str, random: Random) -> Draw:
    if name == "RotaryEmbedding":
        angles = random.uniform(0, 6, (2, 5, 2))
        cached = [np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)]
        return Draw(name, [_floats(random, 2, 3, 5, 4), *cached], 23, _some(random, {"interleaved": 1}))
    heads, few = 4, _one(random, 4, 2)
    q, k, v = (_floats(random, 2, n, length, 8) for n, length in ((heads, 5), (few, 6), (few, 6)))
    masks = (None, _floats(random, 5, 6), random.random((5, 6)) < 0.8, _floats(random, 2, 1, 5, 6))
    return Draw(
        name, [q, k, v, _one(random, *masks)], 23, _some(random, {"is_causal": 1, "scale": 0.2, "softcap": 2.0})
    )


def _sample(name: str, random: Random) -> Draw:
    if name == "GridSample":
        x, grid = _floats(random, 2, 3, 5, 6), random.uniform(-1.3, 1.3, (2, 4, 3, 2)).astype(np.float32)
        way, padding = _one(random, "bilinear", "nearest", "bicubic"), _one(random, "zeros", "border", "reflection")
        named = {"mode": way, "padding_mode": padding, "align_corners": _one(random, 0, 1)}
        return Draw(name, [x, grid], 16, named)
    if name == "AffineGrid":
        return Draw(name, [_floats(random, 2, 2, 3), np.array([2, 3, 4, 5])], 20, _some(random, {"align_corners": 1}))
    if name == "RoiAlign":
        corner = random.uniform(0, 4, (3, 2))
        boxes = np.concatenate([corner, corner + random.uniform(1, 4, (3, 2))], 1).astype(np.float32)
        attributes = {"output_height": 2, "output_width": 3, "sampling_ratio": _one(random, 0, 2), "spatial_scale": 0.9}
        return Draw(name, [_floats(random, 2, 3, 8, 8), boxes, np.array([0, 1, 1])], _one(random, 10, 16), attributes)
    if name == "NonMaxSuppression":
        corner = random.uniform(0, 4, (2, 9, 2))
        boxes = np.concatenate([corner, corner + random.uniform(1, 4, (2, 9, 2))], 2).astype(np.float32)
        limits = [np.array([int(random.integers(1, 5))]), _single([0.3]), _single([random.uniform(-1, 1)])]
        return Draw(name, [boxes, _floats(random, 2, 3, 9), *limits], 11, _some(random, {"center_point_box": 1}))
    kernel = {"kernel_shape": [2, 2], "strides": [2, 2]}
    flat = np.arange(2 * 16).reshape(1, 2, 4, 4)[:, :, ::2, ::2] + random.integers(0, 2, (1, 2, 2, 2))
    return Draw(name, [_floats(random, 1, 2, 2, 2), flat], 11, kernel)


_GROUPS: tuple[tuple[Callable[[str, Random], Draw], str], ...] = (
    (_conv, "Conv"),
    (_conv_transpose, "ConvTranspose"),
    (_pool, "MaxPool AveragePool LpPool"),
    (_global, "GlobalAveragePool GlobalLpPool GlobalMaxPool"),
    (_along, "Softmax LogSoftmax Hardmax"),
    (_recurrent, "RNN GRU LSTM"),
    (_resize, "Resize"),
    (_upsample, "Upsample"),
    (_reduce, "ReduceSum ReduceMean ReduceMax ReduceMin ReduceProd ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp "
              "ReduceSumSquare"),
    (_arg, "ArgMax ArgMin"),
    (_elementwise, "Abs Acos Acosh Asin Asinh Atan Atanh Ceil Celu Cos Cosh Elu Erf Exp Floor Gelu HardSigmoid "
                   "HardSwish LeakyRelu Log Mish Neg Reciprocal Relu Round Selu Shrink Sigmoid Sign Sin Sinh Softplus "
                   "Softsign Sqrt Tan Tanh ThresholdedRelu"),
    (_pair, "Add Sub Mul Div Mod Pow Max Min Equal Greater Less GreaterOrEqual LessOrEqual PRelu And Or Xor"),
    (_gather, "Gather GatherElements Scatter ScatterElements"),
    (_gather_nd, "GatherND ScatterND"),
    (_top, "TopK"),
    (_slice, "Slice"),
    (_pad, "Pad"),
    (_norm, "BatchNormalization InstanceNormalization GroupNormalization MeanVarianceNormalization LayerNormalization "
            "RMSNormalization LRN LpNormalization"),
    (_product, "MatMul Gemm Einsum"),
    (_quantised, "DynamicQuantizeLinear MatMulInteger QLinearMatMul ConvInteger QLinearConv"),
    (_shape_of, "Concat CumSum DepthToSpace Expand Flatten NonZero OneHot Range Reshape ReverseSequence SpaceToDepth "
                "Split Squeeze Tile Transpose Trilu Unique Unsqueeze Where"),
    (_more, "BitShift Clip Col2Im Compress ConstantOfShape Det EyeLike Identity IsInf IsNaN Mean Not Shape Size Sum"),
    (_attention, "Attention RotaryEmbedding"),
    (_sample, "GridSample AffineGrid RoiAlign NonMaxSuppression MaxUnpool"),
)  # fmt: skip
MAKERS: Mapping[str, Callable[[str, Random], Draw]] = {name: make for make, names in _GROUPS for name in names.split()}


def main() -> int:
    """Print what differs, and the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--each", type=int, default=50, help="draws of each operator")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="operators whose name holds this")
    options = parser.parse_args()
    onnxruntime.set_default_logger_severity(4)
    counts, left = Counter[str](), Counter[str]()
    for draw in draws(options.seed, options.each, options.only):
        fault = compare(draw)
        counts["left out" if fault is None else "differ" if fault else "agree"] += 1
        left[draw.operator] += fault is None
        if fault:
            shapes = [None if x is None else (x.dtype.name, x.shape) for x in draw.inputs]
            print(f"{draw.operator} of opset {draw.opset}: {fault}; {dict(draw.attributes)}; {shapes}")
    print(f"{sum(counts.values())} nodes of {len(MAKERS)} operators: ", end="")
    print(", ".join(f"{counts[kind]} {kind}" for kind in ("agree", "differ", "left out")))
    print("left out, for ONNX Runtime does not take them:", dict(+left))
    return 1 if counts["differ"] or not counts["agree"] else 0


if __name__ == "__main__":
    sys.exit(main())
