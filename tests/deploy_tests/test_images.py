"""Images from outside: only the formats that are meant, a number of pixels at most, and no exception of a decoder's."""

from __future__ import annotations

import io
import os
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from attn_export.deploy_tests.data import images, inputs
from attn_export.deploy_tests.data.images import Preprocess, decode, parse_preprocess
from attn_export.errors import BundleError, LoadError, UsageError
from attn_export.types import TensorSpec

PIXELS = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n(/tmp) deletefile\nshowpage\n"


def written(pixels: np.ndarray, kind: str, mode: str | None = None, **more: object) -> bytes:  # type: ignore[type-arg]
    buffer = io.BytesIO()
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(buffer, kind, **more)
    return buffer.getvalue()


def empty_png(width: int, height: int) -> bytes:
    """A PNG of one colour: a few kB, whatever it decodes to."""
    packer = zlib.compressobj(9)
    row = b"\0" * ((width + 7) // 8 + 1)
    body = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder, and a ``gs`` on the path that leaves a marker."""
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/PWNED\n")
    (tools / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


@pytest.mark.parametrize("ending", images.IMAGES)
def test_no_program_is_started_for_what_is_called_an_image(ending: str, place: Path) -> None:
    path = place / f"photo{ending}"
    path.write_bytes(POSTSCRIPT)
    with pytest.raises(LoadError, match="cannot be read as an image"):
        decode(path)
    assert not (place / "PWNED").exists()


def test_the_formats_that_are_meant_are_read(place: Path) -> None:
    for kind, ending in (("PNG", "png"), ("BMP", "bmp"), ("PPM", "ppm")):
        (place / f"a.{ending}").write_bytes(written(PIXELS, kind))
        assert np.array_equal(decode(place / f"a.{ending}"), PIXELS)
    turned = Image.Exif()
    turned[0x112] = 6
    (place / "a.jpg").write_bytes(written(PIXELS, "JPEG", exif=turned))
    assert decode(place / "a.jpg").shape == (7, 9, 3)
    for mode in ("P", "L", "1", "RGBA"):
        (place / "a.png").write_bytes(written(PIXELS, "PNG", mode))
        assert decode(place / "a.png").shape == PIXELS.shape
    (place / "a.jpg").write_bytes(written(PIXELS, "JPEG", "CMYK"))
    assert decode(place / "a.jpg").shape == PIXELS.shape


@pytest.mark.parametrize("sides", [(30_000, 30_000), (10_000, 9_500), (8_001, 8_000)])
def test_a_small_file_of_many_pixels_is_not_decoded(sides: tuple[int, int], place: Path) -> None:
    path = place / "bomb.png"
    path.write_bytes(empty_png(*sides))
    assert path.stat().st_size < 200_000
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(LoadError, match="pixels"):
            decode(path)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (written(PIXELS, "PNG")[:-40], "cannot be read"),
        (written(PIXELS, "PNG").replace(b"IDAT", b"IDAX"), "cannot be read"),
        (written(PIXELS, "GIF"), "cannot be read"),
        (written(PIXELS, "TIFF"), "cannot be read"),
        (written(PIXELS[..., 0].astype(np.uint16) * 200, "PNG"), "holds I;16 pixels; expected eight bits"),
        (b"P6\n" + b"9" * 5000 + b" 2 255\n", "cannot be read"),
        (b"", "cannot be read"),
    ],
)
def test_damage_and_odd_kinds_are_one_sentence(content: bytes, why: str, place: Path) -> None:
    (place / "a.png").write_bytes(content)
    with pytest.raises(LoadError, match=why) as refused:
        decode(place / "a.png")
    assert "\n" not in str(refused.value)


def test_damage_anywhere_is_one_sentence(place: Path) -> None:
    random = np.random.default_rng(0)
    whole = [written(PIXELS, kind) for kind in ("PNG", "JPEG", "BMP", "WEBP", "PPM")]
    for number in range(500):
        content = bytearray(whole[number % len(whole)])
        for _ in range(random.integers(1, 9)):
            content[random.integers(min(len(content), 120))] = random.integers(256)
        (place / "a.png").write_bytes(content)
        try:
            decode(place / "a.png")
        except LoadError:
            continue


def test_what_is_no_regular_file_is_never_opened(place: Path) -> None:
    os.mkfifo(place / "a.png")
    with pytest.raises(LoadError, match="got a pipe"):
        inputs.read_inputs(place, [TensorSpec("x", "float32", ("b", 3, 4, 4))], Preprocess((4, 4)))
    with pytest.raises(LoadError, match="got none"):
        inputs.read_inputs(Path("/dev/zero"), [TensorSpec("x", "float32", (3,))])


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("size=1000000x1000000", "at most 32768 a side"),
        ("size=32768x32768", "at most 32768 a side and 67108864 pixels"),
        ("size=" + "9" * 5000, "letters"),
        ("size=" + "9" * 900, "at most 32768"),
        ("size=8,mean=nan/0/0", "finite"),
        ("size=8,std=1/1/inf", "finite"),
        ("size=8,size=9", "says size twice"),
    ],
)
def test_a_declaration_has_limits(text: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        parse_preprocess(text)


@pytest.mark.parametrize(
    "recorded",
    [
        {"size": [8]},
        {"size": [8, "9"]},
        {"size": 8},
        {"size": [1_000_000, 1_000_000]},
        {"size": [8, 8], "mean": [0.5]},
        {"size": [8, 8], "fit": "zoom"},
        {"size": [8, 8], "mean": "0.5/0.5/0.5"},
        {},
        [8, 8],
    ],
)
def test_what_a_manifest_recorded_is_checked(recorded: object) -> None:
    with pytest.raises(BundleError, match="recorded preprocessing cannot be"):
        Preprocess.of(recorded)  # type: ignore[arg-type]


def test_an_image_that_is_all_length_takes_no_memory() -> None:
    with pytest.raises(LoadError, match="too narrow"):
        Preprocess((1000, 1000), fit="crop")(np.zeros((1, 100_000, 3), np.uint8))
    with pytest.raises(LoadError, match="too large"):
        Preprocess((4, 30_000))(np.zeros((1, 60_000, 3), np.uint8))


@pytest.mark.parametrize(
    ("array", "why"),
    [
        (np.array([[2**63]], np.uint64), "numbers beyond int64"),
        (np.array([[1e300]]), "expected int64"),
    ],
)
def test_numbers_that_the_input_cannot_hold_are_refused(array: np.ndarray, why: str, tmp_path: Path) -> None:  # type: ignore[type-arg]
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(LoadError, match=why):
        inputs.read_inputs(tmp_path / "a.npy", [TensorSpec("x", "int64", ("b", 1))])
    np.save(tmp_path / "b.npy", np.array([[1e300]]))
    with pytest.raises(LoadError, match="numbers beyond float32"):
        inputs.read_inputs(tmp_path / "b.npy", [TensorSpec("x", "float32", ("b", 1))])
