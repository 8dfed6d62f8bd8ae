"""``verify --emulate``: what is downloaded, kept and run, with packages and an emulator that are made up here."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from attn_export.deploy_tests import backends
from attn_export.deploy_tests.backends import BACKENDS
from attn_export.deploy_tests.machine.emulated import VARIABLE
from attn_export.errors import BackendMissingError, UsageError, WriteError
from attn_export.process.supervisor import StopError
from attn_export.tools.commands import device
from attn_export.tools.emulation import cache, debian, foreign, guest, wheels
from tests.test_bundle_claims import made
from tests.tools.run import Result, run

ROOT = Path(__file__).parents[2]
#: An apt-get and a dpkg-deb that know the packages by their names, and write down how they were called.
APT = """#!{python}
import os, pathlib, sys
words = sys.argv[1:]
with open("{log}", "a") as log: print("apt-get", *words, file=log)
if os.environ.get("NO_NETWORK"): sys.exit("E: Could not resolve 'deb.debian.org'")
if "indextargets" in words: print("http://elsewhere/other/\\nhttp://mirror.example/debian/")
if "download" in words:
    for name in words[words.index("download") + 1:]:
        if name == "--print-uris": continue
        if "--print-uris" in words: print(f"'http://x/{{name}}.deb' {{name}}.deb 1500000 SHA256:00")
        else: pathlib.Path(f"{{name}}.deb").write_text(name)
"""
UNPACK = """#!{python}
import os, pathlib, sys
_, _, package, into = sys.argv
name, bin = pathlib.Path(package).stem, pathlib.Path(into, "usr/bin")
if os.environ.get("BROKEN") == name: sys.exit("dpkg-deb: error: unexpected end of file")
bin.mkdir(parents=True, exist_ok=True)
if name == "qemu-user":
    (bin / "qemu-arm").touch()
    (bin / "qemu-aarch64").write_text(pathlib.Path("{emulator}").read_text())
    (bin / "qemu-aarch64").chmod(0o755)
if name == "python3.13-minimal": (bin / "python3.13").write_text("of another processor")
"""
#: An emulator that emulates nothing: it runs what it is given under this Python.
EMULATOR = """#!{python}
import os, sys
words = sys.argv[1:]
with open("{log}", "a") as log: print("qemu", *words, file=log)
if words == ["--version"]: sys.exit(print("qemu-aarch64 version 99.0 (made up)"))
if words == ["-cpu", "help"]: sys.exit(print("Available CPUs:\\n  cortex-a72\\n  max") or 1)
if os.environ.get("DIES"): os.kill(os.getpid(), 11)
assert words[0] == "-cpu" and words[2] == "-L", words
assert words[4].startswith(words[3]) and open(words[4]).read() == "of another processor", words
assert words[5:7] == ["-S", "-P"], words
os.execv("{python}", ["{python}", "-P", *words[7:]])
"""
PIP = """
import os, pathlib, sys
with open("{log}", "a") as log: print("pip", *sys.argv[1:], file=log)
into = next(word for word in sys.argv if word.startswith("--target=")).partition("=")[2]
pathlib.Path(into, "numpy.txt").touch()
if os.environ.get("NO_WHEEL"): sys.exit("ERROR: No matching distribution found for numpy")
"""


class World:
    """A folder with the made-up programs, a cache, and what they were called with."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log, self.cache = folder, folder / "log", folder / "cache"
        (folder / "bin").mkdir()
        (folder / "lib" / "pip").mkdir(parents=True)
        words = {"python": sys.executable, "log": self.log, "emulator": folder / "emulator"}
        (folder / "emulator").write_text(EMULATOR.format(**words))
        for name, text in (("apt-get", APT), ("dpkg-deb", UNPACK)):
            (folder / "bin" / name).write_text(text.format(**words))
            (folder / "bin" / name).chmod(0o755)
        (folder / "lib" / "pip" / "__init__.py").touch()
        (folder / "lib" / "pip" / "__main__.py").write_text(PIP.format(**words))
        (folder / "keys").touch()

    def verify(self, *words: object, **more: str) -> Result:
        """Run the real command in a process of its own, on these programs."""
        code = (
            "import pathlib\nfrom attn_export.tools.emulation import debian\n"
            f"debian.KEYS = pathlib.Path({str(self.folder / 'keys')!r})\n"
            "from attn_export.tools.entry import main\nmain()"
        )
        paths = (ROOT / "src", self.folder / "lib")
        env = {
            **os.environ,
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join(map(str, paths)),
            "XDG_CACHE_HOME": str(self.cache),
            **more,
        }
        command = [sys.executable, "-c", code, "verify", *map(str, words), "--emulate", "aarch64"]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
        return Result(done.returncode, done.stdout, done.stderr)

    def called(self) -> list[str]:
        """What was run since the last time that this was asked."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return lines

    def kept(self) -> list[str]:
        """What the cache holds, without the part of the names that tells what was asked for."""
        return sorted(path.name.partition("-")[0] for path in self.cache.glob("*/*/*"))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_the_same_command_runs_on_the_emulated_machine(world: World, tmp_path: Path) -> None:
    paths = made(tmp_path / "one"), made(tmp_path / "two")
    came = world.verify(*paths, "--json", "--threads", "2")
    assert came.code == 0, came
    first, *_ = came.err.splitlines()
    assert re.search(r"downloads, once, about \d+ MB.*qemu-user.*Python 3.13.*onnxruntime==", first)
    assert str(world.cache) in first
    assert "http://mirror.example/debian" not in first, "which mirror is not asked before it was said"
    assert [one["environment"]["emulated"] for one in came.json["bundles"]] == [
        "aarch64 by qemu-aarch64 99.0, cortex-a72"
    ] * 2
    assert all(one["runs"][0]["parity"]["ok"] for one in came.json["bundles"])
    called = world.called()
    assert sum("update" in line for line in called) == 2
    assert any("APT::Architecture=arm64" in line and line.endswith("python3.13-minimal") for line in called)
    (pip,) = (line for line in called if line.startswith("pip"))
    assert "--platform=manylinux_2_28_aarch64" in pip
    assert "--platform=manylinux2014_aarch64" in pip
    assert "--only-binary=:all:" in pip
    assert called[-1].endswith(f"-m attn_export verify --threads=2 --json -- {paths[0]} {paths[1]}")
    assert world.kept() == ["aarch64", "code", "emulator", "wheels"]
    (emulator,) = world.cache.glob("*/*/emulator-*/usr/bin")
    assert [path.name for path in emulator.iterdir()] == ["qemu-aarch64"]
    (system,) = world.cache.glob("*/*/aarch64-*")
    assert (system / "lib").readlink() == Path("usr/lib")
    assert "python3.13-minimal.deb" in (system / "packages.txt").read_text()
    again = world.verify(paths[0], "--cpu", "max")
    assert again.code == 0, again
    assert again.err == "", "nothing is downloaded, so nothing is announced"
    assert again.out.startswith("emulated processor: aarch64 by qemu-aarch64 99.0, max; ")
    assert not any(line.startswith(("apt-get", "pip")) for line in world.called())


def test_it_ends_as_the_command_there_ends(world: World, tmp_path: Path) -> None:
    one = made(tmp_path / "one")
    wrong = made(tmp_path / "wrong", factor=2.5)
    assert world.verify(one).code == 0
    failed = world.verify(wrong)
    assert (failed.code, failed.err) == (1, f"error: {wrong} failed verification on onnxruntime\n")
    assert world.verify(one, "--require", "tensorrt").code == 4
    assert world.verify(one, "--expect", "sha256:" + "0" * 64).code == 1
    died = world.verify(one, "--json", DIES="1")
    assert died.code == 3
    assert "died by SIGSEGV; this proves nothing" in died.json["error"]


@pytest.mark.parametrize(
    ("fault", "why", "kept"),
    [
        ({"NO_NETWORK": "1"}, "could not ask apt for its mirror: E: Could not resolve 'deb.debian.org'", []),
        ({"BROKEN": "qemu-user"}, "could not unpack qemu-user.deb: dpkg-deb: error: unexpected end of file", []),
        ({"BROKEN": "zlib1g"}, "could not unpack zlib1g.deb", ["emulator"]),
        ({"NO_WHEEL": "1"}, "could not get wheels for aarch64: ERROR: No matching", ["aarch64", "emulator"]),
    ],
)
def test_what_cannot_be_had_is_said_and_leaves_nothing_half(
    world: World, tmp_path: Path, fault: dict[str, str], why: str, kept: list[str]
) -> None:
    came = world.verify(made(tmp_path / "one"), **fault)
    assert came.code == 4, came
    assert f"error: --emulate aarch64 is not possible here: {why}" in came.err
    assert world.kept() == kept


def test_a_run_that_is_stopped_says_so_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: object) -> int:
        raise StopError(15)

    monkeypatch.setattr(guest, "announcement", lambda _: None)
    monkeypatch.setattr(guest, "made", lambda *_: None)
    monkeypatch.setattr(guest, "run", stopped)
    came = run("verify", made(tmp_path / "one"), "--emulate", "aarch64", "--json")
    assert (came.code, came.out) == (143, ""), "the guest prints the one JSON object"


def test_what_cannot_work_is_said_before_anything_is_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(foreign.subprocess, "Popen", lambda *_, **__: pytest.fail("a program was started"))
    one = made(tmp_path / "one")

    def said(code: int, *words: object) -> str:
        came = run("verify", *words)
        assert (came.code, came.out) == (code, "")
        return came.err

    assert "--emulate aarch64" in said(2, one, "--cpu", "max")
    assert "known: aarch64" in said(2, one, "--emulate", "riscv64")
    assert "torch" in said(2, one, "--emulate", "aarch64", "--fresh", "3")
    assert "no such folder" in said(3, tmp_path / "none", "--emulate", "aarch64")
    assert "'onnxruntim'" in said(2, one, "--emulate", "aarch64", "--backend", "onnxruntim")
    monkeypatch.setattr(guest.platform, "machine", lambda: "aarch64")
    assert "expected Linux on x86_64, got Linux on aarch64" in said(4, one, "--emulate", "aarch64")
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv(VARIABLE, "aarch64 by hand")
    assert "emulated itself" in said(4, one, "--emulate", "aarch64")
    monkeypatch.delenv(VARIABLE)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "it needs apt-get and dpkg-deb" in said(4, one, "--emulate", "aarch64")
    assert not list((tmp_path / "cache").glob("*/*/*"))


def test_without_keys_or_pip_it_says_how_to_get_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debian, "KEYS", tmp_path / "none")
    monkeypatch.setattr(debian.shutil, "which", lambda name: name)
    assert "apt install debian-archive-keyring" in str(debian.missing())
    monkeypatch.setattr(wheels.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(BackendMissingError, match="-m ensurepip"):
        wheels.install(("numpy",), "aarch64", "3.13", tmp_path)


def test_a_program_that_hangs_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foreign, "LOOK", 0.05)
    began = time.monotonic()
    with pytest.raises(BackendMissingError, match=r"could not wait: sleep took longer than 0.2 s"):
        foreign.run("sleep", "60", what="wait", seconds=0.2)
    assert time.monotonic() - began < 10
    with pytest.raises(BackendMissingError, match="could not start: no-such-program"):
        foreign.run("no-such-program", what="start")


def test_the_same_versions_are_asked_for_as_are_here(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "pyproject.toml").read_text()
    (needs,) = re.findall(r"^dependencies = \[\n(.*?)^\]", text, re.MULTILINE | re.DOTALL)
    ours = set(re.findall(r'"([\w-]+)', needs))
    assert {*wheels.BASE, *backends.traits(backends.DEFAULT).libraries} == ours
    here = {"numpy": "2.4.6", "onnxruntime": "1.32.0+cpu", "rich": "15.0", "Pillow": "12.0"}

    def version(name: str) -> str:
        if name in here:
            return here[name]
        raise wheels.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(wheels.importlib.metadata, "version", version)
    monkeypatch.setattr(wheels.importlib.metadata, "requires", lambda _: ["typer>=0.16", "torch>=2 ; extra == 'e'"])
    assert wheels.requirements(["onnxruntime"], images=True) == (
        "numpy==2.4.6", "rich==15.0", "typer>=0.16", "onnxruntime==1.32.0", "Pillow==12.0",
    )  # fmt: skip
    monkeypatch.setattr(BACKENDS, "entry", lambda _: SimpleNamespace(path=None))
    with pytest.raises(UsageError, match="elsewhere is a plug-in"):
        wheels.requirements(["elsewhere"])


def test_what_was_typed_is_what_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []

    def keep(_asked: Any, _machine: Any, _cpu: Any, words: list[str]) -> None:
        seen.append(words)

    monkeypatch.setattr("attn_export.tools.commands.emulate.verify", keep)
    words = [
        "--backend=onnxruntime", "--backend=b", "--require=c", "--tolerance=0.5", "--data=my data", "--threads=3",
        "--timeout=7.0", "--memory-limit=2.0", "--debug", "--json",
    ]  # fmt: skip
    assert run("verify", *words, "--emulate", "aarch64", "a", "-b", "--cpu=max", "--", "-c").code == 2
    assert run("verify", *words, "--emulate", "aarch64", "a", "--cpu=max", "--", "-c").code == 0
    (command, *named), (*_, a, c) = seen[0][:-3], seen[0]
    assert (command, a, c, seen[0][-3]) == ("verify", "a", "-c", "--")
    assert sorted(named) == sorted(words)
    monkeypatch.undo()
    asked: list[device.VerifyOptions] = []
    monkeypatch.setattr("attn_export.tools.commands.device.verify", lambda one, as_json: asked.append(one))
    assert run(*seen[0]).code == 0
    assert asked[0].paths == (Path("a"), Path("-c"))
    assert (asked[0].backends, asked[0].require, asked[0].data) == (("onnxruntime", "b"), ("c",), Path("my data"))


def test_a_folder_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def fill(name: str, then: Callable[[], object] = lambda: None) -> Callable[[Path], None]:
        def work(into: Path) -> None:
            (into / name).touch()
            then()

        return work

    with pytest.raises(ZeroDivisionError):
        cache.kept("a", ["x"], fill("half", lambda: 1 / 0))
    assert not list(cache.root().iterdir())
    folder = cache.kept("a", ["x"], fill("first"))
    assert folder == cache.place("a", ["x"]) != cache.place("a", ["y"])
    assert cache.kept("a", ["x"], fill("second")) == folder
    assert [path.name for path in folder.iterdir()] == ["first"]
    # Two runs at once: whoever is first is kept, and the other uses it.
    raced = cache.kept("a", ["y"], fill("late", lambda: cache.kept("a", ["y"], fill("early"))))
    assert [path.name for path in raced.iterdir()] == ["early"]
    old = time.time() - cache.UNUSED - 1
    os.utime(folder, (old, old))
    half = cache.root() / "b-0.x.partial"
    half.mkdir()
    os.utime(half, (time.time() - cache.HALF - 1,) * 2)
    cache.kept("a", ["z"], fill("new"))
    assert sorted(cache.root().iterdir()) == sorted([raced, cache.place("a", ["z"])])
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/none")
    with pytest.raises(WriteError, match="set XDG_CACHE_HOME"):
        cache.kept("a", ["x"], fill("nowhere"))
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", "/home/of")
    assert cache.root() == Path("/home/of/.cache/attn-export/emulation")


def test_nothing_of_the_host_is_on_the_guests_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PYTHONPATH", "PYTHONHOME", "LD_PRELOAD", "LD_LIBRARY_PATH", "PYTHONDONTWRITEBYTECODE"):
        monkeypatch.setenv(name, "of the host")
    (tmp_path / "usr" / "bin").mkdir(parents=True)
    emulator = tmp_path / "usr" / "bin" / "qemu-aarch64"
    emulator.write_text("#!/bin/sh\necho qemu-aarch64 version 10.0.13 '(Debian 1)'\n")
    emulator.chmod(emulator.stat().st_mode | stat.S_IXUSR)
    one = guest.Guest(tmp_path, Path("/system"), Path("/wheels"), Path("/code"), "max")
    came = one.environment()
    assert "of the host" not in came.values()
    assert came["PYTHONPATH"] == "/code:/wheels"
    assert came[VARIABLE] == "aarch64 by qemu-aarch64 10.0.13, max"


def test_json_of_several_bundles_names_what_failed(tmp_path: Path) -> None:
    good, wrong = made(tmp_path / "good"), made(tmp_path / "wrong", factor=2.5)
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "manifest.json").write_text("{}")
    came = run("verify", good, wrong, broken, "--json")
    assert came.code == 1
    assert [one.get("exit_code") for one in came.json["bundles"]] == [None, 1, 3]
    assert [Path(one["bundle"]).name for one in came.json["bundles"]] == ["good", "wrong", "broken"]
    assert "2 of 3 bundles were not proven" in came.err
    assert run("verify", good, broken).code == 3
    absent = run("verify", good, tmp_path / "none")  # said before minutes of work
    assert (absent.code, absent.out) == (3, "")
    assert "nothing was verified" in absent.err.replace("\n", " ")
    both = run("verify", good, good)
    assert (both.code, both.out.count("parity holds")) == (0, 2)
    assert run("verify", good, wrong, "--expect", "sha256:" + "0" * 64).code == 2
    assert json.loads(run("verify", good, "--json").out)["bundle"] == str(good)


def test_bench_and_the_main_job_refuse_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "aarch64 by hand")
    monkeypatch.setattr("attn_export.pipeline.deploy._deploy", lambda *_: pytest.fail("it began all the same"))
    one = made(tmp_path / "one")
    for words in (["bench", one], ["bench", one, one], ["conform", one, "-o", tmp_path / "kit"], ["se", "-q"]):
        came = run(*words, *([] if words[0] != "se" else ["--preset", "test", "-o", tmp_path / "se"]))
        assert came.code == 5, came
        assert "no time is measured on an emulated processor (aarch64 by hand)" in came.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one"]
    assert "emulated: aarch64 by hand" in run("doctor").out
