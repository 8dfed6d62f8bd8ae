"""Load weights from files and make their names fit.

Files are read without running code from them: safetensors, or ``torch.load(weights_only=True)``.
"""

from __future__ import annotations

import hashlib
import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from attn_export.errors import CheckpointError
from attn_export.mechanisms.spec import Spec

State = dict[str, Tensor]

_WRAPPERS = ("state_dict", "model", "model_ema", "state_dict_ema", "model_state", "net", "params")
_PREFIXES = ("module.", "_orig_mod.", "model.")


def read(path: Path) -> State:
    """Read a state dict, unwrapped from what trainers put around it (``state_dict``, ``model``, ``module.`` …).

    Raises:
        CheckpointError: the file is missing, damaged, needs code to be run, or holds no tensors.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            loaded: object = load_file(path)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about pickle protocols; what cannot be read raises
                loaded = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"no checkpoint at {path}") from error
    except (pickle.UnpicklingError, RuntimeError, ValueError, EOFError, OSError, KeyError) as error:
        raise CheckpointError(
            f"{path} cannot be read as weights ({_first_line(error)}); save a plain state dict:"
            " safetensors.torch.save_file(model.state_dict(), 'net.safetensors')"
        ) from error
    except Exception as error:
        if type(error).__name__ == "SafetensorError":  # the library's own class has no public base
            raise CheckpointError(f"{path} is no safetensors file: {error}") from error
        raise
    return unwrap(loaded, path)


def unwrap(loaded: object, source: Path | str) -> State:
    """Find the state dict inside what a trainer saved, and strip prefixes that every key carries.

    Raises:
        CheckpointError: there are no tensors in it.

    >>> list(unwrap({"epoch": 3, "state_dict": {"module.fc.weight": torch.zeros(1)}}, "x"))
    ['fc.weight']
    """
    while isinstance(loaded, Mapping):
        inner = next((loaded[k] for k in _WRAPPERS if isinstance(loaded.get(k), Mapping)), None)
        if inner is None:
            break
        loaded = inner
    if not isinstance(loaded, Mapping):
        raise CheckpointError(f"{source} holds a {type(loaded).__name__}; wanted a mapping of names to tensors")
    state = {str(name): value for name, value in loaded.items() if isinstance(value, Tensor)}
    if not state:
        raise CheckpointError(f"{source} holds no tensors; its keys: {', '.join(map(str, list(loaded)[:8]))}")
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def rename(state: State, spec: Spec) -> State:
    """Bring External-Attention-pytorch's names and layouts to ours by the entry's key map."""
    if spec.convert:
        state = spec.convert(state)
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
        CheckpointError: names are missing or unexpected (listed; ``strict=False`` goes on), or shapes differ.
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
    fitted: State = {}
    wrong = []
    for name in own.keys() & state.keys():
        if _squeezed(state[name].shape) == _squeezed(own[name].shape):
            fitted[name] = state[name].reshape(own[name].shape)
        else:
            wrong.append(f"{name}: module {tuple(own[name].shape)}, checkpoint {tuple(state[name].shape)}")
    if wrong:
        raise CheckpointError("shapes differ: " + "; ".join(sorted(wrong)[:8]) + ("; …" if len(wrong) > 8 else ""))
    module.load_state_dict(fitted, strict=False)
    return (*missing, *unexpected)


def sha256(path: Path) -> str:
    """Hash of a file's content, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _squeezed(shape: torch.Size) -> tuple[int, ...]:
    sizes = list(shape)
    while sizes and sizes[-1] == 1:
        sizes.pop()
    return tuple(sizes)


def _listed(names: list[str]) -> str:
    if not names:
        return "none"
    return f"{len(names)} ({', '.join(names[:12])}{', …' if len(names) > 12 else ''})"


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n", 1)[0][:200] or type(error).__name__
