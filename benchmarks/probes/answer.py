"""What a converter or a compiler said of a probe."""

from __future__ import annotations

import re
from dataclasses import dataclass

from attn_export.untrusted.text import one_line

#: Letters of a reason that are kept.
LONGEST = 240
#: A folder in front of a file's name.
_FOLDER = re.compile(r"(?<![\w.])/(?:[^\s/:'\"]+/)+")
#: What a node or a tensor was called, and how large it was, in one probe of many.
_NAMES = re.compile(r" (?:named )?'[\w.:/-]+'(?=[,;: ]|$)| with inputs \{[^}]*\}|(?<=axis \d) of \w+, \[[\d, ]+\],")
KINDS = ("taken", "cpu", "refused", "wrong", "unknown")


@dataclass(frozen=True)
class Answer:
    """What came of one probe.

    Attributes:
        kind: ``taken``; ``cpu`` where the accelerator leaves it; ``refused``; ``wrong`` where it is taken and means
            something else; ``unknown`` where nothing can be said.
        reason: in the words of who said no, or what is wrong; empty where it is taken.
    """

    kind: str
    reason: str = ""

    def __post_init__(self) -> None:
        if self.kind not in KINDS or (self.kind == "taken") is bool(self.reason):
            raise ValueError(f"expected one of {', '.join(KINDS)}, with a reason unless taken, got {self}")


TAKEN = Answer("taken")


def said(kind: str, reason: str) -> Answer:
    """Give an answer with its reason on one line, not too long, and without the folders of a run.

    >>> said("refused", "ncnn breaks on /tmp/tmpozlr/converted-ncnn/ncnn.param")
    Answer(kind='refused', reason='ncnn breaks on ncnn.param')
    """
    line = _NAMES.sub("", _FOLDER.sub("", one_line(reason))) or "no reason was given"
    return Answer(kind, line if len(line) <= LONGEST else f"{line[:LONGEST].rstrip()} …")
