"""ncnn's format: ``.param`` holds the graph, ``.bin`` the weights, and ``.json`` what the two do not say.

That is what the model calls its inputs and outputs, their sizes, and which axis of each is the batch that ncnn does
not count. Sizes are fixed, the batch is one.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from attn_export.errors import ExportError
from attn_export.export.converters import Converted, Source
from attn_export.export.converters.ncnn import pnnx
from attn_export.export.onnx.save import save
from attn_export.process import children
from attn_export.types import TensorSpec
from attn_export.untrusted.text import one_line

#: Seconds that loading and one run may take.
LIMIT = 120.0


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
        """Let pnnx convert the ONNX model, and ncnn load and run what came."""
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
            save(source.exported.model, folder / "model.onnx")
            said = pnnx.run(folder, "model.onnx", pnnx.shapes(contract.inputs, sizes), half=half)
            param, weights = folder / "model.ncnn.param", folder / "model.ncnn.bin"
            script = folder / "model_ncnn.py"
            if not (param.is_file() and weights.is_file() and script.is_file()):
                raise ExportError(f"{pnnx.version()} wrote nothing: {'; '.join(pnnx.complaints(said))[-400:]}")
            found = layout(contract.inputs, contract.outputs, sizes, script.read_text(encoding="utf-8"))
            self._try(param, weights, found, source)
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

    def _try(self, param: Path, weights: Path, found: dict[str, Any], source: Source) -> None:
        words = (str(param), str(weights), json.dumps(found))
        try:
            done = children.run("attn_export.export.converters.ncnn.trial", *words, timeout=LIMIT)
        except subprocess.TimeoutExpired as error:
            raise ExportError(f"ncnn did not run the model within {LIMIT:g} s; convert a smaller one") from error
        if nodes := pnnx.unknown(done.stderr, param.read_text(encoding="utf-8"), source.exported.model):
            raise ExportError(f"ncnn has no layer for {', '.join(nodes[:5])}, and {pnnx.version()} wrote it all the same")
        lines = done.stdout.strip().splitlines()
        if done.returncode or not lines:
            raise ExportError(f"ncnn breaks on what {pnnx.version()} wrote: {children.ending(done.returncode, done.stderr)}")
        answer = json.loads(lines[-1])
        if not answer["loaded"] or any(answer["codes"]):
            raise ExportError(f"ncnn does not run what {pnnx.version()} wrote: {one_line(done.stderr)[-400:] or answer}")
        for kind in ("inputs", "outputs"):
            if len(answer[kind]) != len(found[kind]):
                names = [port["name"] for port in found[kind]]
                raise ExportError(f"ncnn: expected {kind} {', '.join(names)}, got {len(answer[kind])} of them")


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
            shape = [sizes.get(str(size), size) for size in port.shape]
            if index not in axes:
                raise ExportError(f"{pnnx.version()} dropped {kind[:-1]} {port.name}: it is none of the file's")
            axis = axes[index]
            if axis is not None and (axis >= len(shape) or shape[axis] != 1):
                raise ExportError(f"{pnnx.version()} takes axis {axis} of {port.name}, {shape}, for a batch of one")
            found[kind].append({"name": port.name, "dtype": port.dtype, "shape": shape, "batch": axis})
    return found
