"""``fuse`` on a PyTorch network: a fused module, written as a checkpoint or as a program that PyTorch opens itself.

Parameters that survive keep their names; a collapsed place ``p`` has ``p.fused.weight`` and ``p.fused.bias``.
"""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from attn_export.errors import UsageError, WriteError
from attn_export.export.binding import bound
from attn_export.export.onnx.torch_export import free
from attn_export.export.subject import Subject
from attn_export.pipeline.options import BuildOptions
from attn_export.reparam.fuse_torch import fuse_module
from attn_export.reparam.proof.end_to_end_torch import Call
from attn_export.tools.commands import output as places
from attn_export.tools.commands.graphs import certified, told

Writer = Callable[[nn.Module, Call, Any, Path], None]


def fuse(subject: Subject, output: Path, asked: BuildOptions, *, as_json: bool) -> None:
    """Collapse what pays in a network; write the result only with its certificate.

    Raises:
        FusionError: neither it nor a part of it can be traced.
        GateError: its certificate does not hold.
        WriteError: the file cannot be written, or is of another kind.
    """
    write, place = writer(output), places.file(output, _is_ours, "a network that this command has written")
    call = Call(*bound(subject.module, subject.example()))
    dynamic = free(subject)
    fusion = fuse_module(
        subject.module,
        call.args,
        keywords=call.keywords,
        dynamic=dynamic,
        fuse_cost=asked.fuse_cost,
        keep_branches=asked.keep_branches,
        border_maps=asked.border_maps,
        quantization_error=asked.weight_error,
    )
    certified(fusion, subject.name, asked)
    try:
        with tempfile.TemporaryDirectory(prefix=f".{place.name}.", dir=place.parent) as scratch:
            made = Path(scratch) / place.name
            write(fusion.model, call, dynamic, made)
            made.replace(place)
    except OSError as error:
        raise WriteError(f"cannot write {output}: {error.strerror or error}") from error
    told(fusion, output, asked, as_json=as_json)


def writer(output: Path) -> Writer:
    """Choose how to write by the file's name.

    Raises:
        UsageError: no network is written under such a name.
    """
    try:
        return _WRITERS[output.suffix]
    except KeyError:
        raise UsageError(
            f"expected -o NAME.safetensors (the weights of the fused network) or -o NAME.pt2 (the network itself), got"
            f" {output}; an ONNX file comes from the main job with --fuse"
        ) from None


def _weights(module: nn.Module, _example: Call, _dynamic: Any, place: Path) -> None:
    state = {name: value.contiguous().clone() for name, value in module.state_dict().items()}
    save_file(state, place, metadata=_MARK)


def _program(module: nn.Module, example: Call, dynamic: Any, place: Path) -> None:
    traced = torch.export.export(module, example.args, dict(example.keywords), dynamic_shapes=dynamic)
    torch.export.save(traced, place, extra_files=_MARK)


def _is_ours(place: Path) -> bool:
    """Whether an earlier run of this command wrote a file: nobody's own checkpoint is written over."""
    if zipfile.is_zipfile(place):
        with zipfile.ZipFile(place) as archive:
            return any(name.endswith(f"extra/{next(iter(_MARK))}") for name in archive.namelist())
    try:
        with safe_open(place, "pt") as held:
            return (held.metadata() or {}).items() >= _MARK.items()
    except (SafetensorError, OSError):
        return False


_MARK = {"made_by": "attn-export fuse"}
_WRITERS: dict[str, Writer] = {".safetensors": _weights, ".pt2": _program}
