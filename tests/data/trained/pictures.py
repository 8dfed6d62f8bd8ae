"""The pictures: handwritten digits, and crops of photographs made hard to tell apart. Seeded; the same every time.

*digits*: scikit-learn's 8×8 digits enlarged to 32×32. Nearly every network gets nearly all of them right.

*textures*: which of ten of scikit-image's pictures a crop is from. A crop is scaled, turned and mirrored, mixed with
a crop of another class, blurred, tinted, given another contrast and brightness, and covered with noise; so nobody gets
all of them right, and many are decided by little. Training and test crops are from different tiles of a picture.

Pixels from 0 to 255 go in as (p − 128) / 64, ``b 3 32 32``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FOLDER = Path(__file__).parent
SETS = ("textures", "digits")
#: Test pictures of digits, of 1797; the last ones, which other people wrote.
DIGITS_HELD_OUT = 597
#: Pictures of textures in each part.
TRAINING, CALIBRATION, TEST = 12_000, 64, 1000
#: Side of a picture's tiles, and in each row of three tiles the one that is held out for the test.
TILE, HELD_OUT = 64, (1, 2, 0)

Pixels = NDArray[np.uint8]
Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Part:
    """Pictures as a network takes them, float32 ``n 3 32 32``, and their classes, int64 ``n``."""

    x: NDArray[np.float32]
    y: NDArray[np.int64]


def part(kind: str, which: str) -> Part:
    """Give the pictures of ``training``, ``calibration`` or ``test``; the first two are alike, none is in both.

    Raises:
        ValueError: there is no such set, or no such part of it.
    """
    if kind not in SETS or which not in ("training", "calibration", "test"):
        raise ValueError(f"expected training, calibration or test of {' or '.join(SETS)}, got {which} of {kind}")
    pixels, labels = _digits(which) if kind == "digits" else _textures(which)
    prepared = (pixels.astype(np.float32) - 128) / 64
    return Part(prepared.astype(np.float32), labels.astype(np.int64))


def feeds(kind: str, which: str) -> list[dict[str, NDArray[np.float32]]]:
    """Give the same pictures one by one, as the networks' ONNX files take them: input ``x``, ``1 3 32 32``."""
    return [{"x": one[None]} for one in part(kind, which).x]


def _digits(which: str) -> tuple[Pixels, Pixels]:
    kept = np.load(FOLDER / "digits.npz")
    small, labels = kept["pictures"], kept["labels"]
    first = len(small) - DIGITS_HELD_OUT
    rows = {
        "test": slice(first, None),
        "calibration": slice(first - CALIBRATION, first),
        "training": slice(first - CALIBRATION),
    }[which]
    large = np.stack([_resized(one * (255 / 16), 0.0, 0.0, 8.0) for one in small[rows]])
    return np.repeat(np.rint(large).astype(np.uint8)[:, None], 3, 1), labels[rows]


@lru_cache(3)
def _textures(which: str) -> tuple[Pixels, Pixels]:
    seed, count = {"training": (1, TRAINING), "calibration": (2, CALIBRATION), "test": (3, TEST)}[which]
    rng = np.random.Generator(np.random.PCG64(seed))
    photographs = np.load(FOLDER / "textures.npz")["pictures"].astype(np.float32) * 4
    labels = np.arange(count) % len(photographs)
    made = np.stack([_crop(photographs, int(label), rng, test=which == "test") for label in labels])
    return made, labels.astype(np.uint8)


def _crop(photographs: Floats, label: int, rng: np.random.Generator, *, test: bool) -> Pixels:
    """Cut a crop of a class, and make it hard: ``3 32 32``."""
    other = (label + 1 + int(rng.random() * (len(photographs) - 1))) % len(photographs)
    share = 0.15 * rng.random()
    plain = (1 - share) * _piece(photographs[label], rng, test=test)
    plain += share * _piece(photographs[other], rng, test=test)
    if rng.random() < 0.5:
        plain = _blurred(plain)
    contrast, brightness = 0.6 + 0.6 * rng.random(), 30 * (rng.random() - 0.5)
    tint = 1 + 0.4 * (rng.random(3) - 0.5)
    tinted = 128 + brightness + contrast * (plain - plain.mean()) * tint[:, None, None]
    # Twelve uniform draws are as good as a normal one here, and the same in every version of NumPy.
    noise = rng.random((12, 3, 32, 32)).sum(0) - 6
    covered = tinted + 8 * rng.random() * noise
    made: Pixels = np.rint(np.clip(covered, 0, 255)).astype(np.uint8)
    return made


def _piece(photograph: Floats, rng: np.random.Generator, *, test: bool) -> Floats:
    """Cut a square of a tile, scaled to 32×32, turned and mirrored."""
    row, turn = int(rng.random() * 3), int(rng.random() * 4)
    step = int(rng.random() * 2) + 1
    column = HELD_OUT[row] if test else (HELD_OUT[row] + step) % 3
    side = 26 + 22 * rng.random()
    top, left = (rng.random(2) * (TILE - side)).tolist()
    tile = photograph[row * TILE : (row + 1) * TILE, column * TILE : (column + 1) * TILE]
    piece = np.rot90(_resized(tile, top, left, side), turn)
    return piece[:, ::-1] if rng.random() < 0.5 else piece


def _resized(plane: Floats, top: float, left: float, side: float) -> Floats:
    """Sample a square of a plane at 32×32 points, linearly between pixels."""
    at = (np.arange(32) + 0.5) * (side / 32) - 0.5
    rows, down = _between(top + at, plane.shape[0])
    columns, right = _between(left + at, plane.shape[1])
    upper, lower = plane[rows], plane[rows + 1]
    across = (1 - down)[:, None] * upper + down[:, None] * lower
    sampled: Floats = across[:, columns] * (1 - right) + across[:, columns + 1] * right
    return sampled


def _between(at: Floats, size: int) -> tuple[NDArray[np.int64], Floats]:
    inside = np.clip(at, 0, size - 1)
    before = np.minimum(inside.astype(np.int64), size - 2)
    return before, inside - before


def _blurred(plane: Floats) -> Floats:
    """Smooth with (1 2 1) / 4 both ways."""
    for axis in (0, 1):
        wide = np.pad(plane, [(1, 1) if axis == way else (0, 0) for way in (0, 1)], mode="edge")
        ends = [wide.take(range(start, start + 32), axis) for start in (0, 1, 2)]
        plane = (ends[0] + 2 * ends[1] + ends[2]) / 4
    return plane
