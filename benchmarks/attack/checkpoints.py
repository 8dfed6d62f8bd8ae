"""Hostile weights: safetensors with a header that lies, torch files that want code or hold themselves."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.attack import mutate
from benchmarks.attack.attempt import Attempt
from benchmarks.attack.originals import INPUT


@cache
def _read(file: Path) -> bytes:
    return file.read_bytes()


def hostile_weights(work: Path, originals: Path, rng: Random) -> Attempt:
    """Make a checkpoint that was harmed, and the main job up to where the module is built."""
    pick = rng.random()
    if pick < 0.4:
        file = work / "w.safetensors"
        content = _read(originals / "weights" / "net.safetensors")
        if rng.random() < 0.7:
            said, content = _header(content, rng)
        else:
            said, content = "safetensors: bytes", mutate.bytes_of(content, rng)
        file.write_bytes(content)
    else:
        file = work / rng.choice(["w.pt", "w.pth", "w.bin", "w"])
        name = rng.choice(["net.pt", "wrapped.pth", "old.pt"])
        file.write_bytes(_read(originals / "weights" / name))
        if pick < 0.55 or (name == "old.pt" and pick < 0.7):
            file.write_bytes(mutate.bytes_of(file.read_bytes(), rng))
            said = f"{name}: bytes"
        elif pick < 0.65 and name != "old.pt":
            said = mutate.zip_file(file, rng)
        else:
            kind, make = rng.choice(_PICKLES)
            wrap = rng.choice([_zipped, _zipped, _zipped, _bare, _old])
            file.write_bytes(wrap(file.read_bytes(), make(rng)))
            said = f"{wrap.__name__} {kind}"
    if rng.random() < 0.04:
        said = mutate.place_file(file, rng)
    if rng.random() < 0.06 and file.is_file() and file.suffix != ".safetensors":
        file = file.rename(file.with_suffix(".safetensors"))
    words = ["net.py:Net", "--input", INPUT] if rng.random() < 0.85 else ["se", "--preset", "test"]
    (work / "net.py").write_bytes(_read(originals / "net.py"))
    more = ["--no-strict-weights"] if rng.random() < 0.4 else []
    command = (*words, "--weights", file.name, *more, "--no-bench", "--mutants", "none", "-o", "out")
    return Attempt(command, said, writes=("out", "out/*", "__pycache__*"))


def _header(content: bytes, rng: Random) -> tuple[str, bytes]:
    """Lie in the header of a safetensors file."""
    length = struct.unpack("<Q", content[:8])[0]
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    if rng.random() < 0.2:
        text = mutate.text_bytes(content[8 : 8 + length], rng)
        said = "bytes of the header"
    else:
        header, said = mutate.plain(header, rng, rng.choice([1, 1, 2])) if rng.random() < 0.5 else _tensors(header, rng)
        text = mutate.dumps(header)
    size = struct.pack(
        "<Q", rng.choice([len(text)] * 8 + [0, 1, max(0, len(text) - 1), len(text) + 5, 2**40, 2**63, 2**64 - 1])
    )
    if rng.random() < 0.1:
        data = rng.choice([b"", data[:-3], data + b"x" * 100, data * 2])
    return f"safetensors: {said}", size + text + data


def _tensors(header: Any, rng: Random) -> tuple[Any, str]:
    """Another promise of one tensor."""
    names = [name for name in header if name != "__metadata__"]
    name = rng.choice(names)
    entry = header[name]
    match rng.randrange(7):
        case 0:
            entry["dtype"] = rng.choice(["F64", "I64", "BOOL", "F8_E4M3", "BF16", "C64", "F4", "", "f32", None, 7])
        case 1:
            entry["shape"] = rng.choice([[], [0], [2**62], [2**32, 2**32], [-1], [1.5], ["3"], [1] * 100, [3, 2], None])
        case 2:
            entry["data_offsets"] = rng.choice([[0, 0], [8, 4], [0, 2**62], [-4, 0], [0], [0, 1, 2], "x", [0, 4.5]])
        case 3:
            entry["data_offsets"] = header[rng.choice(names)]["data_offsets"]
        case 4:
            header[rng.choice(mutate.TEXTS)] = header.pop(name)
        case 5:
            header["__metadata__"] = rng.choice(
                [{"a": 1}, [], None, {"x": "y" * 100_000}, {t: t for t in mutate.TEXTS[:20]}]
            )
        case _:
            for index in range(2000):
                header[f"t{index}"] = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    return header, f"a tensor of {name}"


class _Call:
    """Calls a function when it is unpickled."""

    def __init__(self, function: Any, *words: Any, state: Any = None) -> None:
        self.function, self.words, self.state = function, words, state

    def __reduce__(self) -> Any:
        return (self.function, self.words) if self.state is None else (self.function, self.words, self.state)


class _Stored:
    """A storage as torch files name it."""

    def __init__(self, key: str = "0", kind: str = "FloatStorage", size: Any = 54, place: str = "cpu") -> None:
        self.key, self.kind, self.size, self.place = key, kind, size, place


class _Pickler(pickle.Pickler):
    def persistent_id(self, item: Any) -> Any:
        """As torch does."""
        if isinstance(item, _Stored):
            import torch

            return ("storage", getattr(torch, item.kind), item.key, item.place, item.size)
        return None


def _pickled(value: Any, protocol: int = 2) -> bytes:
    file = io.BytesIO()
    _Pickler(file, protocol).dump(value)
    return file.getvalue()


def _tensor(rng: Random, **more: Any) -> _Call:
    """Make a tensor that makes absurd promises."""
    import torch

    sizes = rng.choice([(3, 2, 3, 3), (2**40,), (2**31, 2**31), (0,), (-1,), (1,) * 70, (3.5,), ("a",), (2**62, 4)])
    strides = rng.choice([(18, 9, 3, 1), (0,) * 4, (-1,), (2**62,), (1,), (), ("a",)])
    offset = rng.choice([0, -1, 2**62, 50, "x"])
    hooks = rng.choice([{}, None, {"a": 1}])
    function = rng.choice([torch._utils._rebuild_tensor_v2, torch._utils._rebuild_tensor])
    words = [_Stored(**more), offset, sizes, strides]
    return _Call(function, *words, *([False, hooks] if function is torch._utils._rebuild_tensor_v2 else []))


def _wild_tensor(rng: Random) -> bytes:
    return _pickled({"a.weight": _tensor(rng)})


def _wild_storage(rng: Random) -> bytes:
    more = {
        "key": rng.choice(["0", "9", "../0", "", "x" * 1000]),
        "kind": rng.choice(["FloatStorage", "DoubleStorage", "HalfStorage", "BoolStorage", "ComplexDoubleStorage"]),
        "size": rng.choice([54, 0, -1, 2**40, "x", None]),
        "place": rng.choice(["cpu", "cuda:0", "meta", "x", ""]),
    }
    return _pickled({"a.weight": _tensor(rng, **more)})


def _wild_code(rng: Random) -> bytes:
    command = f"touch {mutate.MARKER}"
    source = f"open({mutate.MARKER!r}, 'w').close()"
    calls: list[Callable[[], Any]] = [
        lambda: _Call(os.system, command),
        lambda: _Call(exec, source),
        lambda: _Call(eval, source),  # noqa: S307  # what an attack would call
        lambda: _Call(__import__, "this"),
        lambda: _Call(getattr, {}, "update"),
        lambda: _Call(open, mutate.MARKER, "w"),
        lambda: _Call(bytearray, 2**40),
        lambda: _Call(pickle.loads, _pickled(_Call(os.system, command))),  # noqa: S301
    ]
    value = rng.choice(calls)()
    protocol = rng.choice([0, 2, 4])
    return _pickled(rng.choice([value, {"a": value}, {"state_dict": {"a.weight": value}}, [value]]), protocol)


def _globals(rng: Random) -> bytes:
    """Names of functions that may be thought harmless, called with what is not."""
    module, name = rng.choice(
        [
            ("torch", "load"),
            ("torch", "save"),
            ("torch.hub", "load"),
            ("torch._utils", "_rebuild_parameter"),
            ("collections", "OrderedDict"),
            ("torch.storage", "_load_from_bytes"),
            ("numpy", "load"),
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy", "dtype"),
            ("torch.serialization", "load"),
            ("builtins", "eval"),
            ("posix", "system"),
            ("shutil", "rmtree"),
            ("torch.jit", "load"),
            ("torch", "zeros"),
            ("torch", "Tensor"),
            ("torch.nn.parameter", "Parameter"),
            ("builtins", "set"),
            ("_codecs", "encode"),
            ("no", "such"),
        ]
    )
    word = rng.choice(["../keep", "x", "touch EXECUTED"]).encode()
    return b"\x80\x02c" + f"{module}\n{name}\n".encode() + b"X" + struct.pack("<I", len(word)) + word + b"\x85R."


def _selfish(rng: Random) -> bytes:
    """Write a dictionary that holds itself, by a name that trainers use."""
    value: dict[str, Any] = {}
    value[rng.choice(["state_dict", "model", "a.weight", "net"])] = rng.choice([value, [value], {"model": value}])
    return _pickled(value)


def _laughs(_rng: Random) -> bytes:
    """Write lists of lists that double."""
    value: list[Any] = ["ha"]
    for _ in range(30):
        value = [value, value]
    return _pickled({"state_dict": value})


def _deep(rng: Random) -> bytes:
    depth = rng.choice([500, 5000, 100_000])
    return b"\x80\x02" + b"]" * depth + b"a" * (depth - 1) + b"."


def _odd_values(rng: Random) -> bytes:
    import torch

    value: Any = rng.choice(
        [
            None,
            7,
            "text",
            [],
            {},
            {"a": 1},
            {1: torch.zeros(1)},
            {(1, 2): 3},
            dict.fromkeys(mutate.TEXTS[:30], 0),
            {"state_dict": {"state_dict": {"model": {}}}},
            {"state_dict": []},
            {"x": 10**4000},
        ]
    )
    file = io.BytesIO()
    torch.save(value, file)
    with zipfile.ZipFile(file) as archive:
        name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
        return archive.read(name)


def _opcodes(rng: Random) -> bytes:
    """Opcodes at random."""
    known = b"(.012FIJKLMNPQRSTUVXabcdeghijlopqrstu})]" + bytes((*range(0x80, 0x83), *range(0x85, 0x97)))
    return b"\x80\x02" + bytes(rng.choice(known) for _ in range(rng.randrange(40))) + b"."


def _bytes(rng: Random) -> bytes:
    return mutate.bytes_of(_pickled({"a.weight": _tensor(rng), "b": 1.0}), rng)


_PICKLES: list[tuple[str, Callable[[Random], bytes]]] = [
    ("wild tensor", _wild_tensor),
    ("wild tensor", _wild_tensor),
    ("wild storage", _wild_storage),
    ("code", _wild_code),
    ("code", _wild_code),
    ("names of functions", _globals),
    ("holds itself", _selfish),
    ("doubles", _laughs),
    ("deep", _deep),
    ("odd values", _odd_values),
    ("opcodes", _opcodes),
    ("bytes", _bytes),
]


def _zipped(content: bytes, pickled: bytes) -> bytes:
    """Put another pickle into a torch file."""
    if not content.startswith(b"PK"):
        return _bare(content, pickled)
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(file, "w") as new:
        for entry in old.infolist():
            new.writestr(
                mutate.member(entry.filename), pickled if entry.filename.endswith("data.pkl") else old.read(entry)
            )
    return file.getvalue()


def _bare(_content: bytes, pickled: bytes) -> bytes:
    return pickled


def _old(_content: bytes, pickled: bytes) -> bytes:
    """Write the form before zip archives: magic number, version, facts of the system, the object."""
    head = [pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
    return b"".join(head) + pickled + pickle.dumps([], 2)
