"""Write a bundle again with what ran of it on another machine, in its report and on its page."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from attn_export.bundle import Bundle
from attn_export.pipeline.report.keep_evidence import report_of, written
from attn_export.pipeline.report.run_device import DEVICE

#: What a run is about: one that proves does not replace one that measures.
_PARTS = ("parity", "latency")


def keep_runs(whole: Bundle, runs: Sequence[Mapping[str, Any]]) -> str:
    """Write the bundle again with ``runs`` of a device in its report; its new digest.

    What was known of the same device, backend and artifact in the same respect is replaced. Nothing is added to a
    bundle that is signed: no signature would hold for what it becomes. Then, and where there is nothing to add, the
    digest is empty.

    Raises:
        BundleError: the report cannot be read, a run is none, or the bundle was replaced meanwhile.
        WriteError: it cannot be written.
    """
    if os.path.lexists(whole.signature) or not runs:
        return ""
    report = report_of(whole)
    new = {_about(run): dict(run) for run in runs}
    report["runs"] = [*(run for run in report["runs"] if _about(run) not in new), *new.values()]
    return written(whole, report)


def _about(run: Mapping[str, Any]) -> tuple[Any, ...]:
    device = run.get("environment", {}).get(DEVICE) or {}
    if not device:
        return (id(run),)  # of the machine that wrote the bundle: never replaced
    return (
        device.get("host"), device.get("address"), run.get("backend"), run.get("artifact"),
        *(part for part in _PARTS if run.get(part)),
    )  # fmt: skip
