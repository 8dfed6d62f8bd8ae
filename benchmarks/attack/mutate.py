"""Harm that any kind of input can come to: bytes, text, JSON, zip archives and arrays, all from one seeded source."""

from __future__ import annotations

import io
import json
import re
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

#: Written by whatever manages to run; the box looks for it after each attempt.
MARKER = "EXECUTED"

#: Text that means something to a terminal, a shell, a table, a parser, a file system or a formatter.
TEXTS = (
    "",
    " ",
    "\0",
    "a\0b",
    "\x1b[31mred\x1b[0m",
    "\x1b]0;title\x07",
    "\x1b[2J",
    "[/]",
    "[red]",
    "[/bold]",
    "[link=http://x]",
    "\x9b31m",
    f"x; touch {MARKER}",
    f"$(touch {MARKER})",
    f"`touch {MARKER}`",
    f"x\ntouch {MARKER}\n",
    f"' ; touch {MARKER} ; '",
    f"&& touch {MARKER} #",
    "-rf",
    "--help",
    "--",
    "a|b|c",
    "|---|---|",
    "```\n# head",
    "<script>alert(1)</script>",
    "</table><img src=x onerror=alert(1)>",
    "]]>",
    "&lt;&#0;&nbsp;",
    "<!--",
    "\"quoted\" 'quoted'",
    "../x",
    "../../keep/thesis.tex",
    "/etc/passwd",
    "/dev/zero",
    "a/b",
    ".",
    "..",
    "~",
    "\u202eevil",
    "\u2066\u2069",
    "\ufeff",
    "\ud800",
    "e\u0301",
    "\u0085next",
    "\u2028next",
    "💥",
    "名前",
    "%s%n%d",
    "{0}{x}",
    "{",
    "nan",
    "None",
    "CON",
    "\r\n",
    "a\nb",
    "\t",
    "x" * 300,
    "x" * 100_000,
    "é" * 5000,
)
#: Numbers as JSON text, most of which no reader should believe.
NUMBERS = (
    "0",
    "-0",
    "-0.0",
    "-1",
    "1",
    "2",
    "0.5",
    "255",
    "4294967296",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551616",
    "-9223372036854775809",
    "1e30",
    "1e308",
    "1e400",
    "-1e400",
    "1e-320",
    "NaN",
    "Infinity",
    "-Infinity",
    "9" * 25,
    "9" * 5000,
    "1" + "0" * 400 + ".5",
)


class Raw:
    """A piece of JSON text that goes into the file as it is."""

    def __init__(self, text: str) -> None:
        self.text = text


def scalar(rng: Random) -> Any:
    """Something that is in the wrong place almost anywhere."""
    choices: list[Callable[[], Any]] = [
        lambda: Raw(rng.choice(NUMBERS)),
        lambda: Raw(rng.choice(NUMBERS)),
        lambda: rng.choice(TEXTS),
        lambda: rng.choice(TEXTS),
        lambda: rng.choice([None, True, False]),
        list,
        dict,
        lambda: [[]],
        lambda: [None] * 3,
        lambda: {"": {}},
        lambda: Raw("[" * 40 + "]" * 40),
    ]
    return rng.choice(choices)()


def paths(value: Any, here: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in plain data, the whole first."""
    yield here
    if isinstance(value, dict):
        for key, item in value.items():
            yield from paths(item, (*here, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from paths(item, (*here, index))


def get(value: Any, path: tuple[Any, ...]) -> Any:
    """Return what lies at a place."""
    for step in path:
        value = value[step]
    return value


def plain(value: Any, rng: Random, times: int = 1) -> tuple[Any, str]:
    """Harm plain data (which is changed) in ``times`` places; what was done, in words."""
    said = []
    for _ in range(times):
        places = list(paths(value))
        # Half of the time shallow: the large tables of a report hold most places and least meaning.
        shallow = [place for place in places if 0 < len(place) <= 2]
        place = rng.choice(shallow) if shallow and rng.random() < 0.5 else rng.choice(places)
        if not place:
            if rng.random() < 0.1:
                value = scalar(rng)
                said.append("another root")
                break
            continue
        holder, step = get(value, place[:-1]), place[-1]
        name, act = rng.choice(_CHANGES)
        act(holder, step, rng)
        said.append(f"{name} at {'.'.join(map(str, place))[:60]}")
        if not isinstance(value, dict | list):
            break
    return value, ", ".join(said) or "nothing"


def _replace(holder: Any, step: Any, rng: Random) -> None:
    holder[step] = scalar(rng)


def _delete(holder: Any, step: Any, _rng: Random) -> None:
    del holder[step]


def _rename(holder: Any, step: Any, rng: Random) -> None:
    if isinstance(holder, dict):
        holder[rng.choice(TEXTS)] = holder.pop(step)
    else:
        holder[step] = [holder[step]]


def _add(holder: Any, step: Any, rng: Random) -> None:
    if isinstance(holder, dict):
        holder[rng.choice((*TEXTS, "schema_version", "files", "normalized_limit", "name"))] = scalar(rng)
    else:
        holder.insert(step, scalar(rng))


def _twice(holder: Any, step: Any, rng: Random) -> None:
    if isinstance(holder, dict):
        holder[Raw(step.text if isinstance(step, Raw) else json.dumps(step))] = rng.choice([holder[step], scalar(rng)])
    else:
        holder.extend([holder[step]] * rng.choice([1, 3, 500]))


def _tweak(holder: Any, step: Any, rng: Random) -> None:
    old = holder[step]
    if isinstance(old, Raw):
        holder[step] = scalar(rng)
    elif isinstance(old, bool) or old is None:
        holder[step] = rng.choice([0, 1, "true", not old])
    elif isinstance(old, int | float):
        holder[step] = rng.choice(
            [-old, old + 1, old * 1e30, old / 3, str(old), [old], Raw(rng.choice(NUMBERS)), old * 2]
        )
    elif isinstance(old, str):
        text = rng.choice(TEXTS)
        holder[step] = rng.choice([old + text, text + old, old.upper(), old[:-1], [old], len(old), old * 50])
    else:
        holder[step] = rng.choice([[], {}, [old], {"x": old}, list(old), str(old)[:200]])


def _nest(holder: Any, step: Any, rng: Random) -> None:
    depth = rng.choice([70, 500, 100_000])
    holder[step] = Raw(rng.choice(["[" * depth + "]" * depth, '{"a":' * depth + "1" + "}" * depth, "[" * depth]))


_CHANGES: list[tuple[str, Callable[[Any, Any, Random], None]]] = [
    ("replaced", _replace),
    ("replaced", _replace),
    ("replaced", _replace),
    ("deleted", _delete),
    ("deleted", _delete),
    ("renamed", _rename),
    ("added", _add),
    ("twice", _twice),
    ("tweaked", _tweak),
    ("tweaked", _tweak),
    ("tweaked", _tweak),
    ("nested", _nest),
]


def dumps(value: Any) -> bytes:
    """JSON with ``Raw`` pieces and keys as they are; lone surrogates stay escaped."""
    raw: list[str] = []

    def prepared(item: Any) -> Any:
        if isinstance(item, Raw):
            raw.append(item.text)
            return f"@@{len(raw) - 1}@@"
        if isinstance(item, dict):
            return {prepared(key) if isinstance(key, Raw) else key: prepared(inner) for key, inner in item.items()}
        if isinstance(item, list):
            return [prepared(inner) for inner in item]
        return item

    text = json.dumps(prepared(value), ensure_ascii=True)
    return re.sub(r'"@@([0-9]+)@@"', lambda found: raw[int(found[1])], text).encode()


def mild(value: Any, rng: Random) -> str:
    """Change leaves of plain data (in place) into others of the same type: what a schema cannot object to."""
    said = []
    for _ in range(rng.choice([1, 1, 2, 4])):
        places = [place for place in paths(value) if place]
        shallow = [place for place in places if len(place) <= 3]
        place = rng.choice(shallow if rng.random() < 0.5 else places)
        holder, step = get(value, place[:-1]), place[-1]
        old = holder[step]
        if isinstance(old, bool):
            holder[step] = not old
        elif isinstance(old, int):
            holder[step] = rng.choice([0, 1, -1, old + 1, -old, 2**31, 2**53, 7])
        elif isinstance(old, float):
            holder[step] = rng.choice([0.0, -old, old * 2, old / 1e6, old * 1e6, 1e300, 5e-324, 1e-30, 1.0])
        elif isinstance(old, str):
            new = rng.choice([rng.choice(TEXTS), old[::-1], old + "x", get(value, rng.choice(places))])
            holder[step] = new if isinstance(new, str) else old.upper()
        elif isinstance(old, list):
            rng.shuffle(old)
            holder[step] = rng.choice([old[1:], old * 2, old[:1], []])
        elif isinstance(old, dict) and old:
            keys = list(old)
            one, other = rng.choice(keys), rng.choice(keys)
            old[one], old[other] = old[other], old[one]
        else:
            holder[step] = rng.choice([0, "x", {}, None])
        said.append(f"mild at {'.'.join(map(str, place))[:60]}")
    return ", ".join(said)


def json_file(file: Path, rng: Random) -> str:
    """Harm a file of JSON by its structure or, less often, by its bytes."""
    content = file.read_bytes()
    if rng.random() < 0.4:
        value = json.loads(content)
        said = mild(value, rng)
        file.write_bytes(dumps(value))
        return f"{file.name}: {said}"
    if rng.random() < 0.12:
        file.write_bytes(text_bytes(content, rng))
        return f"{file.name}: bytes"
    value, said = plain(json.loads(content), rng, rng.choice([1, 1, 1, 2, 3]))
    file.write_bytes(dumps(value))
    return f"{file.name}: {said}"


def text_bytes(content: bytes, rng: Random) -> bytes:
    """Harm a file of text by its bytes."""
    choices: list[Callable[[], bytes]] = [
        lambda: flipped(content, rng),
        lambda: content[: rng.randrange(len(content) + 1)],
        lambda: b"",
        lambda: b"\xef\xbb\xbf" + content,
        lambda: content.decode("utf-8", "replace").encode("utf-16"),
        lambda: content + b"\0",
        lambda: content + content,
        lambda: b"\xff\xfe" + content,
        lambda: b"// comment\n" + content,
        lambda: content.replace(b'"', b"'"),
        lambda: b" " * 1_000_000 + content,
        lambda: b"[" * 200_000,
        lambda: b'"' + b"\\" * 100_001,
        lambda: rng.randbytes(rng.randrange(2000)),
    ]
    return rng.choice(choices)()


def flipped(content: bytes, rng: Random, most: int = 8) -> bytes:
    """Change up to ``most`` places: bits, bytes, lengths, and stretches that move, double or vanish."""
    data = bytearray(content)
    for _ in range(rng.randint(1, most)):
        if not data:
            return rng.randbytes(16)
        at = rng.randrange(len(data))
        span = rng.randrange(1, 64)
        match rng.randrange(7):
            case 0:
                data[at] ^= 1 << rng.randrange(8)
            case 1:
                data[at] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)])
            case 2:
                del data[at : at + span]
            case 3:
                data[at:at] = data[at : at + span]
            case 4:
                data[at:at] = rng.randbytes(span)
            case 5:
                data[at : at + 4] = struct.pack("<I", rng.choice([0, 1, 0x7FFFFFFF, 0xFFFFFFFF, rng.getrandbits(32)]))
            case _:
                other = rng.randrange(len(data))
                data[at : at + span] = data[other : other + span]
    return bytes(data)


def bytes_of(content: bytes, rng: Random) -> bytes:
    """Harm a binary file without knowing what it is."""
    pick = rng.random()
    if pick < 0.7:
        return flipped(content, rng)
    if pick < 0.9:
        return content[: rng.randrange(len(content) + 1)]
    return rng.choice([b"", content + rng.randbytes(100), content * 2, rng.randbytes(500), b"\0" * 1000, b"PK\x03\x04"])


def npy(array: Any) -> bytes:
    """Write an array as a file."""
    file = io.BytesIO()
    np.lib.format.write_array(file, np.asanyarray(array), allow_pickle=True)
    return file.getvalue()


def npy_header(content: bytes, rng: Random) -> bytes:
    """Keep the data and lie in the header."""
    body = content[10 + struct.unpack("<H", content[8:10])[0] :]
    descr = rng.choice(
        ["<f4", "<f8", "|O", "|V8", "<f16", "<U4", "|S0", "<m8[ns]", "<M8", "|b1", "<c16", ">f4", "zz", "<f4" * 2000]
    )
    shape = rng.choice(
        [
            "(1,)",
            "()",
            "(2**62,)",
            f"({10**15},)",
            f"({10**6}, {10**6}, {10**6})",
            "(-1,)",
            "(-2, -2)",
            "(0, 1000000000000)",
            "(1.5,)",
            "('a',)",
            "None",
            "(True, 2)",
            "(" * 300 + ")" * 300,
            f"({'9' * 5000},)",
            "(1," * 200 + ")",
            f"(__import__('os').system('touch {MARKER}'),)",
        ]
    )
    text = rng.choice(
        [
            f"{{'descr': '{descr}', 'fortran_order': {rng.choice(['False', 'True', '0', 'None'])}, 'shape': {shape}}}",
            f"{{'descr': [('a', '{descr}'), ('a', '<f4')], 'fortran_order': False, 'shape': {shape}}}",
            f"{{'descr': '{descr}', 'shape': {shape}}}",
            f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, 'x': 1}}",
            f"[{shape}]",
            "{" * 100,
            "",
            "\0" * 20,
        ]
    )
    header = text.encode() + b"\n"
    if rng.random() < 0.15:
        header = header.ljust(60_000)
    version = rng.choice([b"\x01\x00", b"\x01\x00", b"\x02\x00", b"\x03\x00", b"\x09\x00", b"\x00\x00"])
    if version == b"\x01\x00":
        length = struct.pack("<H", rng.choice([len(header), len(header), 65535, 0]))
    else:
        length = struct.pack("<I", rng.choice([len(header), len(header), 2**31, 0]))
    return b"\x93NUMPY" + version + length + header + body


def array(value: Any, rng: Random) -> Any:
    """Another array in the place of an honest one: of another type, shape or worth."""
    flat = value.ravel()
    choices: list[Callable[[], Any]] = [
        lambda: (value if value.dtype.kind in "biufc" else np.zeros(value.shape)).astype(
            rng.choice(["f2", "f8", "i1", "u8", "c16", "?", "i8", "f4"])
        ),
        lambda: value[..., None],
        lambda: flat,
        lambda: flat[:0],
        lambda: np.zeros((0,), value.dtype),
        lambda: np.zeros((), value.dtype),
        lambda: np.zeros_like(value),
        lambda: np.full(value.shape, np.nan),
        lambda: np.full(value.shape, np.inf, "f4"),
        lambda: np.full(value.shape, 3e38, "f4"),
        lambda: np.full(value.shape, 1e300),
        lambda: np.full(value.shape, 1e-40, "f4"),
        lambda: np.array([rng.choice(TEXTS)]),
        lambda: np.array([b"bytes"]),
        lambda: np.array([{"a": 1}], dtype=object),
        lambda: np.array([Bomb()], dtype=object),
        lambda: np.zeros(3, [("a", "f4"), ("b", "O")]),
        lambda: np.zeros(3, [("a", "f4")]),
        lambda: np.zeros((1,) * 32, value.dtype),
        lambda: np.asfortranarray(value),
        lambda: np.concatenate([flat] * 3),
        lambda: np.array(["NaT"], "M8[s]"),
        lambda: np.zeros((3, 0, 5), "f4"),
        lambda: -value if value.dtype.kind == "f" else flat,
    ]
    return rng.choice(choices)()


class Bomb:
    """What leaves the marker behind when it is unpickled."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        import os

        return os.system, (f"touch {MARKER}",)


def npz_file(file: Path, rng: Random) -> str:
    """Harm an archive of arrays: its arrays, their headers, or the archive."""
    with zipfile.ZipFile(file) as archive:
        members = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    pick = rng.random()
    if pick < 0.4:
        said = [_member(members, rng) for _ in range(rng.choice([1, 1, 2]))]
        with zipfile.ZipFile(file, "w") as archive:
            for name, content in members.items():
                archive.writestr(member(name or "_"), content)
        return f"{file.name}: {', '.join(said)}"
    if pick < 0.6:
        name = rng.choice(list(members))
        members[name] = npy_header(members[name], rng)
        with zipfile.ZipFile(file, "w") as archive:
            for item, content in members.items():
                archive.writestr(member(item), content)
        return f"{file.name}: header of {name}"
    return zip_file(file, rng)


def _member(members: dict[str, bytes], rng: Random) -> str:
    name = rng.choice(list(members))
    try:
        value = np.lib.format.read_array(io.BytesIO(members[name]))
    except ValueError:  # it has come to harm before
        value = np.zeros((2, 3), np.float32)
    match rng.randrange(6):
        case 0:
            del members[name]
            if not members:
                members["names.npy"] = npy(np.array([], "U1"))
            return f"{name} deleted"
        case 1:
            other = (
                rng.choice(
                    [
                        name.replace(".npy", ""),
                        name.replace("0.", "9."),
                        f"x.{name}",
                        "names.npy",
                        "0.input..npy",
                        f"{rng.choice(TEXTS)}.npy",
                        name.replace("input", "reference"),
                        "-1.input.x.npy",
                    ]
                )
                .encode("utf-8", "replace")
                .decode()
            )
            members[other.replace("\0", "0")[:60_000]] = members.pop(name)
            return f"{name} renamed"
        case 2:
            members[
                f"{rng.choice(['99.reference.y', '0.input.zz', '0.float32_error.zz', 'extra', '1.other.y'])}.npy"
            ] = npy(value)
            return "one more"
        case _:
            members[name] = npy(array(value, rng))
            return f"{name} another array"


def zip_file(file: Path, rng: Random) -> str:
    """Harm a zip archive as such."""
    content = file.read_bytes()
    name, act = rng.choice(_ZIPS)
    file.write_bytes(act(content, rng))
    return f"{file.name}: zip {name}"


def _lie(signature: bytes, offset: int, size: int) -> Callable[[bytes, Random], bytes]:
    """Change one field of a random header of one kind."""

    def act(content: bytes, rng: Random) -> bytes:
        data, places, at = bytearray(content), [], content.find(signature)
        while at >= 0:
            places.append(at)
            at = content.find(signature, at + 4)
        if places:
            at = rng.choice(places) + offset
            most = 256**size - 1
            value = rng.choice([0, 1, 8, 12, 99, most, most - 1, most // 2, rng.randrange(most)])
            data[at : at + size] = min(value, most).to_bytes(size, "little")
        return bytes(data)

    return act


def _bomb(content: bytes, _rng: Random) -> bytes:
    """One member more, of 100 MB of zeros in 450 kB."""
    file = io.BytesIO(content)
    with zipfile.ZipFile(file, "a") as archive:
        entry = zipfile.ZipInfo("bomb.npy")
        entry.compress_type = zipfile.ZIP_DEFLATED
        archive.writestr(entry, npy(np.zeros(100_000_000, np.uint8)), compresslevel=1)
    return file.getvalue()


def _encrypted(content: bytes, _rng: Random) -> bytes:
    """Say of every member that it is encrypted."""
    data = bytearray(content)
    for signature, offset in ((_LOCAL, 6), (_CENTRAL, 8)):
        at = content.find(signature)
        while at >= 0:
            data[at + offset] |= 1
            at = content.find(signature, at + 4)
    return bytes(data)


def _many(content: bytes, rng: Random) -> bytes:
    file = io.BytesIO(content)
    with zipfile.ZipFile(file, "a") as archive:
        for index in range(rng.choice([50, 2000])):
            _twice_named(archive, member(f"{index + 5}.input.x.npy"), b"")
    return file.getvalue()


def member(name: str, method: int = zipfile.ZIP_STORED) -> zipfile.ZipInfo:
    """Make a member of an archive that holds no time of today: the same seed gives the same bytes."""
    entry = zipfile.ZipInfo(name)
    entry.compress_type = method
    return entry


def _twice_named(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, content: bytes) -> None:
    """Add a member, also where there is one of that name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        archive.writestr(entry, content)


def _odd_names(content: bytes, rng: Random) -> bytes:
    file = io.BytesIO(content)
    with zipfile.ZipFile(file, "a") as archive:
        name = rng.choice(
            ["../../keep/thesis.tex", "/etc/passwd", "names.npy", "0.input.x.npy", "a\\b.npy", "d/", "é.npy"]
        )
        entry = zipfile.ZipInfo(name)
        entry.external_attr = rng.choice([0o120777 << 16, 0o100644 << 16, 0x10])
        _twice_named(archive, entry, rng.choice([b"/etc/passwd", npy(np.zeros(2))]))
    return file.getvalue()


def _packed(content: bytes, rng: Random) -> bytes:
    file = io.BytesIO()
    method = rng.choice([zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA, zipfile.ZIP_DEFLATED])
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(file, "w", method) as new:
        for entry in old.infolist():
            new.writestr(member(entry.filename, method), old.read(entry))
    return flipped(file.getvalue(), rng, 3) if rng.random() < 0.5 else file.getvalue()


_LOCAL, _CENTRAL, _END = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
_ZIPS: list[tuple[str, Callable[[bytes, Random], bytes]]] = [
    ("bytes", bytes_of),
    ("bytes", bytes_of),
    ("bytes", bytes_of),
    ("encrypted", _encrypted),
    ("flags of a member", _lie(_LOCAL, 6, 2)),
    ("flags in the directory", _lie(_CENTRAL, 8, 2)),
    ("method of a member", _lie(_LOCAL, 8, 2)),
    ("method in the directory", _lie(_CENTRAL, 10, 2)),
    ("checksum", _lie(_CENTRAL, 16, 4)),
    ("packed size", _lie(_CENTRAL, 20, 4)),
    ("size", _lie(_CENTRAL, 24, 4)),
    ("size of a member", _lie(_LOCAL, 22, 4)),
    ("length of a name", _lie(_CENTRAL, 28, 2)),
    ("place of a member", _lie(_CENTRAL, 42, 4)),
    ("count in the end", _lie(_END, 10, 2)),
    ("place of the directory", _lie(_END, 16, 4)),
    ("size of the directory", _lie(_END, 12, 4)),
    ("bomb", _bomb),
    ("many members", _many),
    ("odd names", _odd_names),
    ("packed otherwise", _packed),
    ("something before it", lambda content, rng: rng.randbytes(rng.choice([1, 500])) + content),
    ("a comment", lambda content, rng: content[:-2] + struct.pack("<H", 500) + rng.randbytes(500)),
    ("nothing in it", lambda _content, _rng: _END + b"\0" * 18),
]


def place_file(file: Path, rng: Random) -> str:
    """Put something else than a regular file in a file's place, or nothing."""
    import os

    kind = rng.choice(
        [
            "missing",
            "empty",
            "folder",
            "pipe",
            "zero",
            "full",
            "loop",
            "outside",
            "dangling",
            "sparse",
            "link",
            "socket",
        ]
    )
    content = file.read_bytes()
    file.unlink()
    match kind:
        case "empty":
            file.write_bytes(b"")
        case "folder":
            file.mkdir()
        case "pipe":
            os.mkfifo(file)
        case "zero":
            file.symlink_to("/dev/zero")
        case "full":
            file.symlink_to("/dev/full")
        case "loop":
            file.symlink_to(file.name)
        case "outside":
            file.symlink_to("/etc/passwd")
        case "dangling":
            file.symlink_to("nowhere")
        case "sparse":
            file.write_bytes(content)
            os.truncate(file, 300 << 30)
        case "link":
            other = file.with_name(f"{file.name}.real")
            other.write_bytes(content)
            file.symlink_to(other.name)
        case "socket":
            import socket

            here = Path.cwd()
            os.chdir(file.parent)  # the name of a socket is at most 108 bytes long
            try:
                with socket.socket(socket.AF_UNIX) as made:
                    made.bind(file.name)
            finally:
                os.chdir(here)
    return f"{file.name}: {kind} in its place"
