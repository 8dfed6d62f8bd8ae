"""Train the small networks, keep their weights, and say what they are worth.

    python -m benchmarks.train_small FOLDER [NET ...]      about 20 minutes on one core

Weights are kept in float16: what is quantised is the network as it is read back, and its accuracy is measured so too.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from benchmarks.train_small.training import recipe, train
from tests.data.trained.nets import NETS
from tests.data.trained.pictures import Part, part

KIND = "textures"
#: Pictures at a time.
BATCH = 200


def main(folder: Path, names: list[str]) -> None:
    """Train each network and write ``FOLDER/NET.safetensors``."""
    torch.set_num_threads(1)
    training, test = part(KIND, "training"), part(KIND, "test")
    print("| network | parameters | epochs | CPU seconds | accuracy | kB |\n|---|---|---|---|---|---|")
    for name in names:
        trained = train(NETS[name], training, recipe(name, KIND))
        path = folder / f"{name}.safetensors"
        state = trained.model.state_dict()
        save_file(
            {key: (value.half() if value.is_floating_point() else value).contiguous() for key, value in state.items()},
            path,
        )
        model = NETS[name]().eval()
        model.load_state_dict(load_file(path))
        right = correct(model, test)
        low, high = wilson(right, len(test.y))
        count = sum(value.numel() for value in model.parameters())
        print(
            f"| {name} | {count} | {trained.epochs} | {trained.seconds:.0f} | {right / len(test.y):.1%}"
            f" [{low:.1%}, {high:.1%}] | {path.stat().st_size / 1000:.0f} |",
            flush=True,
        )


def wilson(right: int, count: int, z: float = 1.96) -> tuple[float, float]:
    """Give the 95 % score interval of a share (E. B. Wilson, JASA 22, 1927).

    >>> tuple(round(end, 3) for end in wilson(90, 100))
    (0.826, 0.945)
    """
    share, square = right / count, z * z / count
    middle, half = share + square / 2, z * ((share * (1 - share) + square / 4) / count) ** 0.5
    return (middle - half) / (1 + square), (middle + half) / (1 + square)


def correct(model: nn.Module, pictures: Part) -> int:
    """Count the pictures whose class a network gives."""
    with torch.inference_mode():
        chosen = [
            model(torch.from_numpy(pictures.x[start : start + BATCH])).argmax(1).numpy()
            for start in range(0, len(pictures.y), BATCH)
        ]
    return int((np.concatenate(chosen) == pictures.y).sum())


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:] or list(NETS))
