"""Account for every constant of a graph, bit by bit: the faults that are too small for any tolerance on outputs.

An initializer is accounted for when it equals a tensor of the module bit for bit, up to transposition and reshaping,
or is such a tensor with a batch norm folded into it,

    w' = s·w    b' = s·(b − μ) + β    s = γ/√(σ² + ε)

to a few units in the last place. One that is not, while a module tensor of its size is nowhere in the graph, is a
mismatch. One that is not while all tensors of its size are there was computed by the exporter, and is only listed; so
is one that the simplifier made, which has a name that no earlier stage knows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import permutations

import numpy as np
import onnx
from torch import nn

from attn_export.export.arrays import array
from attn_export.export.audit import alike, norms
from attn_export.export.audit.attributes import audit_attributes
from attn_export.export.audit.defaults import floats, held
from attn_export.export.audit.findings import Audit, AuditFinding
from attn_export.export.graph.index import GraphIndex
from attn_export.export.parts import parts
from attn_export.types import Array

#: A folded tensor may differ by this many units in the last place of the terms it is made of.
ULPS = 4
#: Elements that are compared before it is asked whether that is enough.
_BLOCK = 1 << 14


@dataclass(frozen=True)
class Known:
    """What constants may be.

    Attributes:
        tensors: by name.
        norms: scale and shift of every batch norm, in float64.
        names: the names that constants had at an earlier stage; None where there was none.
    """

    tensors: Mapping[str, Array]
    norms: Mapping[str, tuple[Array, Array]] = field(default_factory=dict)
    names: frozenset[str] | None = None
    _keys: dict[str, alike.Key] = field(default_factory=dict, repr=False, compare=False)

    def also(self, model: onnx.ModelProto) -> Known:
        """With the constants of an earlier stage of the same model, which was audited itself."""
        index = GraphIndex(model)
        return Known({**floats(index), **self.tensors}, self.norms, held(index), dict(self._keys))

    def key(self, name: str) -> alike.Key:
        """Give the key of a tensor, which is made once."""
        if name not in self._keys:
            self._keys[name] = alike.key(self.tensors[name])
        return self._keys[name]


def known(module: nn.Module) -> Known:
    """Collect the tensors of the exported module: parameters and buffers, those outside its state dict included."""
    every = parts(module)
    named = [
        (f"{owner}.{name}" if owner else name, value)
        for owner, part in every.items()
        for name, value in (*part.named_parameters(recurse=False), *part.named_buffers(recurse=False))
    ]
    tensors = {name: array(value.detach().cpu()) for name, value in named if value.is_floating_point()}
    return Known(tensors, norms.of(every))


def audit_initializers(model: onnx.ModelProto, wanted: Known) -> Audit:
    """Account for every floating-point constant of more than one element that some node reads."""
    index = GraphIndex(model)
    values = {name: value for name, value in floats(index).items() if value.size > 1}
    by_size: dict[int, list[tuple[str, Array]]] = {}
    for name, value in wanted.tensors.items():
        by_size.setdefault(value.size, []).append((name, value))
    left, found = [], set[str]()
    for name in values:
        own = wanted.tensors.get(name)  # a constant that kept its name must be that very tensor
        same = by_size.get(values[name].size, []) if own is None or own.size != values[name].size else [(name, own)]
        transposed = any(node.op_type == "ConvTranspose" for node in index.readers[name])
        if sources := _sources(values[name], same, wanted, transposed):
            found |= sources
        else:
            left.append(name)
    findings, unaccounted = [], []
    for name in left:
        missing = [(key, v) for key, v in by_size.get(values[name].size, []) if key not in found]
        if not missing or (wanted.names is not None and name not in wanted.names):
            unaccounted.append(name)
            continue
        near, count = _nearest(values[name], missing)
        detail = f"{count} of {values[name].size} values differ from {near}, which is nowhere in the graph"
        findings.append(AuditFinding("initializer", name, detail))
    return Audit(len(values), tuple(findings), tuple(unaccounted))


@dataclass(frozen=True)
class Auditor:
    """Both audits of a stage against the one before it.

    Attributes:
        wanted: what its constants may be.
        reference: the stage before.
        before: what was found earlier, and stays found.
    """

    wanted: Known
    reference: onnx.ModelProto
    before: Mapping[str, Audit] = field(default_factory=dict)

    def audits(self, model: onnx.ModelProto) -> dict[str, Audit]:
        """Every audit by what it looks at."""
        return {
            **self.before,
            "constants": audit_initializers(model, self.wanted),
            "attributes": audit_attributes(model, self.reference),
        }

    def __call__(self, model: onnx.ModelProto) -> str:
        """Name the first finding, or give an empty string."""
        return first_of(self.audits(model))


def first_of(audits: Mapping[str, Audit]) -> str:
    """Name the first finding, or give an empty string."""
    found = (finding for audit in audits.values() for finding in audit.findings)
    return next((f"{finding.check} audit: {finding.where}: {finding.detail}" for finding in found), "")


def auditor(wanted: Known, reference: onnx.ModelProto) -> Auditor:
    """Prepare the audits of what was made of ``reference``.

    Args:
        wanted: constants of the module that was exported.
        reference: its export before simplification.
    """
    return Auditor(wanted.also(reference), reference)


def _sources(value: Array, same: list[tuple[str, Array]], wanted: Known, transposed: bool) -> set[str]:
    """Names of those of the tensors of its size that ``value`` is, or is made of; empty where there is none."""
    if len(same) == 1 and np.array_equal(same[0][1].ravel(), value.ravel()):
        return {same[0][0]}
    own = alike.key(value)
    near = [(name, tensor) for name, tensor in same if wanted.key(name) == own]
    if exact := {name for name, tensor in near if np.array_equal(tensor.ravel(), value.ravel())}:
        return exact
    if turned := {name for name, tensor in near if any(np.array_equal(t, value.ravel()) for t in _turns(tensor))}:
        return turned
    if turned := {n for n, tensor in near for t in _turns(value) if np.array_equal(t, tensor.ravel())}:
        return turned
    return next(_folded(value, same, wanted.norms, transposed), set())


def _folded(
    value: Array, same: list[tuple[str, Array]], norms: Mapping[str, tuple[Array, Array]], transposed: bool
) -> Iterator[set[str]]:
    for norm, (scale, shift) in norms.items():
        for name, tensor in same:
            if tensor.ndim < 2 or value.shape != tensor.shape:
                continue
            if (factor := _by_output(scale, tensor.shape, transposed)) is not None and _scaled(value, tensor, factor):
                yield {name}
        if value.size == len(scale):
            if _close(value, shift, np.abs(shift) + np.abs(scale)):
                yield {f"{norm}.bias"}
            for name, tensor in same:
                product = tensor.ravel().astype(np.float64) * scale
                if _close(value, product + shift, np.abs(product) + np.abs(shift) + np.abs(scale)):
                    yield {name}


def _scaled(value: Array, tensor: Array, factor: Array) -> bool:
    """Whether one kernel is the other times a number for each output; a few elements first, which mostly settle it."""
    every = np.broadcast_to(factor, tensor.shape)
    for part in (tuple(slice(None, None, max(1, size // 4)) for size in tensor.shape), ...):
        product = tensor[part].astype(np.float64) * every[part]
        if not _close(value[part], product, np.abs(product)):
            return False
    return True


def _by_output(scale: Array, shape: tuple[int, ...], transposed: bool) -> Array | None:
    """Shape the scale of each output channel as it meets a kernel (o, i/g, …) or a transposed one (i, o/g, …).

    None where they do not fit.
    """
    first, second, *window = shape
    if not transposed:
        return scale.reshape(-1, 1, *(1,) * len(window)) if first == len(scale) else None
    groups = len(scale) // second
    if not groups or groups * second != len(scale) or first % groups:
        return None
    each = np.repeat(scale.reshape(groups, second), first // groups, axis=0)
    return each.reshape(first, second, *(1,) * len(window))


def _close(value: Array, wanted: Array, size: Array) -> bool:
    """Compare in units of the value's own type: a norm of a half module is folded in half precision, step by step."""
    unit, least = (np.finfo(np.float16).eps, 2.0**-24) if value.dtype == np.float16 else (2.0**-23, 0.0)
    return bool((np.abs(value.reshape(wanted.shape) - wanted) <= ULPS * np.maximum(unit * size, least)).all())


def _turns(tensor: Array) -> Iterator[Array]:
    """Every transposition, axes of one element aside, laid out flat."""
    tensor = tensor.squeeze()
    for order in permutations(range(tensor.ndim)) if tensor.ndim <= 5 else ():
        yield tensor.transpose(order).ravel()


def _nearest(value: Array, tensors: list[tuple[str, Array]]) -> tuple[str, int]:
    """Name the tensor that differs in the fewest values, the first of several, and count them."""
    near, least = "", value.size + 1
    for name, tensor in tensors:
        count = _differing(value, tensor, least)
        if count < least:
            near, least = name, count
    return near, least


def _differing(value: Array, tensor: Array, most: int) -> int:
    """Count how many values differ, of the transposition that agrees best, and no further than ``most``."""
    flat = value.ravel()
    for turn in (tensor.ravel(), *_turns(tensor)):
        count = 0
        for first in range(0, flat.size, _BLOCK):
            count += int((turn[first : first + _BLOCK] != flat[first : first + _BLOCK]).sum())
            if count >= most:
                break
        most = min(most, count)
    return most
