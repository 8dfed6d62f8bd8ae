"""Load weights from files and make their names fit.

Files are read without running code from them: safetensors, or ``torch.load(weights_only=True)``.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from attn_export.errors import CheckpointError
from attn_export.mechanisms import weights_file
from attn_export.mechanisms.spec import Spec

State = dict[str, Tensor]

_WRAPPERS = ("state_dict", "model", "model_ema", "state_dict_ema", "model_state", "net", "params")
_PREFIXES = ("module.", "_orig_mod.", "model.")
#: Wrappers around each other that are taken off.
_DEEPEST = 16


def read(path: Path) -> State:
    """Read a state dict, unwrapped from what trainers put around it (``state_dict``, ``model``, ``module.`` …).

    Raises:
        CheckpointError: the file is missing, damaged, needs code to be run, or holds no tensors.
    """
    state = unwrap(weights_file.read(path), path)
    weights_file.check(state, path, path.stat().st_size)
    return state


def unwrap(loaded: object, source: Path | str) -> State:
    """Find the state dict inside what a trainer saved, and strip prefixes that every key carries.

    Raises:
        CheckpointError: there are no tensors in it.

    >>> list(unwrap({"epoch": 3, "state_dict": {"module.fc.weight": torch.zeros(1)}}, "x"))
    ['fc.weight']
    """
    for _ in range(_DEEPEST):  # a mapping may hold itself
        inner = (
            next((loaded[k] for k in _WRAPPERS if isinstance(loaded.get(k), Mapping)), None)
            if isinstance(loaded, Mapping)
            else None
        )
        if inner is None:
            break
        loaded = inner
    else:
        raise CheckpointError(f"{source} wraps its weights {_DEEPEST} times or more; save a plain state dict")
    if not isinstance(loaded, Mapping):
        raise CheckpointError(f"{source} holds a {type(loaded).__name__}; wanted a mapping of names to tensors")
    state = {name: value for name, value in loaded.items() if isinstance(name, str) and isinstance(value, Tensor)}
    if not state:
        keys = [key[:80] if isinstance(key, str) else f"a {type(key).__name__}" for key in list(loaded)[:8]]
        raise CheckpointError(f"{source} holds no tensors; its keys: {', '.join(keys) or 'none'}")
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def rename(state: State, spec: Spec) -> State:
    """Bring External-Attention-pytorch's names and layouts to ours by the entry's key map."""
    if spec.convert:
        try:
            state = spec.convert(state)
        except (KeyError, IndexError, ValueError, TypeError, RuntimeError) as error:
            raise CheckpointError(f"the weights are not laid out as the original's are: {error}") from error
    renamed: State = {}
    for name, value in state.items():
        target: str | None = name
        for pattern, replacement in spec.checkpoint.items():
            if target is not None and re.search(pattern, target):
                target = None if replacement is None else re.sub(pattern, replacement, target)
        if target is not None:
            renamed[target] = value
    return renamed


def load(module: nn.Module, state: State, *, spec: Spec | None = None, strict: bool = True) -> tuple[str, ...]:
    """Copy ``state`` into ``module``; names of our own and, with a ``spec``, of the original both fit.

    A Linear weight fits a 1×1 convolution (and the other way round): trailing axes of length one do not count.

    Returns:
        The names that were left alone, with ``strict=False``.

    Raises:
        CheckpointError: names are missing or unexpected (listed; ``strict=False`` goes on unless no name fits), shapes
            or kinds of numbers differ, or there are numbers that are none.
    """
    own = module.state_dict()
    if spec is not None and not state.keys() <= own.keys():
        state = rename(state, spec)
    # The count of batches seen plays no part in inference, and old checkpoints lack it.
    counts = {name for name in own if name.endswith("num_batches_tracked")}
    missing = sorted(own.keys() - state.keys() - counts)
    unexpected = sorted(name for name in state.keys() - own.keys() if not name.endswith("num_batches_tracked"))
    if strict and (missing or unexpected):
        raise CheckpointError(
            f"the weights do not fit the module: missing {_listed(missing)}; unexpected {_listed(unexpected)};"
            " --no-strict goes on without them"
        )
    if own.keys() - counts and not own.keys() & state.keys() - counts:
        raise CheckpointError(
            f"no name of the weights fits the module, which would stay as it was made: it has {_listed(sorted(own))};"
            f" the weights have {_listed(sorted(state))}"
        )
    fitted: State = {}
    wrong = []
    for name in own.keys() & state.keys():
        if _kind(state[name]) != _kind(own[name]):
            wrong.append(f"{name}: module {own[name].dtype}, checkpoint {state[name].dtype}")
        elif _squeezed(state[name].shape) == _squeezed(own[name].shape):
            fitted[name] = state[name].reshape(own[name].shape)
        else:
            wrong.append(f"{name}: module {tuple(own[name].shape)}, checkpoint {tuple(state[name].shape)}")
    if wrong:
        raise CheckpointError(
            "shapes or types differ: " + "; ".join(sorted(wrong)[:8]) + ("; …" if len(wrong) > 8 else "")
        )
    if bad := _no_numbers(fitted, {name for name, _ in module.named_parameters()}):
        raise CheckpointError(
            f"expected finite weights, got NaN or infinity in {_listed(bad)}: nothing can be proven of such a network;"
            " take a checkpoint from before the training diverged"
        )
    module.load_state_dict(fitted, strict=False)
    return (*missing, *unexpected)


def sha256(path: Path) -> str:
    """Hash of a file's content, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _kind(value: Tensor) -> str:
    """Kinds of numbers that do not stand for each other: an int8 weight lacks its scale, a complex one has more."""
    return "complex" if value.is_complex() else "floating" if value.is_floating_point() else "whole"


def _no_numbers(state: State, parameters: set[str]) -> list[str]:
    """Tensors with NaN, and parameters with infinity; a buffer may be a mask of infinities."""
    floats = {name: value for name, value in state.items() if value.is_floating_point() or value.is_complex()}
    return sorted(
        name
        for name, value in floats.items()
        if not bool(torch.isfinite(_wide(value)).all())
        and (name in parameters or bool(torch.isnan(_wide(value)).any()))
    )


def _wide(value: Tensor) -> Tensor:
    return value.float() if value.element_size() == 1 else value  # eight bits can hardly do anything


def _squeezed(shape: torch.Size) -> tuple[int, ...]:
    sizes = list(shape)
    while sizes and sizes[-1] == 1:
        sizes.pop()
    return tuple(sizes)


def _listed(names: list[str]) -> str:
    if not names:
        return "none"
    return f"{len(names)} ({', '.join(names[:12])}{', …' if len(names) > 12 else ''})"
