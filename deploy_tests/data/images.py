"""From an image file to a model's input: decode, resize, crop, scale, normalise, lay out; all but the first is NumPy.

size=224x224,fit=crop,mean=0.485/0.456/0.406,std=0.229/0.224/0.225,layout=nchw,colour=rgb
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from attn_export.errors import BackendMissingError, BundleError, LoadError, UsageError
from attn_export.types import Array
from attn_export.untrusted import fields as plain_data
from attn_export.untrusted import files
from attn_export.untrusted.text import one_line

#: Endings of images, and what Pillow is to take them for: by itself it would start a PostScript interpreter.
IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm")
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "PPM")
#: Pixels of an image, by its header: decoded, a few kB of PNG may take gigabytes.
PIXELS = 64_000_000
#: Bytes of an image file.
BYTES = 256 * files.MB
#: What eight bits a channel can be made of without loss of range.
_MODES = frozenset({"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "LAB"})
#: Sides of an input, its pixels, and numbers of the matrix that resizes one side.
SIDE, AREA, MATRIX = 1 << 15, 1 << 26, 1 << 27
#: Letters of a declaration.
_LONGEST = 1000
_CHOICES = {"fit": ("stretch", "crop"), "layout": ("nchw", "nhwc"), "colour": ("rgb", "bgr")}


@dataclass(frozen=True)
class Preprocess:
    """How an image becomes an input: (resized · 1/255 − mean) / std.

    Attributes:
        size: height and width of the input.
        fit: ``stretch`` both sides, or resize the shorter side and ``crop`` the centre.
        mean: of each channel, for values in [0, 1].
        std: the same.
        layout: ``nchw`` or ``nhwc``.
        colour: ``rgb`` or ``bgr``.
    """

    size: tuple[int, int]
    fit: str = "stretch"
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    layout: str = "nchw"
    colour: str = "rgb"

    def __post_init__(self) -> None:
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise UsageError(f"--preprocess {name}: expected {' or '.join(allowed)}, got {getattr(self, name)!r}")
        if min(self.size) < 1 or len(self.mean) != 3 or len(self.std) != 3 or not all(self.std):
            raise UsageError(
                "--preprocess: expected a positive size, and three numbers for mean and std, none of std zero"
            )
        if not all(map(math.isfinite, (*self.mean, *self.std))):
            raise UsageError("--preprocess: expected finite numbers for mean and std")
        if max(self.size) > SIDE or math.prod(self.size) > AREA:
            raise UsageError(
                f"--preprocess size: expected at most {SIDE} a side and {AREA} pixels in all,"
                f" got {self.size[0]}x{self.size[1]}"
            )

    @classmethod
    def of(cls, recorded: Mapping[str, Any]) -> Preprocess:
        """From what a manifest holds.

        Raises:
            BundleError: it is not what was recorded.
        """
        try:
            known = {field.name for field in dataclasses.fields(cls)}
            plain = {name: value for name, value in recorded.items() if name in known}
            return plain_data.build(cls, plain)
        except (ValueError, TypeError, AttributeError, UsageError) as error:
            raise BundleError(f"the bundle's recorded preprocessing cannot be: {error}") from error

    def summary(self) -> str:
        """As it would be typed.

        >>> Preprocess((8, 6), mean=(0.5, 0.5, 0.5)).summary()
        'size=8x6,fit=stretch,mean=0.5/0.5/0.5,std=1/1/1,layout=nchw,colour=rgb'
        """
        mean, std = ("/".join(f"{value:g}" for value in row) for row in (self.mean, self.std))
        height, width = self.size
        return f"size={height}x{width},fit={self.fit},mean={mean},std={std},layout={self.layout},colour={self.colour}"

    def __call__(self, image: Array) -> Array:
        """Prepare one image, ``h w 3`` of bytes; the result has a batch axis of one."""
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise LoadError(f"expected an image of h x w x 3 bytes, got {image.dtype} {image.shape}")
        height, width = self.size
        if self.fit == "crop":
            factor = max(height / image.shape[0], width / image.shape[1])
            inner = (max(height, round(image.shape[0] * factor)), max(width, round(image.shape[1] * factor)))
            if math.prod(inner) > AREA:
                raise LoadError(
                    f"an image of {image.shape[0]}x{image.shape[1]} is too narrow for fit=crop; use stretch"
                )
            top, left = (inner[0] - height) // 2, (inner[1] - width) // 2
            values = resize(image, *inner)[top : top + height, left : left + width]
        else:
            values = resize(image, height, width)
        values = (values / 255 - np.array(self.mean)) / np.array(self.std)
        values = values[..., ::-1] if self.colour == "bgr" else values
        return np.ascontiguousarray(values.transpose(2, 0, 1) if self.layout == "nchw" else values, np.float32)[None]


def parse_preprocess(text: str) -> Preprocess:
    """Read a declaration as it is typed.

    Raises:
        UsageError: a word is not known, or a value is not of its kind.

    >>> parse_preprocess("size=8x6,mean=0.5/0.5/0.5,layout=nhwc")
    Preprocess(size=(8, 6), fit='stretch', mean=(0.5, 0.5, 0.5), std=(1.0, 1.0, 1.0), layout='nhwc', colour='rgb')
    """
    if len(text) > _LONGEST:
        raise UsageError(f"--preprocess: expected at most {_LONGEST} letters, got {len(text)}")
    values: dict[str, Any] = {}
    for part in filter(None, text.split(",")):
        name, _, value = part.strip().partition("=")
        if name in values:
            raise UsageError(f"--preprocess says {name} twice")
        try:
            if name == "size":
                height, _, width = value.partition("x")
                values[name] = (int(height), int(width or height))
            elif name in ("mean", "std"):
                values[name] = tuple(float(v) for v in value.split("/"))
            elif name in _CHOICES:
                values[name] = value
            else:
                raise UsageError(f"--preprocess knows size, fit, mean, std, layout and colour, got {name!r}")
        except ValueError as error:
            raise UsageError(f"--preprocess {name}: {error}") from error
    if "size" not in values:
        raise UsageError("--preprocess needs a size, such as size=224x224")
    return Preprocess(**values)


def resize(image: Array, height: int, width: int) -> Array:
    """Resize in float64, linearly between pixel centres; where it shrinks, averaging over all pixels that are met.

    Raises:
        LoadError: that takes more memory than an image is worth.
    """
    if max(image.shape[0] * height, image.shape[1] * width) > MATRIX:
        raise LoadError(f"an image of {image.shape[0]}x{image.shape[1]} cannot be made {height}x{width}: too large")
    rows, columns = _weights(image.shape[0], height), _weights(image.shape[1], width)
    return np.asarray(np.einsum("ih,hwc,jw->ijc", rows, image.astype(np.float64), columns, optimize=True))


def decode(file: Path) -> Array:
    """Decode the pixels of an image file, turned as its orientation tag says.

    Raises:
        BackendMissingError: Pillow is not installed.
        LoadError: it is no image of a kind that is read here, is damaged, or has too many pixels.
    """
    try:
        from PIL import Image, ImageOps  # type: ignore[import-not-found,unused-ignore]
    except ImportError as error:
        raise BackendMissingError("reading images needs Pillow: pip install 'attn-export[images]'") from error
    files.regular(file, BYTES, LoadError)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of sizes, which are held to a limit of our own, and of odd notes
            with Image.open(file, formats=FORMATS) as image:
                if image.width * image.height > PIXELS:
                    raise LoadError(f"{file} has {image.width}x{image.height} pixels; at most {PIXELS} are decoded")
                if image.mode not in _MODES:
                    raise LoadError(
                        f"{file} holds {image.mode} pixels; expected eight bits a channel: convert it first"
                    )
                return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except LoadError:
        raise
    except Exception as error:  # decoders raise whatever they stumble over
        raise LoadError(f"{file} cannot be read as an image ({' '.join(FORMATS)}): {_first(error)}") from error


def _first(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return one_line(lines[0])[:200] if lines else type(error).__name__


def _weights(old: int, new: int) -> Array:
    """Compute the matrix of a linear (triangle) filter, ``new old``; every row sums to one."""
    reach = max(1.0, old / new)
    centres = (np.arange(new) + 0.5) * old / new - 0.5
    weights = np.maximum(0.0, 1 - np.abs(np.arange(old) - centres[:, None]) / reach)
    assert math.isfinite(weights.sum())
    return np.asarray(weights / weights.sum(1, keepdims=True))
