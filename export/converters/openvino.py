"""OpenVINO's own format: ``.xml`` holds the graph, ``.bin`` the weights.

Weights are kept as they are: written with the converter's defaults they would be rounded to float16. Sizes that may
vary still may.
"""

from __future__ import annotations

import importlib.util
import re
import tempfile
from pathlib import Path
from typing import Any

import onnx

from attn_export.errors import ExportError
from attn_export.export.converters import INT8, Converted, Source
from attn_export.export.onnx.save import save
from attn_export.process.quiet_import import without
from attn_export.untrusted.text import one_line

#: Precisions that have a file of their own, by the end of its name.
OF_ITS_OWN = {"bfloat16": "-bf16", INT8: "-int8"}
#: Where OpenVINO names an operator that it does not take, with its domain before or its version behind.
_NO_RULE = re.compile(r"No conversion rule found for operations: (.+)")
#: Where it names a node by what the node makes.
_BROKEN = re.compile(r"<Node\((\w+)\): ([^>]*)>'?: (.+?)(?: at src/|$)")


class OpenVino:
    """``.xml`` and ``.bin``; ``openvino:bf16`` is held to what bfloat16 can give, ``openvino:int8`` the int8 one."""

    def missing(self) -> str | None:
        """Say how to install OpenVINO, or None."""
        if importlib.util.find_spec("openvino") is None:
            return "OpenVINO is not installed: pip install 'attn-export[openvino]'"
        return None

    def convert(self, source: Source) -> Converted:
        """Let OpenVINO read the model and write it in its own format."""
        if why := self.missing():
            raise ExportError(why)
        # Half precision is made by --fp16, which keeps in float32 what would overflow.
        source.only("openvino", "float32", "bfloat16", INT8, source.model_precision)
        given = source.quantised("openvino") if source.asked == INT8 else source.exported.model
        openvino = without("openvino", "openvino_telemetry")
        version = f"OpenVINO {openvino.__version__.partition('-')[0]}"
        name = f"openvino{OF_ITS_OWN.get(source.asked, '')}"
        with tempfile.TemporaryDirectory() as folder:
            before, graph = Path(folder, "model.onnx"), Path(folder, f"{name}.xml")
            save(given, before)
            try:
                model = openvino.Core().read_model(str(before))
                _count_anew(model)
                openvino.save_model(model, str(graph), compress_to_fp16=False)
                files = {path.name: path.read_bytes() for path in (graph, graph.with_suffix(".bin"))}
            except Exception as error:  # the converter's exceptions share no base class of their own
                raise ExportError(f"{version} does not take {refused(str(error), given)}") from error
        return Converted(name, "openvino", files, version, precision=source.asked)


def _count_anew(model: Any) -> None:
    """Name what has no name of its own by its place: else by how many there were before in this process."""
    for index, op in enumerate(model.get_ordered_ops()):
        if op.get_friendly_name() == op.get_name():
            op.set_friendly_name(f"{op.get_type_name()}_{index}")


def refused(said: str, model: onnx.ModelProto) -> str:
    """Say in one line which nodes OpenVINO does not take, and why, by what it ``said``."""
    if found := _BROKEN.search(said):
        op, tensor, why = found.groups()
        named = [node for node in model.graph.node if tensor in (node.name, *node.output)]
        return f"{op} {(named[0].name if named else '') or tensor!r}: {one_line(why)[:300]}"
    if found := _NO_RULE.search(said):
        words = [word.strip() for word in found[1].split(",")]
        ops = {word.rpartition(".")[2].partition("-")[0] for word in words}
        nodes = [f"{node.op_type} {node.name or node.output[0]!r}" for node in model.graph.node if node.op_type in ops]
        return f"{', '.join(nodes[:5]) or ', '.join(words)}: it knows no such operator"
    return f"the model: {one_line(said)[-400:]}"


CONVERTER = OpenVino()
