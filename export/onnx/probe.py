"""Which sizes a file really runs at: ONNX Runtime is asked, with a few sizes for each dimension that is left open.

A file promises any size where it leaves a dimension open, and often keeps that for some only: a network that halves
its input five times and joins the halves again takes multiples of 32, a size that was fixed while tracing takes itself.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx

from attn_export.export.graph.light import HEAVY, size_of
from attn_export.export.onnx.walk import tensors
from attn_export.types import Dim, Feeds
from attn_export.untrusted.text import first_line

#: Seconds that all runs may take together; what was not asked by then is believed.
SECONDS = 20.0
#: Sizes that are tried where nothing says one: of images, and of everything else.
IMAGES = (224, 320, 64, 640, 256, 32, 128, 96, 48, 512, 416, 112, 608, 384, 299, 28, 16, 8)
OTHERS = (16, 64, 128, 256, 512, 1024, 32, 77, 80, 100, 1, 2, 3, 4, 8, 1536, 4000, 16000)
STEPS = (2, 4, 8, 16, 32, 64, 128)
#: Steps beyond the usual size that the cases go.
_BEYOND = 4
_BATCHES = (2, 1, 4, 8, 16)

Sizes = Mapping[str, int]
Draw = Callable[[Sizes], Feeds]


@dataclass(frozen=True)
class Found:
    """What the file can do.

    Attributes:
        sizes: at which it ran, by dimension; those that were given are as they were.
        dims: the dimensions that may vary, with their ranges.
        equal: dimensions that must be as large as another, by name.
        notes: what was narrowed, in sentences.
    """

    sizes: Sizes
    dims: Sequence[Dim]
    equal: Mapping[str, str]
    notes: tuple[str, ...]


class NoSizeError(Exception):
    """The file ran at none of the sizes that were tried. The message is the runtime's last reason."""


class Probe:
    """A file, and how its inputs are drawn at given sizes.

    Raises:
        NoSizeError: the runtime does not load it, or it is too large to be tried.
    """

    def __init__(self, model: onnx.ModelProto, draw: Draw) -> None:
        import onnxruntime

        self._draw, self._until = draw, time.monotonic() + SECONDS
        self._ran: dict[tuple[tuple[str, int], ...], str] = {}
        #: Of the outputs where it ran, by name.
        self.ranks: dict[str, int] = {}
        if sum(map(size_of, tensors(model))) > HEAVY:
            raise NoSizeError("its weights are too many to try it")
        settings = onnxruntime.SessionOptions()
        settings.log_severity_level = 4
        settings.intra_op_num_threads = 1
        settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            self._session = onnxruntime.InferenceSession(
                model.SerializeToString(), settings, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # the runtime's errors share no public base
            raise NoSizeError(_reason(error)) from error

    def breaks(self, sizes: Sizes) -> str:
        """Say why the file does not run at these sizes; nothing where it does."""
        key = tuple(sorted(sizes.items()))
        if key not in self._ran:
            try:
                made = self._session.run(None, dict(self._draw(sizes)))
                self._ran[key] = ""
                names = [port.name for port in self._session.get_outputs()]
                self.ranks = {name: np.ndim(value) for name, value in zip(names, made, strict=True)}
            except Exception as error:  # as above
                self._ran[key] = _reason(error)
        return self._ran[key]

    @property
    def late(self) -> bool:
        """Whether there is no time for more."""
        return time.monotonic() > self._until


def find(probe: Probe, sizes: Sizes, guessed: Mapping[str, bool], dims: Mapping[str, Dim]) -> Found:
    """Find sizes at which the file runs, and how far each dimension may vary.

    Args:
        probe: the file.
        sizes: of every named dimension; those that are ``guessed`` may be changed.
        guessed: the dimensions whose size nobody gave: True for those of an image.
        dims: the dimensions that may vary, with the ranges that were given.

    Raises:
        NoSizeError: it runs at none.
    """
    at = _start(probe, sizes, guessed)
    found = Found(at, tuple(dims.values()), {}, ())
    for name in dims:
        if not probe.late and name not in found.equal:
            found = _narrowed(probe, found, name)
    return found


def _start(probe: Probe, sizes: Sizes, guessed: Mapping[str, bool]) -> Sizes:
    why = ""
    for tried in _starts(sizes, guessed):
        why = why or "it was not tried"
        if not (why := probe.breaks(tried)):
            return tried
        if probe.late:
            break
    raise NoSizeError(why)


def _starts(sizes: Sizes, guessed: Mapping[str, bool]) -> Iterator[Sizes]:
    """Yield sizes to begin with: of all images one size, of all else one, with a batch of two and of one."""
    yield sizes
    batches: list[Sizes] = [{"b": size} for size in _BATCHES[:2]] if "b" in guessed else [{}]
    images = [name for name, image in guessed.items() if image and name != "b"]
    others = [name for name, image in guessed.items() if not image and name != "b"]
    for batch in batches:
        for one in OTHERS if others else (0,):
            for size in IMAGES if images else (0,):
                yield {**sizes, **batch, **dict.fromkeys(images, size), **dict.fromkeys(others, one)}
    for batch in batches if len(others) > 1 else ():  # a batch may stand on another axis, as of a state
        for name in others:
            for one in OTHERS:
                yield {**sizes, **batch, **dict.fromkeys(others, one), name: {**sizes, **batch}.get("b", 1)}
    for count in _BATCHES[2:] if "b" in guessed else ():
        yield {**sizes, "b": count}


def _narrowed(probe: Probe, found: Found, name: str) -> Found:
    """Say how far one dimension may vary: freely, by a step, together with another, or not at all."""
    dim = next(dim for dim in found.dims if dim.name == name)
    size, why = found.sizes[name], ""
    for step in (dim.step, *(s for s in STEPS if s > dim.step and s % dim.step == 0 and size % s == 0)):
        reason = _moves(probe, found, [name], replace(dim, step=step))
        why = why or reason
        if not reason:
            note = f"{name!r} is narrowed to multiples of {step}: {_other(size, dim)} breaks ({why})"
            whole, more = _ended(probe, found, replace(dim, step=step))
            return _with(found, whole, *([note] if step != dim.step else []), *more)
    for other in found.dims:
        same = other.name != name and found.sizes[other.name] == size
        if same and not probe.late and not _moves(probe, found, [name, other.name], dim):
            note = f"{name!r} and {other.name!r} must have one size, and vary together"
            left = tuple(d for d in found.dims if d.name != other.name)
            return replace(found, dims=left, equal={**found.equal, other.name: name}, notes=(*found.notes, note))
    left = tuple(d for d in found.dims if d.name != name)
    note = f"{name!r} is fixed at {size}: {_other(size, dim)} breaks ({why})"
    return replace(found, dims=left, notes=(*found.notes, note))


def _ended(probe: Probe, found: Found, dim: Dim) -> tuple[Dim, list[str]]:
    """Find the smallest size of a dimension, and whether twice the usual one works; what was given stays."""
    if dim.min > 1 or dim.max is not None:
        return dim, []
    notes, size = [], found.sizes[dim.name]
    tied = [dim.name, *(name for name, to in found.equal.items() if to == dim.name)]
    least = dim.step
    while least < size and not probe.late and (why := probe.breaks({**found.sizes, **dict.fromkeys(tied, least)})):
        notes = [f"{dim.name!r} is at least {min(2 * least, size)}: {least} breaks ({why})"]
        least *= 2
    if least > dim.step:
        dim = replace(dim, min=min(least, size))
    most = 2 * (size + _BEYOND * dim.step)
    if not probe.late and (why := probe.breaks({**found.sizes, **dict.fromkeys(tied, most)})):
        dim = replace(dim, max=size + _BEYOND * dim.step)
        notes.append(f"{dim.name!r} is at most {dim.max}: {most} breaks ({why})")
    return dim, notes


def _with(found: Found, dim: Dim, *notes: str) -> Found:
    dims = tuple(dim if old.name == dim.name else old for old in found.dims)
    return replace(found, dims=dims, notes=(*found.notes, *notes))


def _other(size: int, dim: Dim) -> int:
    """Give the first size that is tried beside the one it runs at."""
    return next(iter(_beside(size, dim)), size)


def _beside(size: int, dim: Dim) -> list[int]:
    """Two sizes near by that the dimension admits, not too small to go through a network."""
    near = (size + dim.step, size - dim.step, size + 2 * dim.step, size + 3 * dim.step, size - 2 * dim.step)
    return [other for other in near if other > 0 and dim.admits(other)][:2]


def _moves(probe: Probe, found: Found, names: Sequence[str], dim: Dim) -> str:
    """Say why the named dimensions cannot be moved by this step, all together; nothing where they can."""
    for size in _beside(found.sizes[dim.name], dim):
        tied = [name for name, to in found.equal.items() if to in names]
        if why := probe.breaks({**found.sizes, **dict.fromkeys([*names, *tied], size)}):
            return why
    return ""


#: What the runtime puts before a reason: its own code, its source's place, its function.
_CODE = re.compile(r"\[ONNXRuntimeError\] : \d+ : \w+ : |/\S+\.(?:cc|h):\d+ |onnxruntime::\S+\([^)]*\) ?")
_NODE = re.compile(r"Non-zero status code returned while running (\w+) node\. Name:'(.*?)' Status Message: ")


def _reason(error: Exception) -> str:
    """Say what the runtime says, without its own place in its own source."""
    return _NODE.sub(r"\1 '\2': ", _CODE.sub("", first_line(error, 2000))).strip()[:200]
