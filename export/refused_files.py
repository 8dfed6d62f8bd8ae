"""Files that hold a model, and are none that can be read here without running what is in them: what to do instead."""

from __future__ import annotations

from pathlib import PurePath

_PICKLED = (
    "holds weights, a pickled module or TorchScript; a module in it could only be had by running code from it, which is"
    " not done: name the class, attn-export file.py:Class --input … --weights {file}"
)
#: By ending, what a file is and the way out.
_FILES = {
    ".pt2": "is an archive of torch.export, and PyTorch reads it by pickle, which runs whatever code is in it; if you"
    " trust it, write a function that gives it, def net(): return torch.export.load({file!r}), into net.py, and type"
    " attn-export net.py:net --input …",
    **dict.fromkeys((".pt", ".pth", ".ckpt", ".bin", ".pkl", ".torchscript", ".ts"), _PICKLED),
    ".safetensors": "holds weights alone: name the class, attn-export file.py:Class --input … --weights {file}",
    **dict.fromkeys(
        (
            ".tflite",
            ".h5",
            ".keras",
            ".pb",
            ".pdmodel",
            ".mlmodel",
            ".mlpackage",
            ".ort",
            ".engine",
            ".pte",
            ".caffemodel",
        ),
        "is of another framework: convert it to ONNX with that one's own tool, and type attn-export FILE.onnx",
    ),
}


def refusal(text: str) -> str:
    """Say why a file is not taken, and what to type instead; nothing where it may be."""
    file = text.rpartition(":")[0] or text
    why = _FILES.get(PurePath(file).suffix.lower(), "")
    return f"{file} {why.format(file=file)}" if why else ""
