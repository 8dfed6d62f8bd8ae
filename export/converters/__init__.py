"""From a model to the files that other runtimes take: one converter a file, imported when it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import onnx

from attn_export import bundle
from attn_export.bundle.narrowed import Narrowed
from attn_export.errors import ExportError
from attn_export.export.onnx.exported import Exported
from attn_export.export.precision.classes import PrecisionClass
from attn_export.registry import Registry
from attn_export.types import Dim, Feeds

if TYPE_CHECKING:  # what fuses files needs none, and it loads PyTorch's tracing
    from attn_export.export.torch_program import TorchProgram


@dataclass(frozen=True)
class Source:
    """What is to be converted: the same model as ONNX and, where it is a network, as a PyTorch program.

    Attributes:
        exported: the ONNX model as it was proven, with its contract.
        example: inputs at the sizes that a file of fixed sizes is to have.
        program: makes the program, fused if that was asked for, once; None where the model came as ONNX.
        model_precision: the element type that the model computes in.
        asked: the precision that was asked for behind the converter's name; empty where none was.
        int8: the same model with pairs of QuantizeLinear and DequantizeLinear; None where none was made.
        made: what other converters, or this one in another precision, have made of the model, by name.
    """

    exported: Exported
    example: Feeds
    program: Callable[[], TorchProgram] | None = None
    model_precision: str = "float32"
    asked: str = ""
    int8: onnx.ModelProto | None = field(default=None, repr=False)
    made: Mapping[str, Converted] = field(default_factory=dict, repr=False)

    @property
    def precision(self) -> str:
        """The element type that the file is to be computed in."""
        return self.asked or self.model_precision

    def fixed_dims(self) -> tuple[Dim, ...]:
        """Say what a file of fixed sizes takes: a batch of one, and every other size as in the example."""
        contract = self.exported.contract
        sizes = {
            name: size
            for port in contract.inputs
            for name, size in zip(port.shape, self.example[port.name].shape, strict=True)
        }
        ports = Narrowed(contract.inputs, contract.outputs)
        wanted = {
            dim.name: 1 if ports.counts_items(dim.name) and dim.admits(1) else sizes[dim.name] for dim in contract.dims
        }
        return tuple(Dim(name, size, size) for name, size in wanted.items())

    def as_torch(self, who: str) -> TorchProgram:
        """Give the program.

        Raises:
            ExportError: there is none; or the module can be fused or traced no further.
        """
        if self.program is None:
            raise ExportError(
                f"{who} is made from a PyTorch network, and this model came as ONNX: give the network"
                " (file.py:Net --weights …), or another format"
            )
        return self.program()

    def quantised(self, who: str) -> onnx.ModelProto:
        """Give the model in int8.

        Raises:
            ExportError: there is none.
        """
        if self.int8 is None:
            raise ExportError(f"{who}:int8 is made from the int8 model, and there is none: add --int8 --data DIR")
        return self.int8

    def only(self, who: str, *precisions: str) -> None:
        """Refuse what the converter does not write.

        Raises:
            ExportError: the precision is none of ``precisions``.
        """
        if self.precision not in precisions:
            known = " or ".join(precisions)
            raise ExportError(f"{who}: expected a model to be computed in {known}, got {self.precision}")


@dataclass(frozen=True)
class Converted:
    """A model in another format.

    Attributes:
        name: what the artifact is called in a bundle.
        kind: its format, as backends say what they accept.
        files: their content by name; the first is the one that a runtime opens.
        produced_by: what wrote it, with its version.
        target: the device that it was made for; empty where it is for any.
        precision: the element type that it computes in; empty where that is the model's.
        narrowed_dims: dimensions that vary less in it than in the model, in the range that it takes.
        notes: what the user should know of it, in sentences.
        snr: what its runs are held to, in dB, where its precision is of no class.
        taken: of its operators, the part that the runtime's fast kernels take over, of 1; None where none is told.
        floats: of a file in int8, the layers that are int8 in the ONNX graph and float in it, each with the reason.
        checked: of a format that nothing here runs, what its file was held to in place of that; else empty.
    """

    name: str
    kind: str
    files: Mapping[str, bytes] = field(repr=False)
    produced_by: str
    target: str = ""
    precision: str = ""
    narrowed_dims: tuple[Dim, ...] = ()
    notes: tuple[str, ...] = ()
    snr: float | None = None
    taken: float | None = None
    floats: Mapping[str, str] = field(default_factory=dict)
    checked: str = ""

    @property
    def bytes(self) -> int:
        """Size of all files."""
        return sum(map(len, self.files.values()))

    def held(self, model: PrecisionClass) -> PrecisionClass:
        """Say what its runs are held to, where ``model`` is what the model's are."""
        if self.precision in ("", model.name):
            return model
        return PrecisionClass(self.precision, bundle.SNR[self.precision] if self.snr is None else self.snr)


class Converter(Protocol):
    """A way to write a model for another runtime. A protocol, so that a plug-in need not import us."""

    def missing(self) -> str | None:
        """Say what to install before ``convert`` can work, or None."""

    def convert(self, source: Source) -> Converted:
        """Convert a model; the one given is not changed, and what comes is not yet proven.

        Raises:
            ExportError: the converter is not there, or refuses the model.
        """


CONVERTERS: Registry[Converter] = Registry("attn_export.export.converters", "CONVERTER", "converter", families=False)
#: What a model that is quantised from the user's data computes in: a file of it is made behind that model.
INT8 = "int8"
#: How precisions may be written behind a converter's name, as in ``openvino:bf16``.
PRECISIONS = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16", "int8": INT8}


def parse(text: str) -> tuple[str, str]:
    """Split what was typed into the converter's name and a precision, empty where none is given.

    >>> parse("openvino:bf16"), parse("ort")
    (('openvino', 'bfloat16'), ('ort', ''))

    Raises:
        UnknownNameError: there is no such converter.
        ExportError: there is no such precision.
    """
    name, colon, precision = text.partition(":")
    CONVERTERS.entry(name)  # raises, and says which names are near
    if colon and precision not in PRECISIONS:
        raise ExportError(f"--to {text}: expected a precision of {', '.join(PRECISIONS)}, got {precision[:80]!r}")
    return name, PRECISIONS.get(precision, "")


def is_int8(text: str) -> bool:
    """Whether what was typed asks for a file of the int8 model.

    >>> is_int8("litert:int8"), is_int8("litert")
    (True, False)
    """
    return PRECISIONS.get(text.partition(":")[2]) == INT8
