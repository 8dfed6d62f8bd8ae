"""Size of a large model's report, and how long a real browser takes to open it.

    python -m benchmarks.report BUNDLE --nodes 300

The bundle's own report is taken, its nodes and kernels repeated up to the number asked for.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from attn_export import bundle
from attn_export.pipeline.report.page import render

_QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
)  # fmt: skip
#: Milliseconds from the start of the navigation until the page is parsed, loaded and laid out.
_PROBE = (
    "<script>addEventListener('load', () => { document.body.getBoundingClientRect();"
    "document.body.dataset.opened = performance.now() })</script></body>"
)


def grown(manifest: dict[str, Any], report: dict[str, Any], nodes: int) -> None:
    """Repeat the nodes and kernels of a report, in place, until there are ``nodes``."""
    for run in report["runs"]:
        if profile := run.get("profile"):
            rows = profile["rows"]
            profile["rows"] = [
                {**rows[i % len(rows)], "name": f"{rows[i % len(rows)]['name']}.{i}"} for i in range(nodes)
            ]
    for stage in manifest["stages"]:
        stage["nodes"] = nodes


def opened(page: Path, browser: str) -> float:
    """Milliseconds that the browser takes from navigation to a page that is laid out."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            browser,
            *_QUIET,
            f"--user-data-dir={folder}",
            "--dump-dom",
            page.as_uri(),
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = re.search(r'data-opened="([\d.]+)"', done.stdout)
    if not found:
        raise SystemExit("the browser did not say when the page was open")
    return float(found[1])


def main() -> None:
    """Measure and print."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("bundle", type=Path)
    words.add_argument("--nodes", type=int, default=300)
    words.add_argument("--repeats", type=int, default=7)
    asked = words.parse_args()
    manifest = json.loads((asked.bundle / bundle.MANIFEST).read_text(encoding="utf-8"))
    report = json.loads((asked.bundle / bundle.REPORT).read_text(encoding="utf-8"))
    grown(manifest, report, asked.nodes)
    began = time.perf_counter()
    page = render(manifest, report, asked.bundle.name)
    print(f"{asked.nodes} nodes: {len(page.encode()) / 1e3:.0f} kB, rendered in {time.perf_counter() - began:.2f} s")
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if not browser:
        raise SystemExit("no Chromium here: apt-get install chromium")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / bundle.PAGE
        file.write_text(page.replace("</body>", _PROBE), encoding="utf-8")
        times = sorted(opened(file, browser) for _ in range(asked.repeats))
    print(f"opened in {times[len(times) // 2]:.0f} ms (median of {len(times)}, {times[0]:.0f} to {times[-1]:.0f})")
    print(f"load {os.getloadavg()[0]:.2f}")


if __name__ == "__main__":
    main()
