"""What was compiled without a GPU, in a bundle's report: level E1, which product, version and SM, and "not run"."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from attn_export import bundle
from attn_export.bundle import Bundle, figures
from attn_export.deploy_tests.backends.tensorrt.evidence import CompileEvidence

KEY = "compiled"


def record(evidence: CompileEvidence) -> dict[str, Any]:
    """The evidence as a report keeps it: but for the engine, which is not kept."""
    return {key: value for key, value in evidence.to_dict().items() if not key.startswith("engine_")}


def keep_evidence(whole: Bundle, evidence: CompileEvidence) -> str:
    """Write the bundle again with the evidence in its report and, where jinja2 is there, on its page; its new digest.

    What was known of the same product, version and SM is replaced. Nothing is added to a bundle that is signed: no
    signature would hold for what it becomes. Then the digest is empty.

    Raises:
        BundleError: the report cannot be read, or the bundle was replaced meanwhile.
        WriteError: it cannot be written.
    """
    if os.path.lexists(whole.signature):
        return ""
    new = record(evidence)
    report = bundle.report(whole) if bundle.REPORT in whole.manifest["files"] else {"runs": []}
    others = [item for item in report.get(KEY, []) if _target(item) != _target(new)]
    report[KEY] = [*others, new]
    page = _page(whole, report)
    with bundle.rewriting(whole) as folder:
        bundle.write_json(folder / bundle.REPORT, report)
        if page is not None:
            (folder / bundle.PAGE).write_text(page, encoding="utf-8")
        bundle.write_manifest(folder, whole.manifest)
    return bundle.digest(whole.path)


def sentences(report: Mapping[str, Any]) -> list[str]:
    """A line for each build, in the only words that may be used.

    >>> plan = {"kernels": 7, "fused_attention": 1}
    >>> claim = "builds under TensorRT for RTX 1.7.1 (SM86), not run"
    >>> sentences({"compiled": [{"level": "E1", "claim": claim, "plan": plan}]})
    ['E1: builds under TensorRT for RTX 1.7.1 (SM86), not run; 7 kernels, 1 fused attention']
    """
    return [
        f"{item['level']}: {item['claim']}; {item['plan']['kernels']} kernels,"
        f" {item['plan']['fused_attention']} fused attention"
        for item in report.get(KEY, [])
    ]


def _target(item: Mapping[str, Any]) -> tuple[Any, ...]:
    return item["product"], item["version"], item["sm"]


def _page(whole: Bundle, report: Mapping[str, Any]) -> str | None:
    """The report as a page; None on a device without jinja2, where ``attn-export report`` cannot make one either."""
    from importlib.util import find_spec

    if find_spec("jinja2") is None:
        return None
    from attn_export.pipeline.report import page

    return page.render(whole.manifest, figures.filled(report, str(whole.path)), whole.path.name)
