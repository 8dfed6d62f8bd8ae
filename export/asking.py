"""Write the ``--input`` options that a network needs, from what it says of itself: its signature, code and layers.

| what | where from |
|---|---|
| which inputs | parameters of ``forward`` without a default; numbers and texts are none |
| lists and dicts | the annotation, and the keys that ``forward`` looks up |
| sizes | what the first layer takes; the first of some sizes at which the network runs |
| types | the name: ``ids``, ``tokens``, ``mask`` |
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attn_export.errors import SubjectError
from attn_export.export.binding import needed, parameters
from attn_export.export.outputs import called

#: Sizes of images and lengths of rows that are tried, in turn.
SPACE, LENGTH = (224, 32, 64, 256, 28, 8, 16, 128, 384, 512, 640), 16
_ARTICLES = {int: "an int", float: "a float", bool: "a bool", str: "a text"}
_SCALARS = tuple(_ARTICLES)
_IDS = re.compile(r"(^|_)(ids?|tokens?|idx|ind(ex|ices)|labels?)\d*$")


@dataclass(frozen=True)
class _Guess:
    """A shape for a size of images, an element type, and its integers' end."""

    shape: Callable[[int], tuple[int, ...]]
    dtype: str = "float32"
    high: int = 2

    def text(self, name: str, space: int) -> str:
        kind = "" if self.dtype == "float32" else f":{self.dtype}"
        kind += f"[0,{self.high - 1}]" if self.dtype == "int64" else ""
        return f"--input {name}:{'x'.join(map(str, self.shape(space))) or '[]'}{kind}"

    def draw(self, space: int) -> Tensor:
        if self.dtype == "int64":
            return torch.zeros(self.shape(space), dtype=torch.int64)
        return torch.ones(self.shape(space)) > 0 if self.dtype == "bool" else torch.ones(self.shape(space))


_NUMBER = _Guess(lambda _: ())


def template(module: nn.Module, wanted: Sequence[str] = ()) -> str:
    """Say which options to add, with sizes at which the module runs where such can be found.

    Args:
        module: in evaluation mode.
        wanted: the parameters to write options for; all that are needed without any.
    """
    guesses = {place: _guess(module, place) for name in wanted or _tensors(module) for place in _places(module, name)}
    if not guesses:
        return "add for example --input 1x3x224x224"
    # What comes behind the first is often a number: a scale, a time step.
    first, *_ = guesses
    same = first.partition(".")[0]
    apart = {place: guess if place.partition(".")[0] == same else _NUMBER for place, guess in guesses.items()}
    numbers = {place: guess if place == first else _NUMBER for place, guess in guesses.items()}
    tries = ((both, size) for both in (guesses, apart, numbers) for size in SPACE) if not wanted else ()
    found = next(((both, size) for both, size in tries if _runs(module, both, size)), None)
    both, size = found or (guesses, SPACE[0])
    texts = " ".join(guess.text(place, size) for place, guess in both.items())
    return f"add, {'at which it runs' if found else 'with your sizes'}: {texts}{'' if wanted else _others(module)}"


def scalar(module: nn.Module, name: str) -> str:
    """Say what to do about a parameter that is no tensor by its annotation; nothing where it may be one."""
    kind = next((p.annotation for p in parameters(module) if p.name == name), None)
    if kind not in _SCALARS:
        return ""
    vary = f", or say --input {name}:[] for a number that varies" if kind in (int, float) else ""
    return f"it is {_ARTICLES[kind]}, and a graph takes tensors: give it a default in forward{vary}"


def _others(module: nn.Module) -> str:
    """Say what becomes of the parameters that are no inputs."""
    optional = [p.name for p in parameters(module) if p.default is not p.empty and p.name not in _tensors(module)]
    numbers = [f"{name}: {why}" for name in needed(module) if (why := scalar(module, name))]
    parts = [f"{', '.join(optional)} may be left out"] if optional else []
    return f" ({'; '.join((*parts, *numbers))})" if parts or numbers else ""


def _tensors(module: nn.Module) -> list[str]:
    """List the needed parameters that may be tensors; the first one where none is needed."""
    kinds = {p.name: p.annotation for p in parameters(module)}
    found = [name for name in needed(module) if kinds[name] not in _SCALARS]
    more = [p.name for p in parameters(module) if p.kind is p.VAR_KEYWORD and _keys(module, p.name)]
    return [*(found or [p.name for p in parameters(module) if p.kind is not p.VAR_KEYWORD][:1]), *more]


def _places(module: nn.Module, name: str) -> list[str]:
    """List the places in a parameter that ``forward`` looks up, or the parameter itself."""
    parameter, code = next(p for p in parameters(module) if p.name == name), _code(module)
    kind = str(parameter.annotation)
    if keys := _keys(module, name):
        return keys if parameter.kind is parameter.VAR_KEYWORD else [f"{name}.{key}" for key in keys]
    if parameter.kind is parameter.VAR_POSITIONAL:
        return [
            f"{name}{n}" for n in range(max((int(n) + 1 for n in re.findall(rf"\b{name}\[(\d+)\]", code)), default=1))
        ]
    if re.search(r"\b(list|List|tuple|Tuple|Sequence)\[", kind):
        counts = [int(n) + 1 for n in re.findall(rf"\b{name}\[(\d+)\]", code)]
        unpacked = re.search(rf"^\s*\(?((?:\w+\s*,\s*)+\w*)\)?\s*=\s*{name}\s*$", code, re.MULTILINE)
        counts += [len([n for n in unpacked[1].split(",") if n.strip()])] if unpacked else []
        counts += [kind.count("Tensor")] if re.search(r"[tT]uple\[", kind) and "..." not in kind else []
        return [f"{name}.{n}" for n in range(max(counts, default=2))]
    return [name]


def _keys(module: nn.Module, name: str) -> list[str]:
    """List the keys that ``forward`` looks up in a parameter."""
    return list(dict.fromkeys(re.findall(rf"\b{name}\[\s*['\"]([\w.]+)['\"]\s*\]", _code(module))))


def _code(module: nn.Module) -> str:
    try:
        return inspect.getsource(module.forward)
    except (OSError, TypeError):
        return ""


def _guess(module: nn.Module, place: str) -> _Guess:
    """Guess what one input is like: by its name, or by the first layer."""
    name = place.rpartition(".")[2]
    rows = next((part.num_embeddings for part in module.modules() if isinstance(part, nn.Embedding)), 0)
    if "mask" in name.lower():
        return _Guess(lambda _: (1, LENGTH), "bool")
    if _IDS.search(name.lower()):
        return _Guess(lambda _: (1, LENGTH), "int64", rows or 2)
    first = next(_taken(module.modules()), None)
    return first or _Guess(lambda size: (1, 3, size, size))


def _taken(layers: Iterable[nn.Module]) -> Iterator[_Guess]:
    """Say of each layer that has weights what it takes."""
    for layer in layers:
        if isinstance(layer, nn.modules.conv._ConvNd):
            yield _of_rank(layer.in_channels or 3, len(layer.kernel_size))
        elif isinstance(layer, nn.modules.batchnorm._BatchNorm | nn.GroupNorm | nn.modules.instancenorm._InstanceNorm):
            channels = layer.num_channels if isinstance(layer, nn.GroupNorm) else layer.num_features
            yield _of_rank(channels, 1 if "1d" in type(layer).__name__ else 2)
        elif isinstance(layer, nn.Embedding):
            yield _Guess(lambda _: (1, LENGTH), "int64", layer.num_embeddings)
        elif (width := _width(layer)) is not None:
            yield _Guess(lambda _, width=width: (1, LENGTH, width))  # type: ignore[misc]


def _of_rank(channels: int, rank: int) -> _Guess:
    return _Guess(lambda size: (1, channels, *(size,) * rank))


def _width(layer: nn.Module) -> int | None:
    """Give the length of the rows that a layer takes."""
    names: Mapping[type[nn.Module], str] = {
        nn.Linear: "in_features",
        nn.RNNBase: "input_size",
        nn.MultiheadAttention: "embed_dim",
    }
    found = next((getattr(layer, attribute) for kind, attribute in names.items() if isinstance(layer, kind)), None)
    return int(found) if found else None


def _runs(module: nn.Module, places: Mapping[str, _Guess], space: int) -> bool:
    try:
        called(module, {place: guess.draw(space) for place, guess in places.items()})
    except SubjectError:
        return False
    return True
