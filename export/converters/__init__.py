"""From an ONNX model to the files that other runtimes take: one converter a file, imported when it is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from attn_export.export.onnx.exported import Exported
from attn_export.registry import Registry


@dataclass(frozen=True)
class Converted:
    """A model in another format.

    Attributes:
        name: what the artifact is called in a bundle.
        kind: its format, as backends say what they accept.
        files: their content by name; the first is the one that a runtime opens.
        produced_by: what wrote it, with its version.
        target: the device that it was made for; empty where it is for any.
    """

    name: str
    kind: str
    files: Mapping[str, bytes] = field(repr=False)
    produced_by: str
    target: str = ""

    @property
    def bytes(self) -> int:
        """Size of all files."""
        return sum(map(len, self.files.values()))


class Converter(Protocol):
    """A way to write a model for another runtime. A protocol, so that a plug-in need not import us."""

    def missing(self) -> str | None:
        """Say what to install before ``convert`` can work, or None."""

    def convert(self, exported: Exported) -> Converted:
        """Convert a model; the one given is not changed, and what comes is not yet proven.

        Raises:
            ExportError: the converter is not there, or refuses the model.
        """


CONVERTERS: Registry[Converter] = Registry("attn_export.export.converters", "CONVERTER", "converter", families=False)
