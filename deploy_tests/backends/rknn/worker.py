"""The process that rknn-toolkit2 compiles in, and simulates: in its own environment, with what we need of ours.

    …/environments/rknn-2.5.0-py3.11/bin/python -m attn_export.deploy_tests.backends.rknn.worker FOLDER

Which layer runs where stands in what it prints: see ``layers``.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from attn_export.deploy_tests.compiling import child, fixed_sizes
from attn_export.deploy_tests.refusal import Complaint, RefusedError
from attn_export.types import Feeds, JsonDict

MODEL, SIMULATED, DATASET = "model.rknn", "simulated.npz", "dataset.txt"
WHO = "Rockchip's rknn-toolkit2"
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
#: What a line of an error begins with; those of the compiler's core bear the time.
_ERROR = re.compile(r"^E (RKNN: \[[^\]]*\] )?")


def main(folder: Path) -> None:
    """Compile what ``folder`` asks for."""
    child.work(folder, build)


def build(folder: Path, request: JsonDict) -> JsonDict:
    """Compile, and run what is to be simulated.

    Raises:
        RefusedError: the sizes stay open, or rknn-toolkit2 says no.
    """
    import onnxruntime as ort
    from rknn.api import RKNN

    model, feeds = Path(request["model"]), child.load(folder / child.FEEDS)
    sizes, _ = fixed_sizes.fixed(ort, model, request["shapes"], WHO)
    count, quantized = request["calibration"], request["precision"] == "int8"
    dataset = _dataset(folder, sizes, feeds[:count]) if quantized else None
    maker = RKNN(verbose=True)
    try:
        step("start", model, folder, lambda: maker.config(target_platform=request["chip"]))
        ports = {"inputs": list(sizes), "input_size_list": list(sizes.values())}
        step("parse", model, folder, lambda: maker.load_onnx(model=str(model), **ports))
        step("build", model, folder, lambda: maker.build(do_quantization=quantized, dataset=dataset))
        step("build", model, folder, lambda: maker.export_rknn(str(folder / MODEL)))
        outputs = [output.name for output in ort.InferenceSession(str(model)).get_outputs()]
        simulated, warnings = _simulate(maker, list(sizes), outputs, feeds[count:])
    finally:
        maker.release()
    child.save(folder / SIMULATED, simulated)
    return {"sizes": sizes, "warnings": warnings}


def step(stage: str, model: Path, folder: Path, work: Callable[[], object]) -> None:
    """Do one step; what it raises, or another result than 0, is a refusal.

    Raises:
        RefusedError: that.
    """
    try:
        result = work()
    except Exception as error:  # it raises a class for each of its parts
        lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        complaints = _complaints(folder) or [Complaint("", "", lines[-1].strip())]
        raise RefusedError(f"{WHO} refuses {model}", stage, complaints) from error
    if isinstance(result, int) and result != 0:
        complaints = _complaints(folder) or [Complaint("", "", f"it gave {result}, and no reason")]
        raise RefusedError(f"{WHO} refuses {model}", stage, complaints)


def _complaints(folder: Path) -> list[Complaint]:
    """Read what it printed as errors, each once."""
    sys.stdout.flush()
    sys.stderr.flush()
    return [Complaint("", "", text) for text in errors(child.said(folder))[:3]]


def errors(said: str) -> list[str]:
    r"""Find the errors in what it printed, each once; of a traceback what was raised.

    >>> errors("\x1b[1;31mE\x1b[0m \x1b[1;31mbuild: rv1106 cannot\x1b[0m\nI done\nE rknn-toolkit2 version: 2.5.0")
    ['build: rv1106 cannot']
    >>> errors("E build: Traceback (most recent call last):\n  File 'a.py', line 3\nKeyError: 'n'\nW more")
    ["KeyError: 'n'"]
    """
    found = list[str]()
    raised = False
    for line in _COLOUR.sub("", said).splitlines():
        if _ERROR.match(line):
            text = _ERROR.sub("", line).strip()
            raised = "Traceback (" in text
            if not raised and text and not text.startswith(("=", "rknn-toolkit2 version")):
                found.append(text)
        elif raised and line.strip() and not line.startswith(" "):
            found.append(line.strip())
            raised = False
    return list(dict.fromkeys(found))


def _dataset(folder: Path, sizes: Mapping[str, Sequence[int]], feeds: Sequence[Feeds]) -> str:
    """Write the inputs for the ranges: files by line, one for each input of the model."""
    lines = []
    for row, one in enumerate(feeds):
        names = [f"calibration-{row}-{i}.npy" for i in range(len(one))]
        for name, port in zip(names, sizes, strict=True):
            np.save(folder / name, one[port])
        lines.append(" ".join(names))
    (folder / DATASET).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return DATASET


def _simulate(
    maker: Any, inputs: Sequence[str], outputs: Sequence[str], feeds: Sequence[Feeds]
) -> tuple[list[dict[str, Any]], list[str]]:
    """Run on the simulator what is to be run; a build stays one where the simulator breaks, and that is a warning."""
    if not feeds:
        return [], []
    try:
        maker.init_runtime()  # without a target: the simulator
        came = [
            maker.inference(inputs=[one[name] for name in inputs], data_format=["nchw"] * len(inputs)) for one in feeds
        ]
    except Exception as error:  # it raises a class for each of its parts
        lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        return [], [f"the simulator broke: {lines[-1].strip()}"]
    return [dict(zip(outputs, one or [], strict=False)) for one in came], []


if __name__ == "__main__":
    main(Path(sys.argv[1]))
