"""Hostile data for ``--data``: arrays, archives, images that are none, and folders of them."""

from __future__ import annotations

import os
import shutil
import struct
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from random import Random

import numpy as np

from benchmarks.attack import mutate
from benchmarks.attack.attempt import Attempt

IMAGES = ("png", "jpg", "bmp", "webp", "ppm")


@cache
def _read(file: Path) -> bytes:
    return file.read_bytes()


def hostile_data(work: Path, originals: Path, rng: Random) -> Attempt:
    """Make data that was harmed, given to ``verify``."""
    shutil.copytree(originals / "bundle", work / "b")
    pick = rng.random()
    rule = ""
    if pick < 0.55:
        said, name = _arrays(work, originals / "data", rng)
    else:
        said, name = _image(work, originals / "data", rng)
        rule = "size=4x4"
    if rng.random() < 0.1:
        said = mutate.place_file(work / name, rng)
    if rng.random() < 0.15:
        said += ", in a folder"
        (work / "d").mkdir()
        for index in range(rng.choice([1, 3, 40])):
            suffix = rng.choice(["npy", "npz", "png", "txt", "NPY"])
            (work / "d" / f"{index}.{suffix}").write_bytes(rng.choice([b"", _read(originals / "data" / "x.npy")]))
        if os.path.lexists(work / name) and not (work / name).is_dir():
            (work / name).rename(work / "d" / name)
        name = "d"
    words = ["verify", "b", "--data", name]
    if rule or rng.random() < 0.1:
        words += ["--preprocess", _rule(rng)]
    kind = ""
    if rng.random() < 0.2:
        words, kind = [*words, "--json"], "json"
    return Attempt(tuple(words), said, kind_of_output=kind)


def _rule(rng: Random) -> str:
    if rng.random() < 0.7:
        return rng.choice(["size=4x4", "size=4x4,layout=nhwc", "size=4x4,fit=crop", "size=4x4,mean=0.1/0.2/0.3"])
    wild = rng.choice([*mutate.NUMBERS, *mutate.TEXTS])
    return rng.choice(
        [
            f"size={wild}x4",
            f"size=4x4,mean={wild}/0/0",
            f"size=4x4,std={wild}/1/1",
            f"size=4x4,layout={wild}",
            "size=100000x100000",
            "size=4x4,size=4x4",
            "size=4x4,std=0/0/0",
            wild,
            "size=4",
            ",,,",
            "=",
        ]
    )


def _arrays(work: Path, data: Path, rng: Random) -> tuple[str, str]:
    name = rng.choice(["x.npy", "x.npz", "cases.npz"])
    content = _read(data / name)
    file = work / name
    file.write_bytes(content)
    if name.endswith(".npz"):
        return mutate.npz_file(file, rng), name
    match rng.randrange(4):
        case 0:
            file.write_bytes(mutate.bytes_of(content, rng))
            return "npy: bytes", name
        case 1:
            file.write_bytes(mutate.npy_header(content, rng))
            return "npy: header", name
        case 2:
            file.write_bytes(mutate.npy(mutate.array(np.load(data / name), rng)))
            return "npy: another array", name
    other = rng.choice(
        ["x.npz", "x.NPY", "x.png", "x.txt", "-rf.npy", "a\nb.npy", "\u202egnp.npy", "x;touch EXECUTED.npy"]
    )
    file.rename(work / other)
    return f"npy called {other!r}", other


_EPS = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 4 4
(EXECUTED) (w) file closefile
%%EOF
"""


def _png(width: int, height: int, rng: Random) -> bytes:
    """Make a PNG that claims a size, with rows for some of it."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    bits, colour = rng.choice([(8, 2), (1, 0), (8, 0), (8, 3), (16, 6)])
    rows = zlib.compress(bytes(min(3 * width + 1, 20_000) * min(height, 200)))
    head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, rng.choice([0, 1]))
    text = chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(5_000_000))) if rng.random() < 0.3 else b""
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + text + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def _bomb(rng: Random) -> bytes:
    side = rng.choice([8000, 12_000, 30_000, 100_000, 2**31 - 1])
    return _png(side, rng.choice([1, side]), rng)


def _ppm(rng: Random) -> bytes:
    size = rng.choice([b"4 4", b"100000 100000", b"-1 4", b"0 0", b"9" * 5000 + b" 1"])
    return b"P6\n" + size + b"\n" + rng.choice([b"255", b"65535", b"0", b"x"]) + b"\n" + rng.randbytes(48)


_FOREIGN: list[tuple[str, Callable[[Random], bytes]]] = [
    ("PostScript", lambda _: _EPS),
    ("PDF", lambda _: b"%PDF-1.4\n1 0 obj <</Type /Catalog>> endobj\ntrailer <</Root 1 0 R>>"),
    (
        "GIF",
        lambda rng: (
            b"GIF89a"
            + struct.pack("<HH", rng.choice([4, 65535]), 4)
            + b"\x80\0\0"
            + b"\0" * 6
            + b",\0\0\0\0\4\0\4\0\0\2\4\0;"
        ),
    ),
    ("TIFF", lambda rng: b"II*\0\x08\0\0\0" + struct.pack("<H", 2) + rng.randbytes(40)),
    ("SVG", lambda _: b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>"),
    ("icon", lambda rng: b"icns" + struct.pack(">I", 2**31 - 1) + rng.randbytes(60)),
    ("FLI", lambda rng: rng.randbytes(4) + b"\x11\xaf" + rng.randbytes(200)),
    ("bomb", _bomb),
    ("bomb", _bomb),
    ("PPM", _ppm),
    ("nothing", lambda _: b""),
]


def _image(work: Path, data: Path, rng: Random) -> tuple[str, str]:
    suffix = rng.choice(IMAGES)
    honest = data / f"i.{suffix}"
    name = f"i.{rng.choice([suffix, suffix, suffix, *IMAGES])}"
    if rng.random() < 0.45 or not honest.exists():
        kind, make = rng.choice(_FOREIGN)
        (work / name).write_bytes(make(rng))
        return f"{kind} called {name}", name
    (work / name).write_bytes(mutate.bytes_of(_read(honest), rng) if rng.random() < 0.9 else _read(honest))
    return f"{suffix}: bytes", name
