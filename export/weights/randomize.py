"""Give a fresh module weights that matter, so that a check on it can fail.

Fresh batch norms are the identity, and layer scales and gates start at 0 or 1e-6: with those, forgetting a branch
or a running mean changes nothing that a tolerance would see. Everything here is drawn from one seed.
"""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor, nn

_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.modules.batchnorm._BatchNorm, nn.RMSNorm)
_LINEAR = (nn.Linear, nn.modules.conv._ConvNd)


@torch.no_grad()
def randomize(module: nn.Module, seed: int = 0) -> None:
    """Draw, in place, whatever in ``module`` is asleep.

    Batch norm: mean ~ N(0, 0.5), variance ~ U(0.5, 2); every norm: scale ~ U(0.5, 1.5), one in six negative,
    shift ~ N(0, 0.5). Linear and convolution weights with less than half the usual spread are drawn from
    N(0, 1 / fan-in), and other parameters that are constant or nearly so from N(0, 0.5).
    """
    random = torch.Generator().manual_seed(seed)
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.track_running_stats:
            assert part.running_mean is not None
            assert part.running_var is not None
            part.running_mean.copy_(_normal(part.running_mean, 0.5, random))
            part.running_var.copy_(_uniform(part.running_var, 0.5, 2.0, random))
        for name, value in part.named_parameters(recurse=False):
            if not value.is_floating_point():
                continue
            if isinstance(part, _NORMS):
                value.copy_(_scale(value, random) if name == "weight" else _normal(value, 0.5, random))
            elif isinstance(part, _LINEAR) and value.ndim > 1:
                spread = 1 / math.sqrt(value[0].numel())
                if _spread(value) < spread / 2:
                    value.copy_(_normal(value, spread, random))
            elif _spread(value) < 0.02:
                value.copy_(_normal(value, 0.5, random))


def _spread(value: Tensor) -> float:
    return float(value.double().std(correction=0)) if value.numel() > 1 else 0.0


def _normal(like: Tensor, deviation: float, random: Generator) -> Tensor:
    return torch.randn(like.shape, generator=random) * deviation


def _uniform(like: Tensor, low: float, high: float, random: Generator) -> Tensor:
    return torch.rand(like.shape, generator=random) * (high - low) + low


def _scale(like: Tensor, random: Generator) -> Tensor:
    sign = torch.where(torch.rand(like.shape, generator=random) < 1 / 6, -1.0, 1.0)
    return _uniform(like, 0.5, 1.5, random) * sign
