"""Write a bundle again with what was compiled of it for a device that is not here, in its report and on its page."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from attn_export import bundle
from attn_export.bundle import Bundle, figures, versions
from attn_export.deploy_tests.backend import Evidence
from attn_export.deploy_tests.parity.simulated import Simulated
from attn_export.pipeline.report import compile_evidence, page


def keep_evidence(whole: Bundle, evidence: Evidence, simulated: Simulated | None = None) -> str:
    """Write the bundle again with the evidence in its report and, where jinja2 is there, on its page; its new digest.

    What was known of the same product, version, chip and precision is replaced. Nothing is added to a bundle that is
    signed: no signature would hold for what it becomes. Then the digest is empty.

    Raises:
        BundleError: the report cannot be read, or the bundle was replaced meanwhile.
        WriteError: it cannot be written.
    """
    if os.path.lexists(whole.signature):
        return ""
    new = compile_evidence.record(evidence, simulated)
    report = report_of(whole)
    others = [item for item in report.get(compile_evidence.KEY, []) if _target(item) != _target(new)]
    report[compile_evidence.KEY] = [*others, new]
    return written(whole, report)


def report_of(whole: Bundle) -> dict[str, Any]:
    """Give a bundle's report; one without a run where it has none.

    Raises:
        BundleError: it cannot be read.
    """
    if bundle.REPORT in whole.manifest["files"]:
        return bundle.report(whole)
    return {versions.KEY: bundle.SCHEMA_VERSION, "runs": []}


def written(whole: Bundle, report: Mapping[str, Any]) -> str:
    """Write a bundle again with another report and, where jinja2 is there, the page of it; its new digest.

    Raises:
        BundleError: the report is none, or the bundle was replaced meanwhile.
        WriteError: it is signed, or cannot be written.
    """
    html = _page(whole, report)
    with bundle.rewriting(whole) as folder:
        bundle.write_json(folder / bundle.REPORT, report)
        if html is not None:
            (folder / bundle.PAGE).write_text(html, encoding="utf-8")
        bundle.write_manifest(folder, whole.manifest)
    return bundle.digest(whole.path)


def _target(item: Mapping[str, Any]) -> tuple[Any, ...]:
    return item["product"], item["version"], *(item.get(key, "") for key in ("sm", "chip", "precision"))


def _page(whole: Bundle, report: Mapping[str, Any]) -> str | None:
    """Make the page anew; None on a device without jinja2, where ``attn-export report`` cannot make one either."""
    if find_spec("jinja2") is None:
        return None
    return page.render(whole.manifest, figures.filled(report, str(whole.path)), whole.path.name)
