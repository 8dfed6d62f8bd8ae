"""Say why a model is not valid ONNX, in words about the network that it was made of."""

from __future__ import annotations

import re

import onnx

from attn_export.export.graph.index import attribute
from attn_export.export.graph.origin import noted
from attn_export.untrusted.text import first_line


def explained(model: onnx.ModelProto, error: BaseException) -> str:
    """Give the sentence for an error of the checker or of shape inference."""
    text = first_line(error)
    named = re.search(r"node name: ([^)]+)\)", text)
    node = next((one for one in model.graph.node if named is not None and one.name == named[1]), None)
    if "unsupported type: tensor(bfloat16)" in text:
        return (
            f"forward computes in bfloat16{_place(node)}, which runtimes have no kernels for on a CPU, and older"
            " opsets no operators: take the autocast block or .bfloat16() out, and let the runtime lower the precision"
        )
    if (pool := _rounding(model)) is not None and "differ in dimension" in text:
        return (
            f"the pooling {pool.name!r}{_place(pool)} rounds its size up (ceil_mode=True) and has a last window beyond"
            " its input, which PyTorch leaves out and ONNX counts: pad the input and set ceil_mode=False"
        )
    return f"the model is not valid ONNX{_place(node)}: {text}"


def _rounding(model: onnx.ModelProto) -> onnx.NodeProto | None:
    pools = (node for node in model.graph.node if node.op_type in ("AveragePool", "MaxPool"))
    return next((node for node in pools if attribute(node, "ceil_mode", 0)), None)


def _place(node: onnx.NodeProto | None) -> str:
    origin = noted(node) if node is not None else None
    return f" at {origin.summary()}" if origin else ""
