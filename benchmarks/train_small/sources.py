"""Make the files of pictures from scikit-learn's digits and scikit-image's photographs, which neither test needs.

    ENV/bin/python benchmarks/train_small/sources.py FOLDER      where scikit-learn and scikit-image are

The digits are "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak, UCI, CC BY 4.0). The photographs are
in the public domain or CC0, as scikit-image's documentation of each says.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

#: Of ``skimage.data``, in the order of their classes.
PHOTOGRAPHS = (
    "brick",
    "grass",
    "gravel",
    "cat",
    "coffee",
    "coins",
    "hubble_deep_field",
    "immunohistochemistry",
    "astronaut",
    "text",
)
#: Side of what is kept of each, and how many grey levels of 256 are one.
SIDE, STEP = 192, 4


def main(folder: Path) -> None:
    """Write ``digits.npz`` and ``textures.npz``."""
    from skimage import color, data, transform
    from sklearn.datasets import load_digits

    digits = load_digits()
    np.savez_compressed(
        folder / "digits.npz", pictures=digits.images.astype(np.uint8), labels=digits.target.astype(np.uint8)
    )
    kept = []
    for name in PHOTOGRAPHS:
        picture = getattr(data, name)()
        grey = color.rgb2gray(picture) if picture.ndim == 3 else picture / 255
        rows, columns = grey.shape
        if min(rows, columns) > SIDE:
            scale = max(SIDE / min(rows, columns), 0.5)
            grey = transform.resize(grey, (round(rows * scale), round(columns * scale)), anti_aliasing=True)
        grey = np.pad(grey, [(0, max(0, SIDE - size)) for size in grey.shape], mode="reflect")
        top, left = ((size - SIDE) // 2 for size in grey.shape)
        kept.append(np.rint(grey[top : top + SIDE, left : left + SIDE] * (255 // STEP)).astype(np.uint8))
    np.savez_compressed(folder / "textures.npz", pictures=np.stack(kept))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
