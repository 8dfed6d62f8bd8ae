"""Try the main job on public networks, each in a process of its own, and write what came as a page.

    python -m benchmarks.wild --python timm=ENV/bin/python --python transformers=ENV/bin/python --files DIR [NAME …]

Each library has an environment with this package and itself; none is a dependency of the project. Networks are built
with random weights: nothing is downloaded. Rows are added to ``docs/compatibility.jsonl`` as they come, and what is
there is not run again unless it is named. Without any environment only the page is written.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

from benchmarks.wild import row as rows
from benchmarks.wild.attempt import attempt
from benchmarks.wild.network import Network
from benchmarks.wild.networks import files, timm, torchvision, transformers, ultralytics
from benchmarks.wild.page import page

DOCS = Path(__file__).resolve().parents[2] / "docs"
ROWS, PAGE, ABOUT = DOCS / "compatibility.jsonl", DOCS / "compatibility.md", DOCS / "compatibility.json"
PUBLIC = (*transformers.NETWORKS, *ultralytics.NETWORKS, *torchvision.NETWORKS, *timm.NETWORKS)
#: Packages whose versions are told, beside the library's own.
TOLD = ("torch", "onnx", "onnxruntime", "onnxscript", "onnxsim")
#: Seconds that one row may take.
LIMIT = 180.0


def wanted(networks: Iterable[Network], names: Iterable[str], known: Iterable[tuple[str, str]]) -> list[Network]:
    """Choose what is named, by name or library; without names, what has not been run."""
    chosen, done = set(names), set(known)
    if chosen:
        return [one for one in networks if chosen & {one.name, one.library}]
    return [one for one in networks if one.key not in done]


def versions(python: Path, library: str) -> dict[str, str]:
    """Read the versions that an environment holds."""
    names = [*TOLD, library] if library != "files" else list(TOLD)
    script = (
        "import importlib.metadata as m, json, sys; print(json.dumps({name: m.version(name) for name in sys.argv[1:]}))"
    )
    done = subprocess.run([str(python), "-c", script, *names], capture_output=True, text=True, check=True)
    found: dict[str, str] = json.loads(done.stdout)
    return found


def _environments(texts: Iterable[str]) -> dict[str, Path]:
    pairs = (text.partition("=") for text in texts)
    return {library: Path(path).absolute() for library, _, path in pairs}


def _tell(environments: Mapping[str, Path]) -> None:
    about = json.loads(ABOUT.read_text(encoding="utf-8")) if ABOUT.exists() else {}
    about |= {library: versions(python, library) for library, python in environments.items()}
    ABOUT.write_text(json.dumps(about, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def rendered(file: Path, about: Path) -> str:
    """Render what was kept."""
    return page(rows.read(file).values(), json.loads(about.read_text(encoding="utf-8")))


def main() -> None:
    """Run what is wanted, then write the page."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("names", nargs="*", help="networks or libraries to run again")
    words.add_argument("--python", action="append", default=[], metavar="LIBRARY=PATH", help="an interpreter")
    words.add_argument("--files", type=Path, help="a folder with trained ONNX files")
    words.add_argument("--limit", type=float, default=LIMIT, help="seconds for one row")
    asked = words.parse_args()
    environments = _environments(asked.python)
    trained = files.networks(asked.files.absolute()) if asked.files else ()
    runnable = [one for one in (*PUBLIC, *trained) if one.library in environments]
    chosen = wanted(runnable, asked.names, rows.read(ROWS))
    if environments:
        _tell(environments)
    for number, network in enumerate(chosen, 1):
        found = attempt(network, environments[network.library], asked.limit)
        rows.append(ROWS, found)
        said = f"exit {found.exit}, {found.seconds} s {found.message[:120]}"
        print(f"{number}/{len(chosen)} {network.library} {network.name}: {said}", flush=True)
    rows.write(ROWS, rows.read(ROWS).values())
    PAGE.write_text(rendered(ROWS, ABOUT), encoding="utf-8")
    print(PAGE)


if __name__ == "__main__":
    main()
