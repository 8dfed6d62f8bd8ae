"""The contract between the proofs and whatever runs a model. A backend is two functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from attn_export.types import Feeds, ShapeRange

Run = Callable[[Feeds], dict[str, NDArray[Any]]]


@dataclass(frozen=True)
class Options:
    """How to run, in words that hold for every backend.

    Attributes:
        threads: intra-operator threads on a CPU.
        shapes: per input the range of shapes; empty where every shape is fixed.
        device: index of the accelerator.
        reduced_precision: allow formats that trade accuracy for speed behind a float32 graph, such as TF32.
    """

    threads: int = 1
    shapes: Mapping[str, ShapeRange] = field(default_factory=dict)
    device: int = 0
    reduced_precision: bool = False


class Backend(Protocol):
    """A way to run an ONNX model. A protocol, so that a plug-in need not import us."""

    def missing(self) -> str | None:
        """Say what to install or plug in before ``open`` can work, or None."""

    def version(self) -> str:
        """Name the runtime and its version, as it stands in a report. Works only where nothing is missing."""

    def open(self, model: Path, options: Options) -> AbstractContextManager[Run]:
        """Load ``model``; free what it holds on the device afterwards.

        ``Run`` takes every input by name, returns every output by name, and returns once the outputs are in host
        memory, so it can be timed.

        Raises:
            BackendMissingError: ``missing()`` is not None.
            BackendError: the runtime refuses the model.
        """
