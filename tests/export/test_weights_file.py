"""Files of weights that claim more than they hold, hold themselves or hold code: a sentence each, and no code runs."""

from __future__ import annotations

import io
import json
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from attn_export.errors import CheckpointError
from attn_export.export.weights import checkpoint, weights_file

NET = nn.Conv2d(2, 3, 1)
STATE = NET.state_dict()


def saved(content: object, **more: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **more)
    return buffer.getvalue()


def archive(index: bytes, *more: tuple[str, bytes], packed: int = zipfile.ZIP_STORED) -> bytes:
    """A zip as torch writes it, with a pickle of our own."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", packed) as file:
        for name, content in (("archive/data.pkl", index), ("archive/version", b"3\n"), *more):
            file.writestr(name, content)
    return buffer.getvalue()


def encrypted() -> bytes:
    content = bytearray(saved(STATE))
    for sign, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        start = content.find(sign)
        content[start + place] |= 1
    return bytes(content)


def holding_itself() -> bytes:
    loop: dict[str, Any] = {}
    loop["state_dict"] = loop
    return saved(loop)


def nested(depth: int) -> bytes:
    """Mappings in mappings, written by hand: the library's own writer would overflow the stack."""
    word = b"X\x05\x00\x00\x00model"
    return archive(b"\x80\x02" + b"}" + (word + b"}") * depth + b"s" * depth + b".")


def safetensors(header: object) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text


CODE = b"\x80\x02cposix\nsystem\nX\x0b\x00\x00\x00touch PWNED\x85R."
BOMB = ("archive/data/0", b"\0" * 100_000_000)
REFUSED: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "a view of one number": ("pt", lambda: saved({"w": torch.ones(1).expand(10**11)}), "claim to hold tensors of"),
    "a packed bomb": ("pt", lambda: archive(b"\x80\x02}.", BOMB, packed=zipfile.ZIP_DEFLATED), "claim to unpack to"),
    "a name twice": ("pt", lambda: archive(b"\x80\x02}.", ("archive/version", b"3\n")), "each name once"),
    "encrypted": ("pt", encrypted, "is encrypted"),
    "cut short": ("pt", lambda: saved(STATE)[:-100], "not a whole archive"),
    "itself": ("pt", holding_itself, "holds no tensors"),
    "deep": ("pt", lambda: nested(20_000), "holds no tensors"),
    "code in an archive": ("pt", lambda: archive(CODE), "which only running code could read"),
    "code in a pickle": ("pt", lambda: CODE, "which only running code could read"),
    "a tar": ("pt", lambda: b"\0" * 10240, "cannot be read as weights"),
    "sparse": ("pt", lambda: saved({"w": torch.eye(3).to_sparse()}), "which is sparse"),
    "meta": ("pt", lambda: saved({"w": torch.empty(3, device="meta")}), "without values"),
    "numbers for names": ("pt", lambda: saved({1: torch.ones(2), ("a", 2): 3}), "its keys: a int, a tuple"),
    "a name without end": ("pt", lambda: saved({"w" * 5000: torch.ones(1)}), "names of at most 1000 letters"),
    "a list": ("pt", lambda: saved([STATE]), "expected a mapping"),
    "nothing": ("pt", lambda: b"", "cannot be read as weights"),
    "a pointer": ("pt", lambda: b"version https://git-lfs.github.com/spec/v1\n", "run git lfs pull"),
    "safetensors of other sizes": (
        "safetensors",
        lambda: safetensors({"w": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}),
        "is not a safetensors file",
    ),
    "safetensors without end": ("safetensors", lambda: struct.pack("<Q", 1 << 60) + b"{", "is not a safetensors file"),
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_weights_is_one_sentence(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ending, make, why = REFUSED[name]
    path = Path(f"net.{ending}")
    path.write_bytes(make())
    with pytest.raises(CheckpointError) as refused:
        checkpoint.read(path)
    assert why in str(refused.value)
    assert "\n" not in str(refused.value)
    assert "weights_only" not in str(refused.value), "the library's own advice is to run the code"
    assert [item.name for item in tmp_path.iterdir()] == [path.name], "no code ran"


def test_old_files_and_shared_storages_are_read(tmp_path: Path) -> None:
    whole = torch.arange(12.0)
    for number, content in enumerate(
        (saved(STATE, _use_new_zipfile_serialization=False), saved({"weight": whole[:6], "bias": whole[6:]}))
    ):
        (tmp_path / f"{number}.pth").write_bytes(content)
        assert checkpoint.read(tmp_path / f"{number}.pth").keys() == STATE.keys()


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_what_is_no_regular_file_is_never_opened(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "device":
            path.symlink_to("/dev/zero")
        case "folder":
            path.mkdir()
    with pytest.raises(CheckpointError, match=f"got a {kind}"):
        checkpoint.read(path)


def test_a_file_beyond_the_limit_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "net.pth").write_bytes(saved(STATE))
    monkeypatch.setattr(weights_file, "MOST", 100)
    with pytest.raises(CheckpointError, match="at most 100 bytes are read here"):
        checkpoint.read(tmp_path / "net.pth")


@pytest.mark.parametrize("strict", [True, False])
def test_weights_that_are_no_numbers_are_named(strict: bool) -> None:
    for bad in (float("nan"), float("inf")):
        state = {**STATE, "bias": torch.full((3,), bad)}
        with pytest.raises(CheckpointError, match=r"got NaN or infinity in 1 \(bias\)"):
            checkpoint.load(nn.Conv2d(2, 3, 1), state, strict=strict)


def test_a_mask_of_infinities_is_no_weight() -> None:
    module = nn.Conv2d(2, 3, 1)
    module.register_buffer("mask", torch.zeros(2))
    state = {**STATE, "mask": torch.tensor([0.0, float("-inf")])}
    assert checkpoint.load(module, state) == ()
    with pytest.raises(CheckpointError, match="mask"):
        checkpoint.load(module, {**STATE, "mask": torch.tensor([0.0, float("nan")])})


def test_nothing_that_fits_is_an_error_without_strictness_too() -> None:
    with pytest.raises(CheckpointError):
        checkpoint.load(nn.Conv2d(2, 3, 1), {"other": torch.ones(1)}, strict=False)
