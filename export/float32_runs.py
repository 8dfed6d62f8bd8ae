"""Correct float32 runs of one module: how far they stray from float64 is what every other correct run is granted.

| run | what differs |
|---|---|
| plain | PyTorch as it is |
| channels last | another layout, so another order of sums |
| without oneDNN | other kernels for convolutions and products, so another order again; coarse runs are so too |
| coarse functions | sigmoid, tanh, softmax and their kin as exact as runtimes have them, see ``transcendental`` |
| coarse functions, one way | the same, all of them too large |
| rounded | the weights and the input moved by as much as float32 rounds, see ``rounded_runs`` |

A run other than the plain one that does not work on a module is left out; the module is not to blame.
"""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from attn_export.errors import SubjectError
from attn_export.export.graph_module import GraphModule
from attn_export.export.outputs import evaluate
from attn_export.export.rounded_runs import RoundedRuns
from attn_export.reparam.evaluate.transcendental import Kind, Signs, Way, stray

Inputs = Mapping[str, Tensor]
Run = Callable[[nn.Module, Inputs], contextlib.AbstractContextManager[tuple[nn.Module, Inputs]]]

#: By PyTorch's operators, without the underscore of those that work in place.
_KINDS: Mapping[str, Kind] = {
    **dict.fromkeys(("sigmoid", "tanh", "erf", "sin", "cos", "elu", "hardsigmoid"), "range"),
    **dict.fromkeys(("_softmax", "_safe_softmax"), "row"),
    **dict.fromkeys(("silu", "gelu", "mish", "hardswish"), "input"),
    **dict.fromkeys(("softplus", "log", "_log_softmax", "log_sigmoid_forward"), "one"),
    "exp": "value",
}
#: Kernels that have such functions inside; the coarse run takes them apart.
_FUSED = re.compile("scaled_dot_product|rnn|lstm|gru|native_multi_head_attention|_transformer_encoder")


@contextlib.contextmanager
def without_onednn(module: nn.Module, inputs: Inputs) -> Iterator[tuple[nn.Module, Inputs]]:
    """Run it on PyTorch's own kernels."""
    # Not the context manager ``flags``: it also sets the TF32 switch, which warns on machines without it.
    backend: Any = torch.backends.mkldnn
    before, backend.enabled = backend.enabled, False
    try:
        yield module, inputs
    finally:
        backend.enabled = before


@contextlib.contextmanager
def channels_last(module: nn.Module, inputs: Inputs) -> Iterator[tuple[nn.Module, Inputs]]:
    """Run it with images and kernels laid out with their channels last."""
    turned = {k: _laid_out(v, torch.channels_last) for k, v in inputs.items()}
    try:
        # Not ``module.to(memory_format=...)``, which stumbles over parameters of rank 5.
        for parameter in module.parameters():
            parameter.data = _laid_out(parameter.data, torch.channels_last)
        yield module, turned
    finally:
        for parameter in module.parameters():
            parameter.data = _laid_out(parameter.data, torch.contiguous_format)


@contextlib.contextmanager
def coarse_functions(module: nn.Module, inputs: Inputs, way: Way = "either") -> Iterator[tuple[nn.Module, Inputs]]:
    """Run it with functions that are exact to 2⁻²³ of their range; fused kernels that hold some are taken apart."""
    if isinstance(module, GraphModule):
        with module.coarse(way):
            yield module, inputs
    else:
        with without_onednn(module, inputs), sdpa_kernel(SDPBackend.MATH), _Coarse(Signs(way)):
            yield module, inputs


#: By name, beside the plain run.
RUNS: Mapping[str, Run] = {
    "channels last": channels_last,
    "without oneDNN": without_onednn,
    "coarse functions": coarse_functions,
    "coarse functions, one way": functools.partial(coarse_functions, way="up"),
}
#: Those of modules that have such functions, and those of modules alone: a graph has no layout.
_COARSE, _MODULES = frozenset({"coarse functions", "coarse functions, one way"}), frozenset({"channels last"})
#: What the coarse runs of a module do besides: left to them where another order of sums has been seen already.
_REPEATED = "without oneDNN"


class Float32Runs:
    """The runs of one module, which is changed meanwhile; ``said`` is told, once, which of them do not work."""

    def __init__(self, module: nn.Module, said: Callable[[str], None]) -> None:
        self._module, self._said = module, said
        self.rounded = RoundedRuns(module)
        graph = isinstance(module, GraphModule)
        self._left = {name: run for name, run in RUNS.items() if not (graph and name in _MODULES)}

    def __call__(self, inputs: Inputs) -> list[dict[str, Tensor]]:
        """Run the module on inputs, the plain way first.

        Raises:
            SubjectError: the plain run does not work.
        """
        seen = _Coarse()
        # A graph knows its functions, and PyTorch does not have to look at every operator, and load its compiler.
        with contextlib.nullcontext() if isinstance(self._module, GraphModule) else seen:
            found = {"plain": evaluate(self._module, inputs)}
        for name, run in tuple(self._left.items()):
            if name in _COARSE and not self._has_functions(seen):
                continue
            if name == _REPEATED and self._has_it(seen) and _distinct(list(found.values())):
                continue
            try:
                with run(self._module, inputs) as (module, turned):
                    found[name] = evaluate(module, turned, f"our float32 run {name!r} of")
            except SubjectError as error:
                del self._left[name]
                self._said(f"float32 is measured without one of its runs: {error}")
        sums = [run for name, run in found.items() if name not in _COARSE]
        enough = _distinct(sums) and not isinstance(self._module, GraphModule)
        return [*found.values(), *([] if enough else [self.rounded(inputs)])]

    def _has_it(self, seen: _Coarse) -> bool:
        """Whether the coarse runs of a module, which are without oneDNN as well, show what that does."""
        return not isinstance(self._module, GraphModule) and seen.met and "coarse functions" in self._left

    def _has_functions(self, seen: _Coarse) -> bool:
        return self._module.has_functions if isinstance(self._module, GraphModule) else seen.met


def _distinct(runs: list[dict[str, Tensor]]) -> bool:
    """Whether some run rounds otherwise than the first: kernels may be the same ones by other names."""
    return any(not torch.equal(run[name], runs[0][name]) for run in runs[1:] for name in run)


class _Coarse(TorchDispatchMode):
    """Move the result of every function in the table, or without signs only see whether there is one."""

    def __init__(self, signs: Signs | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.signs, self.met = signs, False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call an operator."""
        name = str(func.overloadpacket.__name__)
        kind = _KINDS.get(name) or _KINDS.get(name.removesuffix("_"))
        self.met |= kind is not None or _FUSED.search(name) is not None
        if kind is None or self.signs is None:
            return func(*args, **(kwargs or {}))
        given = args[0].clone()  # which an operator in place overwrites
        made = func(*args, **(kwargs or {}))
        result: Tensor = made[0] if isinstance(made, tuple) else made
        if result.dtype == torch.float32:
            axis = int(args[1]) if kind == "row" else -1
            moved = stray(kind, result.detach().numpy(), given.detach().numpy(), axis, self.signs)
            result.copy_(torch.from_numpy(moved))
        return made


def _laid_out(value: Tensor, layout: torch.memory_format) -> Tensor:
    return value.contiguous(memory_format=layout) if value.ndim == 4 else value
