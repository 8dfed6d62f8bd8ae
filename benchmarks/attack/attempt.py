"""One hostile input and what became of it: the words that the whole bench speaks in."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

#: What an attempt can do that it must not, worst first. An attempt without any of these ended well.
FLAWS = {
    "executed": "code from the input ran",
    "lost": "a file outside the target was changed or removed",
    "traceback": "an exception that is not ours, or exit code 70",
    "death": "it died by a signal",
    "hang": "it did not end",
    "memory": "it took more memory than allowed",
    "left": "it left files or processes behind",
    "exit": "an exit code that no document knows",
    "escape": "control characters, markup or broken XML came out",
    "wordy": "the error is no sentence",
}
#: What the parent of a real run catches: the worker of the bench has no such parent.
CONTAINED = ("death", "hang", "memory")
#: Exit codes that the documentation knows for a run that nobody interrupted.
DOCUMENTED = (0, 1, 2, 3, 4, 5)


@dataclass(frozen=True)
class Attempt:
    """A command line, with its files already lying in the working folder.

    Attributes:
        words: as typed after ``attn-export``; paths as seen from the working folder.
        what: the harm in words.
        writes: patterns of what may appear or change in the working folder.
        full: whether also what is dear (exporting, measuring, sweeping) is run, and not only reached.
        kind_of_output: what standard output must be where the code is 0 or 1: ``xml``, ``json``, a ``page`` or nothing.
        paste: whether command lines that are printed are pasted into a shell, to see that they are only what they say.
    """

    words: tuple[str, ...]
    what: str
    writes: tuple[str, ...] = ()
    full: bool = False
    kind_of_output: str = ""
    paste: bool = False


@dataclass(frozen=True)
class AttemptOutcome:
    """What became of an attempt.

    Attributes:
        kind: of input.
        seed: of input; kind and seed make it again.
        mode: ``in`` process or ``cli``.
        flaws: keys of ``FLAWS``; none where it ended well.
        code: the exit code, or None where there was none.
        text: the last thing that was said, or the exception.
        where: file, line and function of ours that an exception passed last; the same fault has the same place.
        what: the harm in words.
        words: the command line.
        seconds: wall time.
    """

    kind: str
    seed: int
    mode: str
    flaws: tuple[str, ...]
    code: int | None
    text: str
    where: str = ""
    what: str = ""
    words: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def clean(self) -> bool:
        """Whether it ended as a run should."""
        return not self.flaws

    @property
    def signature(self) -> str:
        """Equal for outcomes that have one cause, as far as a machine can tell."""
        return f"{'+'.join(self.flaws)} {self.where or self.text[:60]}"

    def dumps(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def loads(cls, line: str) -> AttemptOutcome:
        """From one line of JSON."""
        values = json.loads(line)
        return cls(**{**values, "flaws": tuple(values["flaws"]), "words": tuple(values["words"])})


#: Puts hostile files into the working folder (first argument), made of originals (second), and says what to run.
Generator = Callable[[Path, Path, Random], Attempt]
