"""What every folder speaks of: arrays, tensors by name, dimensions that may vary, and plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from attn_export.untrusted.fields import Within

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[Any]
    Ints = NDArray[np.int64]
    #: The inputs of one run, by name.
    Feeds = Mapping[str, Array]

#: What JSON can say of an object.
JsonDict = dict[str, Any]

Text = Annotated[str, Within(1, 1000)]
Count = Annotated[int, Within(0)]
Size = Annotated[float, Within(0)]
#: No honest ratio comes near; far enough from the ends of float64 to compute with.
Decibel = Annotated[float, Within(-7000, 7000)]


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a model.

    Attributes:
        name: of the input or output.
        dtype: NumPy element type; or bfloat16, whose numbers stand in arrays as float32.
        shape: length of each dimension, or the name of one that may vary.
    """

    name: Text
    dtype: str
    shape: tuple[Count | Text, ...]


@dataclass(frozen=True)
class Dim:
    """A dimension that may vary after export: the multiples of ``step`` from ``min`` to ``max``.

    Attributes:
        name: as it stands in shapes.
        min: smallest size.
        max: largest size; null where there is no limit.
        step: every size is a multiple of it.
    """

    name: Text
    min: Count = 1
    max: Count | None = None
    step: Annotated[int, Within(1)] = 1

    def admits(self, size: int) -> bool:
        """Whether ``size`` is one of the sizes this dimension may take."""
        return size >= self.min and size % self.step == 0 and (self.max is None or size <= self.max)


@dataclass(frozen=True)
class ShapeRange:
    """The shapes that one input may take on a device, as TensorRT's optimisation profile: smallest, usual, largest."""

    min: tuple[int, ...]
    opt: tuple[int, ...]
    max: tuple[int, ...]


class Summarised:
    """What prints itself by its own summary, in a terminal and in a notebook; the fields are in its ``repr``."""

    def summary(self) -> str:
        """Say it in one line."""
        raise NotImplementedError

    def __str__(self) -> str:
        return self.summary()

    def _repr_html_(self) -> str:
        from html import escape

        return f"<p>{escape(self.summary())}</p>"


def __getattr__(name: str) -> Any:
    """Find the names of arrays when they are asked for: who lists the catalogue needs dimensions, and no NumPy."""
    if name not in ("Array", "Ints", "Feeds"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import numpy as np
    from numpy.typing import NDArray

    globals().update(Array=NDArray[Any], Ints=NDArray[np.int64], Feeds=Mapping[str, NDArray[Any]])
    return globals()[name]
