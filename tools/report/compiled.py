"""What was compiled without a GPU, in a bundle's report: level E1, which product, version and SM, and "not run"."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from attn_export import bundle
from attn_export.bundle import Bundle
from attn_export.deploy_tests.backends.tensorrt.evidence import CompileEvidence
from attn_export.errors import BundleError, WriteError

KEY = "compiled"


def record(evidence: CompileEvidence) -> dict[str, Any]:
    """The evidence as a report keeps it: but for the engine, which is not kept."""
    return {key: value for key, value in evidence.as_json().items() if not key.startswith("engine_")}


def keep(whole: Bundle, evidence: CompileEvidence) -> None:
    """Write the evidence into the bundle's ``report.json`` and, where jinja2 is there, its page.

    What was known of the same product, version and SM is replaced.

    Raises:
        BundleError: the report cannot be read.
        WriteError: it cannot be written.
    """
    file, new = whole.path / bundle.REPORT, record(evidence)
    try:
        report = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"runs": []}
    except (OSError, ValueError) as error:
        raise BundleError(f"{whole.path} has no {bundle.REPORT} that can be read: {error}") from error
    others = [item for item in report.get(KEY, []) if _target(item) != _target(new)]
    report[KEY] = [*others, new]
    try:
        partial = file.with_name(f".{file.name}.partial")
        bundle.write_json(partial, report)
        partial.replace(file)
        if (page := _page(whole, report)) is not None:
            partial.write_text(page, encoding="utf-8")
            partial.replace(whole.path / bundle.PAGE)
    except OSError as error:
        raise WriteError(f"cannot write the evidence into {whole.path}: {error.strerror or error}") from error


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
    from attn_export.tools.report import page

    return page.render(whole.manifest, report, whole.path.name)
