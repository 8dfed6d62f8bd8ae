"""Collapse every known pattern in a module, and certify in float64 that nothing changed."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from attn_export.errors import FusionError
from attn_export.reparam.fusion import Certificate, Fusion, Refusal, Site
from attn_export.reparam.rules import RULES


def fuse(module: nn.Module, inputs: Iterable[Mapping[str, Tensor]]) -> Fusion[nn.Module]:
    """Return a fused copy of ``module`` with its certificate over ``inputs``; ``module`` is not changed.

    Raises:
        FusionError: a part of ``module`` is in training mode, where a batch norm depends on its batch.
    """
    training = [name or type(module).__name__ for name, part in module.named_modules() if part.training]
    if training:
        raise FusionError(f"{training[0]} is in training mode; call .eval() on the module before fusing it")
    # Folded in float64 and rounded once, at the end; the certificate is of what is rounded.
    fused = copy.deepcopy(module).double()
    places = Counter(id(part) for _, part in fused.named_modules(remove_duplicate=False))
    sites: list[Site] = []
    refusals: list[Refusal] = []
    rules = {name: RULES[name] for name in RULES}

    def visit(part: nn.Module, path: str) -> nn.Module:
        for name, rule in rules.items():
            if not rule.matches(part):
                continue
            if any(places[id(inner)] > 1 for inner in part.modules()):
                refusals.append(Refusal(path, "a part of it is used in several places", "use a copy at each place"))
                break
            try:
                collapsed = rule.collapse(part)
            except FusionError as error:
                refusals.append(Refusal(path, str(error)))
                break
            sites.append(_site(path, name, part, collapsed))
            return collapsed
        for child, inner in list(part.named_children()):
            part.add_module(child, visit(inner, f"{path}.{child}" if path else child))
        return part

    fused = visit(fused, "")
    certificate = certify(module, fused, inputs)
    kind = next((v.dtype for v in module.state_dict().values() if v.is_floating_point()), torch.float32)
    return Fusion(fused.to(kind), tuple(sites), certificate, tuple(refusals))


def certify(original: nn.Module, fused: nn.Module, inputs: Iterable[Mapping[str, Tensor]]) -> Certificate:
    """Compare both in float64 on every input: the largest difference over the largest magnitude."""
    exact, other = copy.deepcopy(original).double(), fused.double()
    errors = []
    for feeds in inputs:
        wide = [v.double() if v.is_floating_point() else v for v in feeds.values()]
        with torch.no_grad():
            want, came = (_stack(m(*wide)) for m in (exact, other))
        errors.append(float((want - came).abs().max() / want.abs().max().clamp_min(torch.finfo(want.dtype).tiny)))
    return Certificate(tuple(errors))


def _stack(outputs: object) -> Tensor:
    if isinstance(outputs, Tensor):
        return outputs.flatten()
    values = outputs.values() if isinstance(outputs, Mapping) else outputs
    assert isinstance(values, Iterable)
    return torch.cat([_stack(value) for value in values])


def _site(path: str, rule: str, before: nn.Module, after: nn.Module) -> Site:
    return Site(
        path or type(before).__name__,
        rule,
        tuple(type(m).__name__ for m in before.modules() if not list(m.children())),
        tuple(type(m).__name__ for m in after.modules() if not list(m.children())),
        parameters_before=sum(v.numel() for v in before.state_dict().values()),
        parameters_after=sum(v.numel() for v in after.state_dict().values()),
    )
