"""``report``: a bundle's report as HTML, Markdown, JUnit XML, SARIF or JSON."""

from __future__ import annotations

import json
from pathlib import Path

from attn_export import bundle
from attn_export.bundle import figures
from attn_export.errors import UnknownNameError, WriteError
from attn_export.pipeline.report import formats, page
from attn_export.tools import console
from attn_export.tools.commands import output as target

FORMATS = ("html", "markdown", "junit", "sarif", "json")


def report(path: Path, kind: str, output: Path | None) -> None:
    """Print the report, or write it to ``output``."""
    if kind not in FORMATS:
        raise UnknownNameError("report format", kind, FORMATS)
    place = None if output is None else target.file(output, target.is_report, "a bundle's report")
    whole = bundle.read(path)
    raw = bundle.report(whole)
    content = figures.filled(raw, str(path))
    match kind:
        case "html":
            text = page.render(whole.manifest, content, path.name)
        case "markdown":
            text = formats.markdown(whole.manifest, content, path.name)
        case "junit":
            text = formats.junit(whole.manifest, content)
        case "sarif":
            text = formats.sarif(whole.manifest, content)
        case _:
            text = json.dumps(raw, indent=1)
    if place is None:
        console.document(text)
        return
    partial = place.with_name(f".{place.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(place)
    except OSError as error:
        raise WriteError(f"cannot write {output}: {error.strerror or error}") from error
