"""The same words typed again: the cache answers, and the command line, which takes longer, need not be loaded."""

from __future__ import annotations

import os
import sys

from attn_export.cache import place


def answered() -> bool:
    """Answer what was typed from the cache alone, as the command line would; False where that cannot be done.

    Raises:
        UsageError: a variable of the cache cannot be read.
        WriteError: the bundle cannot be written.
    """
    if len(sys.argv) < 2 or any(name.endswith("_COMPLETE") for name in os.environ):  # a shell asks for completions
        return False
    root = place.folder()
    if root is None or not os.path.lexists(root):
        return False
    from attn_export.tools import typed

    noted = typed.parameters(root)
    if noted is None:
        return False
    from attn_export.tools.commands import kept

    found, described = noted
    job = kept.job(found, described)
    as_json = bool(found["as_json"])
    return job is not None and job.show_kept(found["output"], tuple(sys.argv[1:]), as_json=as_json, noted=True)
