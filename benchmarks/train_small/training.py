"""Train one network on one set, seeded, on one thread: the same weights every time on the same machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from tests.data.trained.pictures import Part


@dataclass(frozen=True)
class Recipe:
    """How long, and how: AdamW with one cycle of the learning rate.

    Attributes:
        epochs: over the training pictures.
        rate: the highest learning rate.
        batch: pictures a step.
        decay: of weights of two dimensions and more.
    """

    epochs: int
    rate: float
    batch: int = 64
    decay: float = 0.02


#: By set; a network may have its own.
RECIPES = {"textures": Recipe(8, 4e-3), "digits": Recipe(15, 4e-3)}
OWN = {("vit", "textures"): Recipe(14, 2e-3), ("vit", "digits"): Recipe(25, 2e-3)}


@dataclass(frozen=True)
class Trained:
    """A network in evaluation mode, and what its training took."""

    model: nn.Module
    epochs: int
    seconds: float


def recipe(net: str, kind: str) -> Recipe:
    """Choose how a network is trained on a set."""
    return OWN.get((net, kind), RECIPES[kind])


def train(build: Callable[[], nn.Module], part: Part, how: Recipe, seed: int = 0) -> Trained:
    """Train a network from random weights."""
    began = time.process_time()
    torch.manual_seed(seed)
    rng = np.random.Generator(np.random.PCG64(seed))
    model = build()
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x, y = torch.from_numpy(part.x), torch.from_numpy(part.y)
    steps = len(x) // how.batch
    optimizer = torch.optim.AdamW(_groups(model, how.decay), how.rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, how.rate, total_steps=how.epochs * steps, pct_start=0.2)
    model.train()
    for _ in range(how.epochs):
        order = torch.from_numpy(rng.permutation(len(x)))
        for step in range(steps):
            rows = order[step * how.batch : (step + 1) * how.batch]
            loss = F.cross_entropy(model(x[rows].contiguous(memory_format=torch.channels_last)), y[rows])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    return Trained(model.eval(), how.epochs, time.process_time() - began)


def _groups(model: nn.Module, decay: float) -> list[dict[str, object]]:
    large = [value for value in model.parameters() if value.ndim > 1]
    small = [value for value in model.parameters() if value.ndim <= 1]
    return [{"params": large, "weight_decay": decay}, {"params": small, "weight_decay": 0.0}]
