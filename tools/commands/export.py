"""``export``: from what was typed to a subject, through the pipeline, to what is printed."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from attn_export import bundle
from attn_export.errors import InconclusiveError
from attn_export.export import sources
from attn_export.export.source import SourceOptions
from attn_export.pipeline.options import DeployOptions
from attn_export.tools import account as accounts
from attn_export.tools import console
from attn_export.tools.commands import stored
from attn_export.tools.commands.kept import Job
from attn_export.tools.commands.kept_stages import Stages
from attn_export.tools.progress import TerminalProgress


def export(
    wanted: SourceOptions,
    asked: DeployOptions,
    job: Job | None,
    *,
    store: Path | None = None,
    as_json: bool,
    verbosity: int,
) -> None:
    """Run the main job and print its table, or one JSON object; ``job`` and ``store`` keep the result, where given."""
    began = time.time()
    progress = TerminalProgress(verbosity)
    if asked.output:
        bundle.may_write(asked.output)  # said before anything is loaded
    with progress.stage("load"):
        with job.loading() if job else contextlib.nullcontext():
            subject = sources.load(wanted)
        from attn_export.pipeline import deploy

    weights = "" if wanted.weights is None else subject.weights
    if weights and verbosity >= 0:
        console.say(f"weights: {weights}", err=True)
    if subject.random:
        progress.warn(
            "no --weights given: using seeded random weights; this checks the conversion, not your model's accuracy"
        )
    shelf = Stages(job, asked.command) if job else None
    outcome = deploy.deploy(subject, asked, progress, shelf=shelf)
    name = outcome.path.name if asked.output is None else Path(subject.name.replace(":", "-")).name
    account = accounts.made(outcome, name=name, weights=weights, warnings=tuple(progress.warned))
    since = shelf.since if shelf else None
    accounts.show(account, outcome.path, bundle.digest(outcome.path), stages=since, as_json=as_json)
    when = began if job is None else job.began  # the cache has it too, so that a result that it gives is the same run
    stored.keep_bundle(store, "export", outcome.path, when=when)
    if outcome.comparison and outcome.comparison.void:
        raise InconclusiveError("parity passed and the bundle was written, but there is no latency ratio (see above)")
    if job is not None:
        job.keep(account, outcome.path, asked.command, outcome.path.name)
