"""``export``: from what was typed to a subject, through the pipeline, to what is printed."""

from __future__ import annotations

from attn_export import bundle
from attn_export.errors import InconclusiveError
from attn_export.export import sources
from attn_export.export.source import SourceOptions
from attn_export.pipeline.options import DeployOptions
from attn_export.tools import console
from attn_export.tools.progress import TerminalProgress
from attn_export.untrusted.text import command


def export(wanted: SourceOptions, asked: DeployOptions, *, as_json: bool, verbosity: int) -> None:
    """Run the main job and print its table, or one JSON object."""
    progress = TerminalProgress(verbosity)
    if asked.output:
        bundle.may_write(asked.output)  # said before anything is loaded
    with progress.stage("load"):
        subject = sources.load(wanted)
        from attn_export.pipeline import deploy
        from attn_export.tools import summary

    if wanted.weights is not None and verbosity >= 0:
        console.say(f"weights: {subject.weights}", err=True)
    if subject.random:
        progress.warn(
            "no --weights given: using seeded random weights; this checks the conversion, not your model's accuracy"
        )
    outcome = deploy.deploy(subject, asked, progress)
    digest = bundle.digest(outcome.path)
    if as_json:
        console.emit({**outcome.to_dict(), "digest": digest})
    else:
        console.show(summary.stages(outcome))
        console.say(*summary.sentences(outcome))
        proof = command("attn-export", "verify", outcome.path)
        console.say(f"bundle: {outcome.path}/   verify it anywhere: {proof}")
        console.say(f"digest: {digest}   check a copy against it: --expect {digest[:14]}…")
    if outcome.comparison and outcome.comparison.void:
        raise InconclusiveError("parity passed and the bundle was written, but there is no latency ratio (see above)")
