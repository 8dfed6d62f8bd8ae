"""Hostile command lines and ``--kwargs``, made of the real table of commands and options."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.attack import mutate
from benchmarks.attack.attempt import Attempt
from benchmarks.attack.originals import INPUT

#: What lies in the working folder, and what does not; and places that are no files.
PATHS = (
    "b",
    "b",
    "x.onnx",
    "net.py",
    "x.npy",
    "none",
    "pipe",
    "zero",
    "dev-null",
    "dev-full",
    "dir",
    "k",
    "",
    ".",
    "..",
    "~",
    "b/",
    "link",
    "round",
)
#: Folders to write to: none of these but ``out`` and ``old`` may be changed.
FOLDERS = (
    "out",
    "old",
    ".",
    "..",
    "../keep",
    "../keep/app",
    "../keep/repository",
    "../home",
    "dir",
    "net.py",
    "pipe",
    "dev-null",
    "link",
    "no/out",
    "out/",
    "x" * 300,
    "",
    "a\nb",
    "-rf",
    "\udcff",
)
WRITTEN = (
    "out",
    "out/*",
    "no",
    "no/*",
    "old",
    "old/*",
    "x*",
    "a\nb*",
    "sweep",
    "sweep/*",
    "-rf*",
    "\udcff*",
    "__pycache__*",
)
FILES = ("y.onnx", "y.md", "no/y", "dir", "dev-null", "dev-full", "pipe", "b", "x.onnx", "y" * 300, ".", "", "a\nb")
SHAPES = (
    INPUT,
    "1x2x4x4",
    "x:[1,2,4,4]",
    "x:1,2,4,4",
    "0x2",
    "1x2x4x99999999999999999999",
    "b=2x2x4x4:int64",
    "x:1x2:float99",
    "1×2",
    "-1x2",
    "x" * 1000,
    ":::",
    "[]",
    "1x" * 5000 + "1",
)
SUBJECTS = (
    "se", "net.py:Net", "x.onnx", "nosuch", "net.py", "net.py:nothing", "json:dumps", "os:system", ":", "net.py:",
    "no.such:x", "none.onnx", "pipe.onnx", "b", "repvgg", "SE", "../net.py:Net", "os.path:join", "zero.onnx",
)  # fmt: skip


def word(rng: Random) -> str:
    """Draw what may stand on a command line: anything but NUL."""
    text = rng.choice(mutate.TEXTS).replace("\0", "").replace("\ud800", "\udcff")
    return text[:20_000]


def number(rng: Random) -> str:
    """Draw a number, or what may be taken for one."""
    return rng.choice([*mutate.NUMBERS, "1_000", "0x10", "١٢", "1e3", "+5", " 7 ", "1,5", "½", "--1", "1e999"])


#: Lines that are right; the harm is done to these.
LINES = (
    ("list",),
    ("list", "--family", "attention", "--json"),
    ("show", "se"),
    ("show", "triplet", "--json"),
    ("verify", "b"),
    ("verify", "b", "--data", "x.npy", "--json"),
    ("verify", "b", "--backend", "onnxruntime", "--atol", "1e-3"),
    ("compile", "b", "--target", "tensorrt_rtx:sm86"),
    ("bench", "b"),
    ("bench", "b", "b", "--budget", "p90<=15ms"),
    ("bench", "b", "--baseline", "b/report.json", "--batch-sweep", "1,2"),
    ("fuse", "x.onnx", "-o", "y.onnx"),
    ("lint", "x.onnx", "--target", "ort_mobile"),
    ("lint", "b"),
    ("diff", "b"),
    ("diff", "se", "--between", "exported,simplified", "--preset", "test"),
    ("diff", "x.onnx", "b"),
    ("report", "b", "--format", "json"),
    ("report", "b", "-o", "y.md"),
    ("conform", "b", "-o", "kit", "--backend", "onnxruntime"),
    ("conform", "check", "k", "b"),
    ("sweep", "--family", "attention", "-o", "sweep", "--job-timeout", "5"),
    ("doctor",),
    ("doctor", "--json"),
    ("targets", "--json"),
    ("se", "--preset", "test", "-o", "out"),
    ("net.py:Net", "--input", INPUT, "--kwargs", '{"channels": 3}', "-o", "out"),
    ("export", "x.onnx", "--fuse", "-o", "out"),
)


@cache
def table() -> Mapping[str, tuple[Any, ...]]:
    """Parameters of every command, as the parser itself knows them."""
    import typer.main

    from attn_export.tools import cli

    group: Any = typer.main.get_command(cli.app)
    inner = {name: getattr(command, "commands", {"": command}).values() for name, command in group.commands.items()}
    return {name: tuple(option for command in found for option in command.params) for name, found in inner.items()}


def hostile_words(work: Path, originals: Path, rng: Random) -> Attempt:
    """Make a command line that was harmed, in a folder with something of everything."""
    _furnish(work, originals)
    if rng.random() < 0.06:
        words = [word(rng) for _ in range(rng.randrange(6))]
        return Attempt(tuple(words), "words at random", writes=WRITTEN)
    known = [line for line in LINES if line[0] in table() or line[0] in SUBJECTS]
    words = list(rng.choice(known))
    said = [_harm(words, rng) for _ in range(rng.choice([1, 1, 2, 3, 5]))]
    command = words[0] if words and words[0] in table() else "export"
    words = [_for(command, words, index, rng) for index in range(len(words))]
    # A file that the user names with -o may be any file in the working folder; a folder may not.
    free = ("*",) if command in ("fuse", "report") else WRITTEN
    return Attempt(tuple(words), ", ".join(said), writes=free)


def _furnish(work: Path, originals: Path) -> None:
    shutil.copytree(originals / "bundle", work / "b")
    shutil.copytree(originals / "bundle", work / "old")
    shutil.copyfile(originals / "graphs" / "branches.onnx", work / "x.onnx")
    shutil.copyfile(originals / "net.py", work / "net.py")
    shutil.copyfile(originals / "data" / "x.npy", work / "x.npy")
    (work / "k").symlink_to(originals / "kit")
    (work / "dir").mkdir()
    (work / "dir" / "notes.txt").write_text("mine", encoding="utf-8")
    for name in ("pipe", "pipe.onnx"):
        os.mkfifo(work / name)
    for name in ("zero", "zero.onnx"):
        (work / name).symlink_to("/dev/zero")
    (work / "link").symlink_to("dir")
    (work / "round").symlink_to("round")
    with contextlib.suppress(PermissionError):
        os.mknod(work / "dev-null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        os.mknod(work / "dev-full", stat.S_IFCHR | 0o666, os.makedev(1, 7))


def _harm(words: list[str], rng: Random) -> str:
    """Change one thing; what, in words."""
    at = rng.randrange(len(words)) if words else 0
    match rng.randrange(10):
        case 0 | 1 | 2 | 3:
            command = words[0] if words and words[0] in table() else "export"
            option = rng.choice(table()[command])
            names = [name for name in (*option.opts, *option.secondary_opts) if name.startswith("-")]
            if not names:
                words.append(_value(option, rng))
                return "one argument more"
            name = rng.choice(names)
            added = (
                [name]
                if getattr(option, "is_flag", False) or getattr(option, "count", False)
                else [name, _value(option, rng)]
            )
            if rng.random() < 0.1 and len(added) == 2:
                added = [f"{name}={added[1]}"]
            place = rng.randrange(1, len(words) + 1) if words else 0
            words[place:place] = added
            return f"{name} more"
        case 4 if words:
            words[at] = word(rng)
            return f"word {at} replaced"
        case 5 if words:
            words[at] = rng.choice([*PATHS, *SUBJECTS])
            return f"word {at} a path"
        case 6 if len(words) > 1:
            del words[at]
            return f"word {at} gone"
        case 7 if words:
            words.insert(at, words[at])
            return f"word {at} twice"
        case 8 if words:
            words[at] = rng.choice(
                [words[at].upper(), words[at][:-1], words[at] + word(rng)[:50], f"--{words[at]}", f"{words[at]}="]
            )
            return f"word {at} misspelt"
        case _:
            words.insert(
                rng.randrange(len(words) + 1),
                rng.choice(["--", "-", "--help", "-h", "--version", "-qvqv", "--json", "-o", "--no-such", "-é"]),
            )
            return "an option more"


def _value(option: Any, rng: Random) -> str:
    """Draw a value for an option: half of the time one of its kind."""
    if rng.random() < 0.15:
        return word(rng)
    name, kind = option.name, str(option.metavar)
    if kind in ("N", "X", "MS", "SECONDS", "DB", "GB"):
        return number(rng) if rng.random() < 0.6 else rng.choice(["1", "2", "0", "3"])
    if name in ("output", "out"):
        return rng.choice(FOLDERS)
    if kind in ("PATH", "DIR", "FILE") or kind.startswith("BUNDLE"):
        return rng.choice(PATHS)
    known: dict[str, tuple[str, ...]] = {
        "inputs": SHAPES,
        "shapes": (*SHAPES, "1x2x4x4,2x2x4x4,4x2x4x4", "x:1x2x4x4,1x2x4x4,1x2x4x4"),
        "kwargs": ("{}", '{"channels": 4}', "[]", "{", "null", '{"channels": 1e400}', '{"a":' * 500),
        "mutants": ("none", "fast", "full", "slow"),
        "budget": ("p90<=15ms", "memory<=1B", "size<=1", "p90<=NaNms", "p999<=1ms", "<=", "p90>=1ms", "p90<=1e999ms"),
        "max_regression": ("3%", "0%", "-5%", "NaN%", "1e999%", "%"),
        "batch_sweep": ("1,2", "0", "1,", "1e9", "99999999999999999999", "²"),
        "preprocess": ("size=4x4", "size=0x0", "size=4x4,std=0/0/0", "mean=NaN/0/0", "x"),
        "dynamic": ("batch", "all", "none", "b,h", ",,", "q"),
        "between": (
            "exported,simplified",
            "original,x.onnx",
            "b,model",
            "a,a",
            ",",
            "model@,x",
            "original@onnxruntime,model",
        ),
        "backend": ("onnxruntime", "tensorrt", "tensorrt_rtx", "nosuch", ""),
        "require": ("onnxruntime", "tensorrt", "nosuch"),
        "kind": ("html", "markdown", "junit", "sarif", "json", "pdf"),
        "target": ("tensorrt", "ort_mobile", "x"),
        "preset": ("test", "paper", "nosuch"),
        "family": ("attention", "rep", "nosuch"),
        "fuse_cost": ("flops", "cpu", "gpu", "npu", "x"),
        "sm": ("86", "0", "-1", "9" * 400, "8.6", "x"),
        "keep_branches": ("*", "[", "a" * 100, "[!]"),
        "subject": SUBJECTS,
        "what": SUBJECTS,
        "name": ("se", "nosuch", ""),
        "other": ("onnxruntime", "b", "x.onnx", "nosuch"),
        "expect": ("sha256:" + "0" * 64, "sha256:", "md5:x", "x"),
    }
    return rng.choice(known.get(name, (word(rng),)))


def _for(command: str, words: list[str], index: int, rng: Random) -> str:
    """Say what must not be said: a file given to -o is one in the working folder, since the user names it himself."""
    before = words[index - 1] if index else ""
    if command in ("fuse", "report") and before in ("-o", "--output"):
        return rng.choice(FILES)
    if (
        command in ("fuse", "report")
        and words[index].startswith(("-o", "--o"))
        and len(words[index]) > 2
        and "keep" in words[index]
    ):
        return "-oy"
    return words[index]


def hostile_kwargs(work: Path, originals: Path, rng: Random) -> Attempt:
    """Make constructor arguments that were harmed."""
    shutil.copyfile(originals / "net.py", work / "net.py")
    value: Any = {"channels": 3, "act": "relu", "depth": 1, "scale": 0.5, "bias": True}
    for name in rng.sample(list(value), rng.randrange(4)):
        del value[name]
    if rng.random() < 0.15:
        text, said = mutate.text_bytes(mutate.dumps(value), rng).decode("utf-8", "surrogateescape"), "bytes"
    else:
        value, said = mutate.plain(value, rng, rng.choice([1, 1, 2]))
        text = mutate.dumps(value).decode()
    text = text.replace("\0", "")[:120_000]
    words = ("net.py:Net", "--input", INPUT, "--kwargs", text, "--no-bench", "--mutants", "none", "-o", "out")
    return Attempt(words, f"kwargs: {said}", writes=("out", "out/*", "__pycache__*"))
