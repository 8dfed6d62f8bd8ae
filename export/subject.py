"""What goes down the pipeline: a module in eval mode, what it takes, what may vary, where its weights are from."""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from attn_export.bundle.elements import fitted
from attn_export.errors import UnknownNameError
from attn_export.export.arrays import tensor
from attn_export.mechanisms.spec import Input, is_float
from attn_export.types import Dim


@dataclass(frozen=True)
class Subject:
    """A module to be deployed.

    Attributes:
        name: how the user called it.
        module: in eval mode, float32; never changed by any stage.
        inputs: names, shapes (numbers and dimension names) and element types, in the order of ``forward``.
        sizes: the size of each named dimension at which the module is traced.
        dynamic: the dimensions that may vary.
        weights: where the weights came from, in words, with a seed or a sha256.
        random: whether the weights were drawn: what is shown is the conversion, not a trained model.
        graph: the ONNX graph that the subject is, where it is one: nothing is left to export, and the module
            evaluates it.
        outputs: where outputs were chosen, by new name the old one.
        fixed_scale: whether its numbers hold for inputs of one scale only, as those of a quantised graph.
        notes: what was done to it before it went down the pipeline, in sentences that the user should read.
    """

    name: str
    module: nn.Module
    inputs: tuple[Input, ...]
    sizes: Mapping[str, int]
    dynamic: tuple[Dim, ...] = ()
    weights: str = ""
    random: bool = False
    graph: onnx.ModelProto | None = None
    notes: tuple[str, ...] = ()
    fixed_scale: bool = False
    outputs: Mapping[str, str] = field(default_factory=dict)

    def example(
        self, *, seed: int = 0, scale: float = 1.0, sizes: Mapping[str, int] | None = None
    ) -> dict[str, Tensor]:
        """Draw inputs: normal floats times ``scale``, uniform integers, booleans true one time in four, masks.

        Numbers that have a range are drawn from it evenly, whatever the scale.
        ``sizes`` replaces the traced sizes of the dimensions it names.
        """
        known = {**self.sizes, **(sizes or {})}
        return {item.name: draw(item, known, seed, scale) for item in self.inputs}


#: Types that hold so few numbers that all of them are drawn.
_SMALL = ("int8", "uint8")


def draw(item: Input, sizes: Mapping[str, int], seed: int, scale: float = 1.0) -> Tensor:
    """Draw one input tensor; the same arguments give the same values on every machine.

    What is a mask by its name is 1 up to some length and 0 behind it, whatever its element type.
    """
    shape = tuple(sizes[dim] if isinstance(dim, str) else dim for dim in item.shape)
    random = np.random.default_rng([seed, zlib.crc32(item.name.encode())])
    if item.dtype == "bool":
        return torch.from_numpy(np.asarray(random.random(shape) < 0.25))
    if is_mask(item) and item.within is None:
        lengths = random.integers(1, shape[-1] + 1, (*shape[:-1], 1)) if shape and shape[-1] else np.ones(shape)
        made = np.arange(shape[-1] if shape else 1) < lengths
        return tensor(fitted(np.broadcast_to(made, shape), item.dtype), item.dtype)
    if is_float(item.dtype):
        values = random.standard_normal(shape) * scale if item.within is None else random.uniform(*item.within, shape)
        return tensor(fitted(values, item.dtype), item.dtype)
    low, high = whole(item)
    return torch.from_numpy(np.asarray(random.integers(low, high, shape), item.dtype))


def whole(item: Input) -> tuple[int, int]:
    """Say from where and up to where, that end left out, whole numbers are drawn."""
    if item.within is not None:
        return int(item.within[0]), int(item.within[1]) + 1
    if item.dtype in _SMALL:
        limits = np.iinfo(item.dtype)
        return int(limits.min), int(limits.max) + 1
    assert isinstance(item.high, int)
    return 0, item.high


def is_mask(item: Input) -> bool:
    """Whether an input says what counts: by its type, or by its name."""
    return item.dtype == "bool" or re.search(r"mask\d*(_|$)", item.name.lower()) is not None


def with_dynamic(subject: Subject, wanted: str) -> Subject:
    """Keep the dynamic dimensions that the user asked for: ``batch`` (called ``b``), ``all``, ``none``, or names.

    Raises:
        UnknownNameError: a name is no dimension of the subject that may vary.
    """
    known = {dim.name: dim for dim in subject.dynamic}
    names: Sequence[str]
    match wanted:
        case "none":
            names = ()
        case "all":
            names = tuple(known)
        case "batch":
            names = ("b",) if "b" in known else ()
        case _:
            names = [name.strip() for name in wanted.split(",")]
    for name in names:
        if name not in known:
            raise UnknownNameError(f"dynamic dimension of {subject.name}", name, [*known, "all", "batch", "none"])
    return replace(subject, dynamic=tuple(known[name] for name in names))
