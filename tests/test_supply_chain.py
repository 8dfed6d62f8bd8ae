"""What is installed beside it: locks, constraints, SBOM and licences say one thing, and none names a machine."""

from __future__ import annotations

import importlib
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from packaging.markers import Environment, default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from attn_export.tools import ending
from benchmarks.pages.inventory import FREE, NVIDIA, UNKNOWN, licence

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

ROOT = Path(__file__).parents[1]
INSTALLS = {"base": "The base install", "export": "With the extra `export`"}
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
#: What torch brings on Linux where it is not built for the CPU, and what only Python 3.10's ONNX Runtime wants: tried
#: by nobody here, so not in constraints.txt.
UNPROVEN = re.compile(r"nvidia-|cuda-|triton$|setuptools$|coloredlogs$|humanfriendly$")


def environment(python: str, machine: str = "x86_64") -> dict[str, str]:
    known = Environment(**default_environment())
    known |= {"python_version": python, "python_full_version": f"{python}.5", "platform_machine": machine}  # type: ignore[typeddict-item]
    return {**known, "sys_platform": "linux", "extra": ""}  # type: ignore[dict-item]


def entries(path: Path) -> list[tuple[Requirement, list[str]]]:
    """The requirements of a file, each with its hashes."""
    whole = re.sub(r"\\\n", " ", re.sub(r"^\s*#.*$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE))
    lines = [line for line in whole.splitlines() if line.strip()]
    return [(Requirement(line.partition(" --hash")[0]), re.findall(r"--hash=(\S+)", line)) for line in lines]


def pinned(path: Path, python: str) -> dict[str, str]:
    """Versions by name, for a Python on Linux."""
    found: dict[str, str] = {}
    for entry, _ in entries(path):
        if entry.marker is None or entry.marker.evaluate(environment(python)):
            (pin,) = entry.specifier
            assert pin.operator == "==", entry
            name = canonicalize_name(entry.name)
            assert name not in found, f"{name} twice"
            found[name] = pin.version
    return found


@pytest.mark.parametrize("install", INSTALLS)
def test_every_file_of_a_lock_has_a_hash_and_no_place_is_named(install: str) -> None:
    path = ROOT / "locks" / f"{install}.txt"
    found = entries(path)
    assert len(found) > 15
    for entry, hashes in found:
        assert entry.url is None
        assert hashes, f"{entry} has no hash"
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", one) for one in hashes)
    assert not re.search(r"https?:|file:|--(index|extra|find|trusted)|/opt|/tmp", path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("python", PYTHONS)
def test_locks_agree_with_the_constraints(python: str) -> None:
    constraints = pinned(ROOT / "constraints.txt", python)
    base, export = (pinned(ROOT / "locks" / f"{install}.txt", python) for install in INSTALLS)
    assert base.items() <= export.items()
    for name, version in export.items():
        assert constraints.get(name) == version or UNPROVEN.match(name), f"{name}: {constraints.get(name)}, {version}"


@pytest.mark.parametrize("python", PYTHONS)
def test_locks_hold_what_the_project_wants(python: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = {"base": project["dependencies"], "export": [*extras["export"], *extras["report"]]}
    for install, lines in wanted.items():
        held = pinned(ROOT / "locks" / f"{install}.txt", python)
        for entry in map(Requirement, lines):
            if entry.name != "attn-export":
                assert entry.specifier.contains(held[canonicalize_name(entry.name)]), entry


def table(install: str) -> dict[str, tuple[str, str]]:
    """Version and licence by package, as the page has them."""
    whole = (ROOT / "docs" / "licences.md").read_text(encoding="utf-8")
    part = whole.partition(f"## {INSTALLS[install]}\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| ([\w.-]+) \| (\S+) \| (.+) \|$", part, re.MULTILINE)
    return {name: (version, said) for name, version, said in rows if name != "package"}


@pytest.mark.parametrize("install", INSTALLS)
def test_every_package_has_a_licence_that_we_may_stand_beside(install: str) -> None:
    rows = table(install)
    locked = pinned(ROOT / "locks" / f"{install}.txt", "3.11")
    assert {name: version for name, (version, _) in rows.items()} == locked
    for name, (_, said) in rows.items():
        if said == NVIDIA:
            assert install == "export"
            assert name.startswith(("nvidia-", "cuda-")), f"{name} is not free"
        else:
            assert set(re.findall(r"[\w.-]+", said)) - {"AND", "OR", "WITH"} <= FREE, f"{name}: {said}"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"license_expression": "MIT AND GPL-3.0-only"}, "MIT AND GPL-3.0-only"),
        ({"license": "Apache 2.0", "classifier": ["License :: Other/Proprietary License"]}, NVIDIA),
        ({"classifier": ["License :: OSI Approved :: GNU General Public License v3 (GPLv3)"]}, UNKNOWN),
        ({}, UNKNOWN),
    ],
)
def test_a_licence_is_never_made_milder(data: dict[str, Any], said: str) -> None:
    assert licence({"name": "x", **data}) == said
    assert said == NVIDIA or not set(re.findall(r"[\w.-]+", said)) - {"AND"} <= FREE


@pytest.mark.parametrize("install", INSTALLS)
def test_the_sbom_lists_the_lock_and_names_no_machine(install: str) -> None:
    source = (ROOT / "docs" / "sbom" / f"{install}.cdx.json").read_text(encoding="utf-8")
    bom = json.loads(source)
    assert (bom["bomFormat"], bom["specVersion"]) == ("CycloneDX", "1.6")
    assert bom["metadata"]["component"]["name"] == "attn-export"
    listed = {canonicalize_name(part["name"]): part["version"] for part in bom["components"]}
    assert listed == pinned(ROOT / "locks" / f"{install}.txt", "3.11")
    assert {part["ref"] for part in bom["dependencies"]} >= {part["bom-ref"] for part in bom["components"]}
    assert "serialNumber" not in bom
    assert "timestamp" not in bom["metadata"]
    assert not re.search(r"file:|/tmp/|/opt/|/root/|/home/", source)


def test_the_page_on_security_gives_the_limits_that_hold() -> None:
    page = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| .+ \| (\d+)(?: (MB|GB|s|%))? \| `([\w.]+)\.(\w+)` \|$", page, re.MULTILINE)
    assert len(rows) >= 12
    for figure, unit, module, name in rows:
        held = getattr(importlib.import_module(f"attn_export.{module}"), name)
        scale = {"MB": 1 << 20, "GB": 1 << 30, "%": 0.01}.get(unit, 1)
        assert round(held / scale) == int(figure), f"{module}.{name} is {held}"


def test_every_extra_that_is_named_is_one() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = {extra for extra in ending.EXTRAS.values() if extra}
    for folder in ("src/attn_export", "mechanisms", "reparam", "export", "deploy_tests", "tools", "docs"):
        for file in (*(ROOT / folder).rglob("*.py"), *(ROOT / folder).rglob("*.md"), ROOT / "README.md"):
            for words in re.findall(r"(?:attn-export|'\.)\[([a-z,]+)\]", file.read_text(encoding="utf-8")):
                named |= set(words.split(","))
    assert {"export", "report", "images", "rtx"} <= named <= project["optional-dependencies"].keys()
