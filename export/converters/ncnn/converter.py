"""ncnn's format: ``.param`` holds the graph, ``.bin`` the weights, and ``.json`` what the two do not say.

That is what the model calls its inputs and outputs, their sizes, and which axis of each is the batch that ncnn does
not count. Sizes are fixed, the batch is one.
"""

from __future__ import annotations

import importlib.util
import json
import tempfile
from pathlib import Path
from typing import Any

import onnx

from attn_export.errors import ExportError
from attn_export.export.converters import Converted, Source
from attn_export.export.converters.ncnn import pnnx
from attn_export.export.converters.ncnn.readable import readable
from attn_export.export.onnx.save import save
from attn_export.process.silence import silenced
from attn_export.types import TensorSpec
from attn_export.untrusted.text import one_line


class Ncnn:
    """Weights in float32; with ``ncnn:fp16`` they are stored in float16, and computed with in float32."""

    def missing(self) -> str | None:
        """Say how to install pnnx and ncnn, or None."""
        lacking = [name for name in ("ncnn", "pnnx") if importlib.util.find_spec(name) is None]
        if not lacking:
            return None
        # As a dependency pnnx brings torch with CUDA; its program needs nothing of it.
        also = " && pip install --no-deps pnnx==20261020" if "pnnx" in lacking else ""
        return f"{' and '.join(lacking)} not installed: pip install 'attn-export[ncnn]'{also}"

    def convert(self, source: Source) -> Converted:
        """Let pnnx convert the ONNX model, and ncnn load what came."""
        if why := self.missing():
            raise ExportError(why)
        source.only("ncnn", "float32", "float16")
        if source.model_precision != "float32":
            raise ExportError(f"ncnn: expected a model in float32, got {source.model_precision}; use --to ncnn:fp16")
        half = source.asked == "float16"
        name = "ncnn-fp16" if half else "ncnn"
        fixed = source.fixed_dims()
        contract = source.exported.contract
        sizes = {dim.name: dim.min for dim in fixed}
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            model = readable(source.exported.model, contract.inputs, sizes)
            save(model, folder / "model.onnx")
            said = pnnx.run(folder, "model.onnx", pnnx.shapes(contract.inputs, sizes), half=half)
            param, weights = folder / "model.ncnn.param", folder / "model.ncnn.bin"
            script = folder / "model_ncnn.py"
            if not (param.is_file() and weights.is_file() and script.is_file()):
                raise ExportError(f"{pnnx.version()} wrote nothing: {'; '.join(pnnx.complaints(said))[-400:]}")
            found = layout(contract.inputs, contract.outputs, sizes, script.read_text(encoding="utf-8"))
            loaded(param, weights, found, model)
            files = {
                f"{name}.param": param.read_bytes(),
                f"{name}.bin": weights.read_bytes(),
                f"{name}.json": json.dumps(found, indent=1).encode(),
            }
        return Converted(
            name,
            "ncnn",
            files,
            pnnx.version(),
            precision=source.asked,
            narrowed_dims=fixed,
            notes=("ncnn:fp16 stores weights in float16 and is computed in float32 here",) if half else (),
        )


def loaded(param: Path, weights: Path, found: dict[str, Any], model: onnx.ModelProto) -> None:
    """Load a file in ncnn, which says what pnnx does not: that there is no such layer.

    Raises:
        ExportError: ncnn does not load it, or counts other inputs or outputs.
    """
    import ncnn

    rows = pnnx.layers(param.read_text(encoding="utf-8"))
    lacking = {row.type for row in rows if ncnn.layer_to_index(row.type) < 0}
    if nodes := pnnx.behind(lacking, rows, model):
        raise ExportError(f"ncnn has no layer for {', '.join(nodes[:5])}, and {pnnx.version()} wrote it all the same")
    net = ncnn.Net()
    with silenced() as said:  # ncnn has no exceptions: it prints, and gives a code
        right = net.load_param(str(param)) == 0 and net.load_model(str(weights)) == 0
        why = one_line(said())
    if not right:
        raise ExportError(f"ncnn does not load what {pnnx.version()} wrote: {why[-400:] or 'it gave no reason'}")
    for kind, names in (("inputs", net.input_names()), ("outputs", net.output_names())):
        if len(names) != len(found[kind]):
            wanted = ", ".join(port["name"] for port in found[kind])
            raise ExportError(f"ncnn: expected {kind} {wanted}, got {len(names)} of them from {pnnx.version()}")


def layout(
    inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...], sizes: dict[str, int], script: str
) -> dict[str, Any]:
    """Say of each input and output its name, shape and batch, in the order in which ncnn numbers them.

    Raises:
        ExportError: pnnx says nothing of one, or takes for a batch what is none; or an input is too large in rank.
    """
    given, taken = pnnx.batches(script)
    found: dict[str, Any] = {"inputs": [], "outputs": []}
    for kind, ports, axes in (("inputs", inputs, given), ("outputs", outputs, taken)):
        for index, port in enumerate(ports):
            # Of an output a size may be what others make of it, such as h/2; of an input it never is.
            named = [sizes.get(str(size), size) for size in port.shape]
            shape = [size if isinstance(size, int) else None for size in named]
            if index not in axes:
                raise ExportError(f"{pnnx.version()} dropped {kind[:-1]} {port.name}: it is none of the file's")
            axis = axes[index]
            if axis is not None and (axis >= len(shape) or shape[axis] not in (1, None)):
                raise ExportError(f"{pnnx.version()} takes axis {axis} of {port.name}, {shape}, for a batch of one")
            found[kind].append({"name": port.name, "dtype": port.dtype, "shape": shape, "batch": axis})
    return found
