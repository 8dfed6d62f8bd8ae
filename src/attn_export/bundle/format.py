"""What a bundle is called on disk, what it is once it was read, and the limits of what it may claim."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from attn_export.types import Array, Dim, TensorSpec

#: Versions 1 and 2 were never released: 2 holds one ONNX file, and other names.
SCHEMA_VERSION = 3
MODEL, CASES, MANIFEST, REPORT, PAGE = "model.onnx", "cases.npz", "manifest.json", "report.json", "report.html"
#: The one file that a manifest does not list, since it is of the manifest.
SIGNATURE = "manifest.json.sig"

#: The largest k of a correct export. Of 99 correct ones the worst had 3.00; see DESIGN, parity.
TOLERANCE = 4.0
#: A float32 evaluation is granted eight units in the last place of the whole output, however well PyTorch did.
FLOOR = 8 * 2.0**-24
#: The least signal-to-noise ratio of a correct model in each precision, in dB; for INT8 the user says, by the model.
SNR: Mapping[str, float] = {"float32": 110.0, "float16": 40.0, "bfloat16": 20.0}
#: The most that correct float32 evaluations may stray, as a share of the reference's norm. Over the 1,256 cases and
#: outputs of 148 bundles of the catalogue, float32 and float16, the largest is 8.0e-5 (EMSA at a scale of 0.05) and
#: the next 1.0e-6; at a share of 1/4 a model of zeros would pass with k = 4.
SHARE = 0.01

#: Kinds of injected faults that no gate may let pass.
TRIVIAL = ("zeros", "identity")
#: The largest error of a layer, in roundings of its natural size, that rounding explains; see ``export.layers``.
LOCAL = 24.0

#: Element types that NumPy has by itself, and an output can be compared in.
DTYPES = frozenset(
    ["bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64"]
)

Sha256 = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class Case:
    """One input with its float64 reference.

    Attributes:
        name: what kind of input it is, such as ``seed 1, b=3``.
        inputs: by input name.
        reference: by output name, the original module in float64.
        float32_error: by output name, the largest Euclidean error of PyTorch float32 against the reference.
    """

    name: str
    inputs: Mapping[str, Array]
    reference: Mapping[str, Array]
    float32_error: Mapping[str, float]


@dataclass(frozen=True)
class Bundle:
    """A bundle that was read and found whole.

    Attributes:
        tolerance: the largest k that passes.
        snr: of a precision below float32, what its signal-to-noise ratio is held to instead, in dB.
        digest: ``sha256:…`` of its manifest, which holds the hash of every other file.
        identity: device and inode of the folder that was read.
        manifest: what it says, checked, with whatever may be left out filled in.
    """

    path: Path
    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    dynamic_dims: tuple[Dim, ...]
    tolerance: float
    cases: tuple[Case, ...]
    manifest: Mapping[str, Any] = field(repr=False)
    snr: float | None = None
    digest: str = ""
    identity: tuple[int, int] = (0, 0)

    @property
    def model(self) -> Path:
        """The ONNX file."""
        return self.path / MODEL

    @property
    def signature(self) -> Path:
        """Where its signature lies, if it has one."""
        return self.path / SIGNATURE

    @property
    def precision(self) -> str:
        """The element type that the model computes in."""
        return str(self.manifest["subject"].get("precision", "float32"))
