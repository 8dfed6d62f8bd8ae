"""What a bundle is called on disk, what it is once it was read, and the limits of what it may claim."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attn_export.errors import BundleError, UnknownNameError
from attn_export.types import Dim, TensorSpec

if TYPE_CHECKING:  # the names of files are asked for where there is no need of NumPy
    from attn_export.types import Array

#: Versions 1 and 2 were never released: 2 holds one ONNX file, and other names.
SCHEMA_VERSION = 3
MODEL, CASES, MANIFEST, REPORT, PAGE = "model.onnx", "cases.npz", "manifest.json", "report.json", "report.html"
#: The model before any stage changed it, for ``verify --fresh``; no artifact, for nothing runs it on a device.
ORIGINAL = "original.onnx"
#: What the artifact of the main job is called.
MAIN = "model"
#: The one file that a manifest does not list, since it is of the manifest.
SIGNATURE = "manifest.json.sig"

#: The largest k of a correct export. Of 99 correct ones the worst had 3.00; see DESIGN, parity.
TOLERANCE = 4.0
#: A float32 evaluation is granted eight units in the last place of the whole output, however well PyTorch did.
FLOOR = 8 * 2.0**-24
#: The least signal-to-noise ratio of a correct model in each precision, in dB; for INT8 the user says, by the model.
SNR: Mapping[str, float] = {"float32": 110.0, "float16": 40.0, "bfloat16": 20.0}
#: How many times as far a slice may stray as the whole output: thousands are looked at, of a few numbers each that
#: often err alike, and coarser precisions do not err where float32 does. The most of right models is 1.4 (5.5 of 4).
UNEVEN = 4.0
#: The most that correct float32 evaluations may stray, as a share of the reference's norm. Over the 1,256 cases and
#: outputs of 148 bundles of the catalogue, float32 and float16, the largest is 8.0e-5 (EMSA at a scale of 0.05) and
#: the next 1.0e-6; at a share of 1/4 a model of zeros would pass with k = 4.
SHARE = 0.01
#: Where an output is next to nothing, such as a detector's scores on an image without objects, what runtimes' own
#: functions leave of it may be more than that share: so much per element is believed as well, four times 2⁻²³ of a
#: range of 1 (see ``reparam.evaluate.transcendental``), as long as a model of zeros still has k >= 8.
PER_ELEMENT = 4 * 2.0**-23

#: The least share of an output's energy that varies between images, for it to say something of INT8. Two readings give
#: one number. A model that ignores its input has 10 log10(1 / share) dB by the usual ratio: at 0.01 that is the 20 dB
#: that a quantised graph is held to, so below it a model that lost its input passes. And one rounding of the output to
#: eight bits leaves 20 log10(127 sqrt(12) / c) dB of the whole, 40.8 where the largest value is c = 4 times the usual
#: one: of a part that is 0.01 of it 20.8, so below it no int8 model reaches 20 dB whatever it does. Seen: 0.0001 in
#: RepVGG-A0 with random weights, 0.13 with its batch norms re-estimated on pictures.
VARIES = 0.01
#: What half of the images must keep of what varies over the error, in dB, in a precision below float32: an error of a
#: hundredth of the energy.
VARYING_DB = 20.0
#: The precisions that are held to it beside their usual ratio.
HALVES = ("float16", "bfloat16")
#: What noise counts as much as the noise that is there already, in dB: twice the power.
DOUBLE_DB = 10 * math.log10(2)

#: Kinds of artifact that are known, with the suffixes of the files that one must have, the one to open first. Others
#: are listed and carried, for backends that know them.
KINDS: Mapping[str, tuple[str, ...]] = {
    "onnx": (".onnx",),
    "ort": (".ort",),
    "tflite": (".tflite",),
    "pte": (".pte",),
    "ncnn": (".param", ".bin"),
    "mnn": (".mnn",),
    "openvino": (".xml", ".bin"),
}

#: Kinds of injected faults that no gate may let pass.
TRIVIAL: tuple[str, ...] = ("zeros", "identity")
#: The largest error of a layer, in roundings of its natural size, that rounding explains; see ``export.layers``.
LOCAL = 24.0

#: Element types that an input can be given in and an output compared in: NumPy's own, and bfloat16; see ``elements``.
_WHOLE = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
DTYPES = frozenset({"bool", *_WHOLE, "float16", "bfloat16", "float32", "float64"})

#: What a file's name ends in that a runtime opens, by kind.
SUFFIXES: Mapping[str, str] = {kind: ends[0] for kind, ends in KINDS.items()}

Sha256 = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class Selection:
    """Outputs whose rows an operator chose and put in order, such as detections; see ``bundle.rows``.

    Attributes:
        node: the operator that chose them, and its name.
        rows: by output the axis that its rows lie along; the axes before it hold the items of a batch.
        ordered: by output the columns that are in order in every case, such as scores.
    """

    node: str
    rows: Mapping[str, int]
    ordered: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def summary(self) -> str:
        """Say what is done about it.

        >>> Selection("TopK 't'", {"boxes": 1, "scores": 1}).summary()
        "the rows of boxes and scores are compared wherever they stand, as TopK 't' orders them by what float32 rounds"
        """
        *names, last = self.rows
        who = f"{', '.join(names)} and {last}" if names else last
        return f"the rows of {who} are compared wherever they stand, as {self.node} orders them by what float32 rounds"


@dataclass(frozen=True)
class Case:
    """One input with its float64 reference.

    Attributes:
        name: what kind of input it is, such as ``seed 1, b=3``.
        inputs: by input name.
        reference: by output name, the original module in float64.
        float32_error: by output name, the largest Euclidean error of correct float32 runs against the reference.
        slice_error: the same of each slice along an axis, by output name and axis; see ``bundle.slices``.
        selections: outputs whose rows are compared wherever they stand.
    """

    name: str
    inputs: Mapping[str, Array]
    reference: Mapping[str, Array]
    float32_error: Mapping[str, float]
    slice_error: Mapping[str, Mapping[int, Array]] = field(default_factory=dict)
    selections: tuple[Selection, ...] = ()


@dataclass(frozen=True)
class Artifact:
    """One model of a bundle, in a form that some runtimes take; all of a bundle's have the same cases.

    Attributes:
        name: what it is called in this bundle.
        kind: its format, such as ``onnx`` or ``tflite``.
        files: its files; the first is the one that a runtime opens.
        precision: the element type that it computes in.
        normalized_limit: the largest normalized error that passes.
        snr_db_limit: of a precision below float32, what its signal-to-noise ratio is held to instead.
        target: the device that it was made for; empty where it is for any.
        produced_by: what wrote it, with its version.
        narrowed_dims: dimensions that vary less in it than in the model, in the range that it takes.
        meaning: of an int8 model, the cases of the user's data with what its own graph means in float64 as reference.
        centred_db_limit: of an int8 model, the least median of what varies over the error, in dB: what was asked for,
            or 3 dB less than what it had when it was made, which is twice the noise; the larger of the two.
        asked_db: what of that was asked for; all that other images than those of the bundle are held to.
    """

    name: str
    kind: str
    files: tuple[Path, ...]
    precision: str = "float32"
    normalized_limit: float = TOLERANCE
    snr_db_limit: float | None = None
    target: str = ""
    produced_by: str = ""
    narrowed_dims: tuple[Dim, ...] = ()
    meaning: tuple[Case, ...] = field(default=(), repr=False)
    centred_db_limit: float | None = None
    asked_db: float | None = None

    @property
    def path(self) -> Path:
        """The file that a runtime opens."""
        return self.files[0]

    def summary(self) -> str:
        """Name it for people.

        >>> Artifact("model", "onnx", (Path("model.onnx"),)).summary()
        'model (onnx, float32)'
        """
        return f"{self.name} ({self.kind}, {self.precision}{f', for {self.target}' if self.target else ''})"


@dataclass(frozen=True)
class Bundle:
    """A bundle that was read and found whole.

    Attributes:
        artifacts: its models; the first is the one that the main job wrote.
        digest: ``sha256:…`` of its manifest, which holds the hash of every other file.
        identity: device and inode of the folder that was read.
        manifest: what it says, checked, with whatever may be left out filled in.
    """

    path: Path
    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    dynamic_dims: tuple[Dim, ...]
    artifacts: tuple[Artifact, ...]
    cases: tuple[Case, ...]
    manifest: Mapping[str, Any] = field(repr=False)
    digest: str = ""
    identity: tuple[int, int] = (0, 0)

    @property
    def model(self) -> Path:
        """The file of the artifact that the main job wrote."""
        return self.artifacts[0].path

    def artifact(self, name: str | None = None, kinds: Sequence[str] | None = None) -> Artifact:
        """Choose an artifact: the one of that name, or the first of these kinds, or simply the first.

        Raises:
            UnknownNameError: none is called so.
            BundleError: none is of these kinds.
        """
        named = [one for one in self.artifacts if name is None or one.name == name]
        if not named:
            raise UnknownNameError("artifact", str(name), [one.name for one in self.artifacts])
        fitting = [one for one in named if kinds is None or one.kind in kinds]
        if not fitting:
            there = ", ".join(one.summary() for one in named)
            raise BundleError(f"{self.path}: expected an artifact of kind {' or '.join(kinds or ())}, got {there}")
        return fitting[0]

    def only(self, artifact: Artifact) -> Bundle:
        """Give the same bundle as if it held one artifact alone, for what measures or proves that one."""
        return replace(self, artifacts=(artifact,))

    @property
    def original(self) -> Path | None:
        """The file of the model before any stage changed it, if the bundle holds it."""
        name = self.manifest.get("original")
        return None if name is None else self.path / str(name)

    @property
    def selections(self) -> tuple[Selection, ...]:
        """Outputs whose rows are compared wherever they stand."""
        return self.cases[0].selections if self.cases else ()

    @property
    def signature(self) -> Path:
        """Where its signature lies, if it has one."""
        return self.path / SIGNATURE
