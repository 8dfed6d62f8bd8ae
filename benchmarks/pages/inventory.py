"""Make ``docs/licences.md``, and the metadata that an SBOM tool reads, from what pip would install.

``docs/supply-chain.md`` has the commands. A report of ``pip install --dry-run --report`` holds the metadata of every
package, so that three gigabytes of CUDA need not be installed to list them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attn_export.untrusted import text

PAGE = Path(__file__).resolve().parents[2] / "docs" / "licences.md"
NVIDIA = "LicenseRef-NVIDIA-Proprietary"
UNKNOWN = "unknown"
#: Licences that ask no more of who distributes than notices; whatever else comes is to be looked at by a person.
FREE = frozenset(
    {"0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "BSD", "BSL-1.0", "CC0-1.0", "ISC", "LLVM-exception"}
    | {"MIT", "MIT-CMU", "PSF-2.0", "Zlib"}
)
#: What packages say in words, as SPDX names it.
_WORDS = {
    "Apache 2.0": "Apache-2.0",
    "Apache License": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "MIT License": "MIT",
    "MIT": "MIT",
    "BSD": "BSD",
    "BSD License": "BSD",
    "3-Clause BSD License": "BSD-3-Clause",
    "ISC License": "ISC",
    "ISC License (ISCL)": "ISC",
    "NVIDIA Proprietary Software": NVIDIA,
    NVIDIA: NVIDIA,
    "Other/Proprietary License": NVIDIA,
}
#: Packages whose metadata names none.
_SILENT = {"cuda-toolkit": NVIDIA}
_KEPT = ("metadata_version", "name", "version", "summary", "license", "license_expression")
_LISTS = {"classifier": "Classifier", "requires_dist": "Requires-Dist", "provides_extra": "Provides-Extra"}

HEAD = """# Licences of what is installed with it

attn-export is Apache-2.0 and ships no code of others: its wheel holds its own files alone. What `pip` installs beside
it comes from the packages' own makers, under these licences, as their metadata says. Written by
`python -m benchmarks.pages.inventory` ([docs/supply-chain.md](supply-chain.md)), for CPython 3.11 on Linux
x86-64; a test compares it with the locks.

`LicenseRef-NVIDIA-Proprietary` is no free licence: NVIDIA's own terms, which come with each package. Such packages are
CUDA's libraries, which the `torch` of the public index wants on Linux (a `torch` built for the CPU wants none), and
the extras `rtx` (`tensorrt-rtx-cu13` and its libraries) and `tensorrt` (`tensorrt`), which nothing here installs unless
asked. The base install has none. The extra `images` brings Pillow (MIT-CMU).
"""


@dataclass(frozen=True)
class Package:
    """One package that would be installed."""

    name: str
    version: str
    licence: str


def packages(report: Mapping[str, Any]) -> list[Package]:
    """List the packages of pip's report, by name."""
    found = [item["metadata"] for item in report["install"]]
    made = [Package(canonical(data["name"]), data["version"], licence(data)) for data in found]
    return sorted(made, key=lambda package: package.name)


def canonical(name: str) -> str:
    """As package indexes compare names.

    >>> canonical("Jinja2"), canonical("ml_dtypes")
    ('jinja2', 'ml-dtypes')
    """
    return name.lower().replace("_", "-").replace(".", "-")


def licence(data: Mapping[str, Any]) -> str:
    """Return the licence as SPDX names it; the stricter, where a package says two things.

    >>> licence({"name": "x", "license": "MIT License"}), licence({"name": "y"})
    ('MIT', 'unknown')
    """
    if expression := data.get("license_expression"):
        return str(expression)
    words = [entry.rpartition(":: ")[2] for entry in data.get("classifier", ()) if entry.startswith("License ::")]
    words += [first.strip() for first in str(data.get("license") or "").strip().splitlines()[:1]]
    said = [_WORDS.get(word, UNKNOWN) for word in words]
    if NVIDIA in said:
        return NVIDIA
    known = [name for name in said if name != UNKNOWN]
    return known[-1] if known else _SILENT.get(canonical(data["name"]), UNKNOWN)


def page(installs: Mapping[str, Sequence[Package]]) -> str:
    """Write a table for each install."""
    parts = [HEAD]
    for title, found in installs.items():
        rows = [f"| {text.cell(one.name)} | {text.cell(one.version)} | {text.cell(one.licence)} |" for one in found]
        parts.append("\n".join([f"## {title}\n", "| package | version | licence |", "|---|---|---|", *rows, ""]))
    return "\n".join(parts)


def write_metadata(report: Mapping[str, Any], site: Path) -> None:
    """Write what an SBOM tool reads of an environment: each package's METADATA, without its files."""
    for data in (item["metadata"] for item in report["install"]):
        folder = site / f"{canonical(data['name']).replace('-', '_')}-{data['version']}.dist-info"
        folder.mkdir(parents=True)
        lines = [
            f"{key.replace('_', '-').title()}: {' '.join(str(data[key]).split())[:200]}"
            for key in _KEPT
            if data.get(key) is not None
        ]
        lines += [f"{name}: {value}" for key, name in _LISTS.items() for value in data.get(key, ())]
        (folder / "METADATA").write_text("\n".join([*lines, "", ""]), encoding="utf-8")


def main(base: Path, export: Path, *sites: Path) -> None:
    """Write the page; with a folder for each install, the metadata too."""
    reports = [json.loads(path.read_text(encoding="utf-8")) for path in (base, export)]
    titles = ("The base install", "With the extra `export`")
    PAGE.write_text(page(dict(zip(titles, map(packages, reports), strict=True))), encoding="utf-8")
    for report, site in zip(reports, sites, strict=False):
        write_metadata(report, site)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
