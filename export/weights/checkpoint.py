"""Load weights from files and make their names fit.

Files are read without running code from them: safetensors, or ``torch.load(weights_only=True)``. What was read goes
through ``state_dict`` (which part of the file), ``sources`` (whose names they are) and ``fit`` (into the module).
"""

from __future__ import annotations

from pathlib import Path

from torch import nn

from attn_export.export.weights import fit, implementations, state_dict, weights_file
from attn_export.export.weights.state_dict import State, Taken
from attn_export.mechanisms.spec import Spec
from attn_export.untrusted import files, text


def take(path: Path, key: str | None = None) -> Taken:
    """Read the weights of a file: the part ``key`` of it, or the one that trainers' habits point to.

    Raises:
        CheckpointError: as ``read``, or there is no such part.
    """
    taken = state_dict.take(weights_file.read(path), path, key)
    weights_file.check(taken.state, path, path.stat().st_size)
    return taken


def read(path: Path) -> State:
    """Read a state dict, unwrapped from what trainers put around it (``state_dict``, ``model``, ``module.`` …).

    Raises:
        CheckpointError: the file is missing, damaged, needs code to be run, or holds no tensors.
    """
    state = unwrap(weights_file.read(path), path)
    weights_file.check(state, path, path.stat().st_size)
    return state


def unwrap(loaded: object, source: Path | str) -> State:
    """Find the state dict inside what a trainer saved, and strip the prefixes that wrappers put on every name.

    Without a module to compare with, only these are known; ``sources.choose`` takes off any that makes names fit.

    Raises:
        CheckpointError: there are no tensors in it.

    >>> import torch
    >>> list(unwrap({"epoch": 3, "state_dict": {"module.fc.weight": torch.zeros(1)}}, "x"))
    ['fc.weight']
    """
    state = state_dict.take(loaded, source).state
    for prefix in ("module.", "_orig_mod.", "model."):
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def rename(state: State, spec: Spec) -> State:
    """Bring External-Attention-pytorch's names and layouts to ours by the entry's key map."""
    return implementations.rename(state, spec)


def load(module: nn.Module, state: State, *, spec: Spec | None = None, strict: bool = True) -> tuple[str, ...]:
    """Copy ``state`` into a module that is built already: names of our own and, with a ``spec``, of the original fit.

    Whether the module computes what the names meant was settled when it was built (``catalogue.from_spec``).

    Returns:
        The names that were left alone, with ``strict=False``.

    Raises:
        CheckpointError: as ``fit.fill``.
    """
    return fit.fill(module, state, spec=spec, strict=strict).left


def into(module: nn.Module, path: Path, key: str | None = None, *, strict: bool = True) -> str:
    """Load a file into a network of the user's, and say in words what was loaded and how.

    Raises:
        CheckpointError: it cannot be read, or does not fit.
    """
    taken = take(path, key)
    chosen = implementations.choose("", None, taken.state, module.state_dict().keys())
    return origin(path, taken, chosen, fit.fill(module, chosen.state, strict=strict))


def origin(path: Path, taken: Taken, chosen: implementations.Chosen, filled: fit.Filled) -> str:
    """Where weights came from: the file with its hash, the part of it, whose names, what was cast and left alone."""
    name = text.one_line(path.name)
    said = (f"{name} sha256 {files.sha256(path)}", taken.said, *chosen.said, *filled.said)
    return ", ".join(part for part in said if part)
