"""Data becomes cases as it is; images become inputs by what is declared, and again by what is recorded."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from attn_export.deploy_tests.data import images, inputs
from attn_export.deploy_tests.data.images import Preprocess, parse_preprocess, resize
from attn_export.errors import BackendMissingError, LoadError, UsageError
from attn_export.types import TensorSpec

X = TensorSpec("x", "float32", ("b", 3, 8, 6))
KEYS = TensorSpec("keys", "int64", ("b", 4))
RANDOM = np.random.default_rng(0)
ARRAY = RANDOM.standard_normal((2, 3, 8, 6)).astype(np.float32)
SMALL = Preprocess((8, 6), mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))


def fake(file: Path) -> NDArray[Any]:
    """An image whose pixels follow from the file's bytes."""
    return np.random.default_rng(list(file.read_bytes())).integers(0, 256, (16, 12, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    np.save(tmp_path / "a.npy", ARRAY)
    np.savez(tmp_path / "b.npz", x=ARRAY[:1].astype(np.float64))
    (tmp_path / "c.png").write_bytes(b"three")
    (tmp_path / "notes.txt").write_text("no data")
    return tmp_path


def test_a_folder_gives_a_case_a_file(folder: Path) -> None:
    found = inputs.read_inputs(folder, [X], SMALL, decoder=fake)
    assert list(found.feeds) == ["data: a.npy", "data: b.npz", "data: c.png"]
    assert np.array_equal(found.feeds["data: a.npy"]["x"], ARRAY)
    assert found.feeds["data: b.npz"]["x"].dtype == np.float32
    assert found.feeds["data: c.png"]["x"].shape == (1, 3, 8, 6)
    json.dumps(found.to_dict())
    assert inputs.read_inputs(folder / "a.npy", [X]).to_dict()["preprocess"] is None


def test_a_limit_says_how_many_were_left(folder: Path) -> None:
    found = inputs.read_inputs(folder, [X], SMALL, limit=2, decoder=fake)
    assert len(found.feeds) == 2
    assert found.left == 1


def test_an_npz_may_hold_several_inputs_and_cases(tmp_path: Path) -> None:
    keys = np.arange(4, dtype=np.int32)
    np.savez(tmp_path / "n.npz", **{"one.x": ARRAY, "one.keys": keys[None], "two.x": ARRAY[0], "two.keys": keys})
    found = inputs.read_inputs(tmp_path / "n.npz", [X, KEYS])
    assert list(found.feeds) == ["data: n.npz, one", "data: n.npz, two"]
    two = found.feeds["data: n.npz, two"]
    assert two["x"].shape == (1, 3, 8, 6), "only the batch axis was missing"
    assert two["keys"].dtype == np.int64


@pytest.mark.parametrize(
    ("arrays", "why"),
    [
        ({"z": ARRAY}, "expected x, got z"),
        ({"x": ARRAY[:, :2]}, "expected shape bx3x8x6, got 2x2x8x6"),
        ({"x": ARRAY[0, 0]}, "expected shape"),
        ({"x": np.where(ARRAY > 2, np.nan, ARRAY)}, "NaN or infinity"),
        ({"x": ARRAY.astype(np.int64)}, "expected float32, got int64"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, arrays: dict[str, NDArray[Any]], why: str) -> None:
    np.savez(tmp_path / "n.npz", **arrays)
    with pytest.raises(LoadError, match=why):
        inputs.read_inputs(tmp_path / "n.npz", [X])


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "n.npz").write_bytes(b"PK no archive")
    with pytest.raises(LoadError, match="cannot be read"):
        inputs.read_inputs(tmp_path / "n.npz", [X])
    np.save(tmp_path / "o.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(LoadError, match="cannot be read"):
        inputs.read_inputs(tmp_path / "o.npy", [X])
    with pytest.raises(LoadError, match="got none"):
        inputs.read_inputs(tmp_path / "nowhere", [X])
    np.save(tmp_path / "one.npy", ARRAY)
    with pytest.raises(LoadError, match="use an npz"):
        inputs.read_inputs(tmp_path / "one.npy", [X, KEYS])


def test_images_need_a_declaration_and_pillow(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="--preprocess"):
        inputs.read_inputs(folder, [X], decoder=fake)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(BackendMissingError, match=r"pip install 'attn-export\[images\]'"):
        inputs.read_inputs(folder, [X], SMALL)


def test_resizing_keeps_what_it_must() -> None:
    image = RANDOM.integers(0, 256, (9, 7, 3), dtype=np.uint8)
    np.testing.assert_allclose(resize(image, 9, 7), image, atol=1e-12)
    flat = np.full((9, 7, 3), 77, np.uint8)
    np.testing.assert_allclose(resize(flat, 4, 15), 77.0)
    ramp = np.repeat(np.arange(0, 200, 10, dtype=np.uint8)[:, None, None], 3, 2).repeat(4, 1)
    halved = resize(ramp, 10, 4)[:, 0, 0]
    np.testing.assert_allclose(halved[1:-1], np.arange(25, 166, 20), atol=1e-9)


def test_enlarging_agrees_with_linear_interpolation() -> None:
    torch = pytest.importorskip("torch")
    image = RANDOM.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    x = torch.from_numpy(image.transpose(2, 0, 1).astype(np.float64))[None]
    for size in ((10, 14), (3, 4), (8, 5)):
        wanted = torch.nn.functional.interpolate(x, size, mode="bilinear", antialias=True)[0].permute(1, 2, 0).numpy()
        np.testing.assert_allclose(resize(image, *size), wanted, atol=1e-9)


def test_normalising_layout_and_colour() -> None:
    image = np.zeros((8, 6, 3), np.uint8)
    image[..., 0] = 255
    came = SMALL(image)
    np.testing.assert_allclose(came[0, :, 0, 0], [(1 - 0.5) / 0.2, -0.4 / 0.3, -0.3 / 0.4], rtol=1e-6)
    turned = Preprocess((8, 6), layout="nhwc", colour="bgr")(image)
    assert turned.shape == (1, 8, 6, 3)
    assert turned[0, 0, 0].tolist() == [0, 0, 1]
    wide = np.zeros((8, 60, 3), np.uint8)
    wide[:, 27:33] = 255
    assert Preprocess((8, 6), fit="crop")(wide).min() == 1, "the centre"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("mean=0.5/0.5/0.5", "needs a size"),
        ("size=8x6,fit=zoom", "expected stretch or crop, got 'zoom'"),
        ("size=axb", "size"),
        ("size=8,std=1/0/1", "none of std zero"),
        ("size=8,mean=1", "three numbers"),
        ("size=8,gamma=2", "got 'gamma'"),
    ],
)
def test_a_declaration_that_means_nothing_is_refused(text: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        parse_preprocess(text)


def test_no_image_is_no_image() -> None:
    with pytest.raises(LoadError, match="h x w x 3 bytes"):
        SMALL(np.zeros((8, 6), np.uint8))


def test_reading_needs_neither_torch_nor_onnx() -> None:
    import ast

    for module in (inputs, images):
        assert module.__file__
        tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
        names = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
        names |= {n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
        assert not any(name.split(".")[0] in ("torch", "onnx") for name in names)


@pytest.mark.parametrize(
    "header", ["{'descr': '<f4', 'shape': (2, ", "{'descr': 'O', 'fortran_order': False, 'shape': (2,)}", "(" * 200]
)
def test_damaged_headers_are_one_sentence(header: str, tmp_path: Path) -> None:
    text = header.encode().ljust(118) + b"\n"
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + b"\0" * 8)
    with pytest.raises(LoadError, match="cannot be read") as refused:
        inputs.read_inputs(tmp_path / "a.npy", [X])
    assert "\n" not in str(refused.value)
