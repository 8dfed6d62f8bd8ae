"""Fuse a PyTorch module: export, plan, prove each site, and give an ``nn.Module`` with a state dict back."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from attn_export.errors import FusionError
from attn_export.reparam import submodules
from attn_export.reparam.adapters.torch.paddings import pad_once
from attn_export.reparam.adapters.torch.read import TorchReader
from attn_export.reparam.adapters.torch.write import rebuild
from attn_export.reparam.core import plan_and_prove
from attn_export.reparam.planning import cost as costs
from attn_export.reparam.planning.plan import Planner
from attn_export.reparam.proof import end_to_end_torch
from attn_export.reparam.proof.end_to_end_torch import Call
from attn_export.reparam.result import Certificate, Fusion
from attn_export.reparam.submodules import UntraceableError
from attn_export.untrusted.text import first_line


def fuse_module(
    module: nn.Module,
    example: tuple[Any, ...],
    *,
    keywords: Mapping[str, Any] | None = None,
    dynamic: Any = None,
    fuse_cost: str = "cpu",
    keep_branches: Sequence[str] = (),
    border_maps: bool = False,
    quantization_error: bool = False,
) -> Fusion[nn.Module]:
    """Return a fused copy of ``module``; ``module`` is not changed.

    The copy is a graph module: parameters that survive keep their names, a collapsed place ``p`` has ``p.fused``,
    and gradients flow. Fused in float64 and rounded once, to the type the module has. Where the module cannot be
    traced (control flow that depends on data), its largest parts that can are replaced in a copy of it.

    Args:
        module: in evaluation mode.
        example: inputs to export with and to certify on.
        keywords: those that ``forward`` takes by name.
        dynamic: dimensions that may vary, as ``torch.export`` takes them; fusions that hold for the example's
            sizes only are refused there.
        fuse_cost: the cost model that says what pays.
        keep_branches: patterns of site names whose branches are to stay.
        border_maps: whether a constant that a padding breaks may become a map of one number for each channel and
            position, added behind: a parameter ``p.fused.shift``, exact for the example's sizes only.
        quantization_error: whether to compute, for each site, what INT8 and fp16 weights would lose before and after.

    Raises:
        FusionError: a part is in training mode, or neither the module nor a part of it can be exported.
    """
    training = [name or type(module).__name__ for name, part in module.named_modules() if part.training]
    if training:
        raise FusionError(f"{training[0]} is in training mode; call .eval() on the module before fusing it")
    kind = next((v.dtype for v in module.state_dict().values() if v.is_floating_point()), torch.float32)

    def fuse(part: nn.Module, inputs: Call, sizes: Any) -> Fusion[nn.Module]:
        planner = Planner(costs.profile(fuse_cost), keep_branches, border_maps=border_maps)
        return _fuse_traced(part, inputs, sizes, planner, quantization_error=quantization_error)

    def fuse_child(part: nn.Module, inputs: tuple[Tensor, ...]) -> Fusion[nn.Module]:
        return fuse(part, Call(inputs), None if dynamic is None else submodules.free(part, inputs))

    whole = Call(example, keywords or {})
    try:
        fusion = fuse(module, whole, dynamic)
    except UntraceableError as refused:
        fusion = submodules.fuse_children(module, whole, fuse_child, str(refused))
    return replace(fusion, model=fusion.model.to(kind).eval())


def _fuse_traced(
    module: nn.Module, example: Call, dynamic: Any, planner: Planner, *, quantization_error: bool
) -> Fusion[nn.Module]:
    """Fuse a module that can be traced; what comes back is in float64.

    Raises:
        UntraceableError: it cannot.
    """
    try:
        with warnings.catch_warnings():  # PyTorch's exporter uses what PyTorch deprecates
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            traced = torch.export.export(module, example.args, dict(example.keywords), dynamic_shapes=dynamic)
            program = traced.run_decompositions({})
            exported = program.module(check_guards=False)
    except Exception as error:
        raise UntraceableError(
            f"{type(module).__name__} cannot be exported ({type(error).__name__}: {first_line(error)})"
        ) from error
    assert isinstance(exported, fx.GraphModule)
    pad_once(exported)
    reader = TorchReader(exported)
    planned = plan_and_prove(reader.graph, planner)
    fused = rebuild(exported, planned.plan.graph)
    errors = (end_to_end_torch.compare(module, fused, example),)
    return Fusion(
        fused,
        planned.sites(reader.graph, quantization_error=quantization_error),
        Certificate(errors, planned.bound),
        planned.refusals,
    )
