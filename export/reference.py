"""The float64 reference of a subject, its cases, and how much correct float32 runs differ from it."""

from __future__ import annotations

import contextlib
import copy
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from attn_export.bundle import Case
from attn_export.errors import SubjectError
from attn_export.export.subject import Subject
from attn_export.process import activity
from attn_export.process.guest import guest
from attn_export.types import Dim

SCALES = (0.05, 8.0)
BATCHES = (1, 3, 4)
MOVES = (1, -1, 3)


def plan(subject: Subject, seed: int = 0) -> list[tuple[str, int, float, dict[str, int]]]:
    """Choose the cases: name, seed, scale and sizes of each.

    The first is the one that latency is measured on, with a batch of one where that may vary. Then the traced
    sizes, two other scales, and for the batch and for the other dynamic dimensions three sizes each that the
    exporter has not seen.
    """
    free = {dim.name: dim for dim in subject.dynamic}
    batches = [size for size in BATCHES if "b" in free and free["b"].admits(size) and size != subject.sizes["b"]]
    single = {"b": 1} if 1 in batches else {}
    rows: list[tuple[str, float, dict[str, int]]] = [("b=1", 1.0, single)] if single else []
    rows.append(("as traced", 1.0, {}))
    if any(item.dtype == "float32" for item in subject.inputs):
        rows += [(f"scale {scale:g}", scale, single) for scale in SCALES]
    rows += [(f"b={size}", 1.0, {"b": size}) for size in batches if size != 1]
    spatial = [dim for name, dim in free.items() if name != "b"]
    for steps in MOVES if spatial else ():
        # Each dimension moves by a different amount, so that a height taken for a width shows.
        sizes = {dim.name: _moved(dim, subject.sizes[dim.name], steps, by) for by, dim in enumerate(spatial)}
        rows.append((", ".join(f"{name}={size}" for name, size in sizes.items()), 1.0, single | sizes))
    return [(name, seed + index, scale, sizes) for index, (name, scale, sizes) in enumerate(rows)]


def _moved(dim: Dim, traced: int, steps: int, by: int) -> int:
    """Move the traced size by some steps, and one more for each dimension before this one; else the other way."""
    far = steps + (by if steps > 0 else -by)
    candidates = [traced + n * dim.step for n in (far, steps, -steps, -far, 2 * abs(far))]
    return next((size for size in candidates if dim.admits(size) and size > 1), traced)


def cases(subject: Subject, seed: int = 0) -> tuple[Case, ...]:
    """Evaluate the subject on its cases: the float64 reference, and the largest float32 error over PyTorch's variants.

    Raises:
        SubjectError: the module does not run on its own inputs.
    """
    planned = plan(subject, seed)
    return on(subject, ((name, subject.example(seed=n, scale=scale, sizes=sizes)) for name, n, scale, sizes in planned))


def on(subject: Subject, feeds: Iterable[tuple[str, Mapping[str, Tensor]]]) -> tuple[Case, ...]:
    """Evaluate the subject on inputs by name of the case, such as a user's own data.

    Raises:
        SubjectError: the module does not run on them.
    """
    exact = copy.deepcopy(subject.module).double()
    single = copy.deepcopy(subject.module)
    result = []
    for name, inputs in feeds:
        activity.alive()
        reference = evaluate(exact, {k: v.double() if v.is_floating_point() else v for k, v in inputs.items()})
        float32_error = dict.fromkeys(reference, 0.0)
        for variant in (_plain, _without_onednn, _channels_last):
            with variant(single, inputs) as (module, turned):
                outputs = evaluate(module, turned)
            for key, value in outputs.items():
                error = float(torch.linalg.vector_norm(value.double() - reference[key]))
                if math.isfinite(error):
                    float32_error[key] = max(float32_error[key], error)
        result.append(
            Case(
                name,
                {k: v.numpy() for k, v in inputs.items()},
                {k: v.contiguous().numpy() for k, v in reference.items()},
                float32_error,
            )
        )
    return tuple(result)


def evaluate(module: nn.Module, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Run a module without gradients; its outputs by name.

    Raises:
        SubjectError: it does not run.
    """
    shapes = ", ".join(f"{k}:{'x'.join(map(str, v.shape))}" for k, v in inputs.items())
    with guest(f"{type(module).__name__} does not run on {shapes}"), torch.no_grad():
        return flatten(module(*inputs.values()), inputs)


class GraphOutputs(dict[str, Tensor]):
    """Outputs that have names of their own, which are kept."""


def flatten(outputs: object, inputs: Iterable[str]) -> dict[str, Tensor]:
    """Name the outputs: ``y``, or ``y0``, ``y1`` … where there are several; ``out`` where an input is called ``y``.

    Raises:
        SubjectError: an output is no tensor.
    """
    if isinstance(outputs, GraphOutputs):
        return dict(outputs)
    items = _leaves(outputs)
    if not items:
        raise SubjectError("expected forward to give a tensor, or a tuple or dict of tensors; got none")
    stem = "out" if any(re.fullmatch(r"y\d*", name) for name in inputs) else "y"
    return {stem if len(items) == 1 else f"{stem}{i}": item for i, item in enumerate(items)}


def _leaves(value: object) -> list[Tensor]:
    match value:
        case Tensor():
            return [value]
        case tuple() | list():
            return [leaf for item in value for leaf in _leaves(item)]
        case Mapping():
            return [leaf for item in value.values() for leaf in _leaves(item)]
        case _:
            raise SubjectError(
                f"expected forward to give tensors in tuples, lists or dicts; got a {type(value).__name__}"
            )


@contextlib.contextmanager
def _plain(module: nn.Module, inputs: Mapping[str, Tensor]) -> Iterator[tuple[nn.Module, Mapping[str, Tensor]]]:
    yield module, inputs


@contextlib.contextmanager
def _without_onednn(
    module: nn.Module, inputs: Mapping[str, Tensor]
) -> Iterator[tuple[nn.Module, Mapping[str, Tensor]]]:
    # Not the context manager ``flags``: it also sets the TF32 switch, which warns on machines without it.
    backend: Any = torch.backends.mkldnn
    before, backend.enabled = backend.enabled, False
    try:
        yield module, inputs
    finally:
        backend.enabled = before


@contextlib.contextmanager
def _channels_last(module: nn.Module, inputs: Mapping[str, Tensor]) -> Iterator[tuple[nn.Module, Mapping[str, Tensor]]]:
    turned = {k: _laid_out(v, torch.channels_last) for k, v in inputs.items()}
    try:
        # Not ``module.to(memory_format=...)``, which stumbles over parameters of rank 5.
        for parameter in module.parameters():
            parameter.data = _laid_out(parameter.data, torch.channels_last)
        yield module, turned
    finally:
        for parameter in module.parameters():
            parameter.data = _laid_out(parameter.data, torch.contiguous_format)


def _laid_out(value: Tensor, layout: torch.memory_format) -> Tensor:
    return value.contiguous(memory_format=layout) if value.ndim == 4 else value
