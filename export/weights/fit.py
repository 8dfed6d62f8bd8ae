"""Put a state dict into a module: names, shapes and element types, and how much of the module it fills."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attn_export.errors import CheckpointError
from attn_export.export.weights import implementations
from attn_export.export.weights.state_dict import State, tensors
from attn_export.mechanisms.spec import Source, Spec
from attn_export.untrusted import text


@dataclass(frozen=True)
class Filled:
    """What was put in.

    Attributes:
        left: names of either side that found no partner.
        tensors: how many of the module's were filled, and how many there are.
        numbers: the same, counted in numbers.
        cast: how many tensors had another floating type, by its name.
    """

    left: tuple[str, ...]
    tensors: tuple[int, int]
    numbers: tuple[int, int]
    cast: Mapping[str, int]

    @property
    def said(self) -> tuple[str, ...]:
        """What the user should read."""
        found = [f"{count} tensors cast from {kind}" for kind, count in self.cast.items()]
        if self.left:
            share = self.numbers[0] / self.numbers[1]
            found += [
                f"{self.tensors[0]} of {self.tensors[1]} tensors matched ({share:.3g} of {self.numbers[1]:,} numbers)",
                f"{len(self.left)} names left alone",
            ]
        return tuple(found)


def fill(
    module: nn.Module, state: State, *, spec: Spec | None = None, source: Source | None = None, strict: bool = True
) -> Filled:
    """Copy ``state`` into ``module``; names of our own and, with a ``spec``, of the source both fit.

    A Linear weight fits a 1×1 convolution (and the other way round): trailing axes of length one do not count.

    Raises:
        CheckpointError: no name fits; names are missing or unexpected (``strict=False`` goes on); shapes differ; or
            an element type would have to be guessed at.
    """
    own = tensors(module.state_dict())
    state = implementations.ours(state, spec, own.keys(), source)
    # The count of batches seen plays no part in inference, and old checkpoints lack it.
    expected = {name: value for name, value in own.items() if not _count(name)}
    given = {name: value for name, value in state.items() if not _count(name)}
    both = expected.keys() & given.keys()
    missing, unexpected = sorted(expected.keys() - both), sorted(given.keys() - both)
    if not both and (expected or given):
        raise CheckpointError(
            f"none of the {len(given)} tensors of the weights has a name of the module's {len(expected)}:"
            f" they are called {_listed(unexpected)}, the module's {_listed(missing)}; give the weights of this"
            " network, or choose another part of the file with --weights-key"
        )
    if strict and (missing or unexpected):
        raise CheckpointError(
            f"the weights do not fit the module: missing {_listed(missing)}; unexpected {_listed(unexpected)};"
            " --no-strict goes on without them"
        )
    fitted = {name: state[name] for name in own.keys() & state.keys()}
    _check_kinds(own, fitted)
    _check_shapes(own, fitted)
    _check_numbers(fitted, {name for name, _ in module.named_parameters()})
    try:
        module.load_state_dict({name: v.reshape(own[name].shape) for name, v in fitted.items()}, strict=False)
    except (RuntimeError, ValueError, LookupError) as error:  # a module may read its state in its own way
        raise CheckpointError(text.one_line(f"the module does not take these weights: {error}")) from error
    return Filled(
        (*missing, *unexpected),
        (len(both), len(expected)),
        (sum(expected[name].numel() for name in both), sum(value.numel() for value in expected.values())),
        Counter(_kind(given[name]) for name in both if _is_cast(given[name], expected[name])),
    )


def _check_kinds(own: State, fitted: State) -> None:
    """Floats of any width are cast to floats; whatever else differs in kind would be a guess."""
    wrong = []
    for name, value in fitted.items():
        plain = value.layout == torch.strided and not value.is_quantized and not value.is_meta
        same = value.dtype == own[name].dtype or (_floats(value) and _floats(own[name]))
        if not plain or not (same or _count(name)):
            wrong.append(f"{name} ({_kind(value)}, the module's is {_kind(own[name])})")
        elif (
            value.dtype != own[name].dtype and value.isfinite().all() and not value.to(own[name].dtype).isfinite().all()
        ):
            raise CheckpointError(text.one_line(f"{name} has numbers that {_kind(own[name])} cannot hold"))
    if wrong:
        raise CheckpointError(
            f"expected numbers of the module's kind, got {_listed(sorted(wrong))}; quantised, complex and boolean"
            " weights mean something that their numbers do not say: save them as float32"
        )


def _check_shapes(own: State, fitted: State) -> None:
    wrong = [
        f"{name}: module {tuple(own[name].shape)}, checkpoint {tuple(value.shape)}"
        for name, value in fitted.items()
        if _squeezed(value.shape) != _squeezed(own[name].shape)
    ]
    if wrong:
        raise CheckpointError(
            text.one_line("shapes differ: " + "; ".join(sorted(wrong)[:8]) + ("; …" if len(wrong) > 8 else ""))
        )


def _check_numbers(fitted: State, parameters: set[str]) -> None:
    """Refuse NaN anywhere, and infinity in parameters; a buffer may be a mask of infinities."""
    bad = sorted(
        name
        for name, value in fitted.items()
        if (_floats(value) or value.is_complex())
        and not (value.isfinite() if name in parameters else ~value.isnan()).all()
    )
    if bad:
        raise CheckpointError(
            f"expected finite weights, got NaN or infinity in {_listed(bad)}: nothing can be proven of such a network;"
            " take a checkpoint from before the training diverged"
        )


def _is_cast(given: Tensor, expected: Tensor) -> bool:
    return given.dtype != expected.dtype and _floats(expected)


def _floats(value: Tensor) -> bool:
    return value.dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def _kind(value: Tensor) -> str:
    layout = "" if value.layout == torch.strided else f" {value.layout}".replace("torch.", "")
    return str(value.dtype).removeprefix("torch.") + layout


def _count(name: str) -> bool:
    return name.endswith("num_batches_tracked")


def _squeezed(shape: torch.Size) -> tuple[int, ...]:
    sizes = list(shape)
    while sizes and sizes[-1] == 1:
        sizes.pop()
    return tuple(sizes)


def _listed(names: list[str]) -> str:
    if not names:
        return "none"
    return text.one_line(f"{len(names)} ({', '.join(names[:12])}{', …' if len(names) > 12 else ''})")
