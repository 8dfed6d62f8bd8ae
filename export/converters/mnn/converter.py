"""MNN's format: one file, weights in float32, and as many sizes free as vary in the model.

The command that the package brings, ``mnnconvert``, installs a package and reports to its maker when it is run; only
the compiled converter behind it is called, in a process of its own, which may die.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import subprocess
import tempfile
import uuid
from pathlib import Path

from attn_export.errors import ExportError
from attn_export.export.converters import Converted, Source
from attn_export.export.converters.mnn import worker
from attn_export.export.onnx.save import save
from attn_export.process import children
from attn_export.untrusted.text import one_line

#: Seconds that it may take; a large network takes some.
LIMIT = 300.0
#: What is drawn anew for every file, as text.
_UUID = re.compile(rb"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
#: Lines of talk, and the time in front of others.
_TALK = re.compile(r"The device supports.*|Start to .*|.*ONNX Model (ir|opset) version.*|(in|out)putTensors ?:.*|")
_TIME = re.compile(r"^\[\d\d:\d\d:\d\d\] (\S*:\d+: )?")


class Mnn:
    """``mnn.mnn``: the graph and its weights as they are."""

    def missing(self) -> str | None:
        """Say how to install MNN, or None."""
        if importlib.util.find_spec("MNN") is None:
            return "MNN is not installed: pip install 'attn-export[mnn]'"
        return None

    def convert(self, source: Source) -> Converted:
        """Let MNN's converter read the ONNX model and write its own file."""
        if why := self.missing():
            raise ExportError(why)
        source.only("mnn", "float32")
        version = f"MNN {importlib.metadata.version('MNN')}"
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            save(source.exported.model, folder / "model.onnx")
            written = folder / "mnn.mnn"
            try:
                done = children.run(worker.__name__, str(folder / "model.onnx"), str(written), timeout=LIMIT)
            except subprocess.TimeoutExpired as error:
                raise ExportError(f"{version} did not end within {LIMIT:g} s; convert a smaller model") from error
            said = complaints(f"{done.stdout}\n{done.stderr}".replace(place, ""))
            if done.returncode or not written.is_file():
                how = children.ending(done.returncode) if done.returncode < 0 else "it wrote nothing"
                raise ExportError(f"{version} does not take the model ({how}): {'; '.join(said)[-400:] or 'no reason'}")
            return Converted("mnn", "mnn", {written.name: named_by_content(written.read_bytes())}, version)


def complaints(said: str) -> list[str]:
    r"""Give the lines that are no talk of its own.

    >>> complaints("Start to Optimize the MNN Net...\n[22:47:59] :35: Check failed: success\n")
    ['Check failed: success']
    """
    lines = [_TIME.sub("", one_line(line)) for line in said.splitlines()]
    return [line for line in lines if not _TALK.fullmatch(line) and line != "Converted Success!"]


def named_by_content(content: bytes) -> bytes:
    """Put what the content gives in place of the name that the converter draws: the same model gives the same file.

    >>> one, other = (b"x" + str(uuid.uuid4()).encode() + b"y" for _ in range(2))
    >>> one != other and named_by_content(one) == named_by_content(other)
    True
    """
    found = _UUID.findall(content)
    if len(set(found)) != 1:
        return content
    blank = content.replace(found[0], bytes(len(found[0])))
    return content.replace(found[0], str(uuid.uuid5(uuid.NAMESPACE_OID, blank.hex())).encode())
