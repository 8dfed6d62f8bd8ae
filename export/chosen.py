"""Choose among what a network gives, and name it: ``boxes,scores``, or ``boxes=0,scores=1`` where it has no names."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from torch import Tensor, nn

from attn_export.errors import UsageError
from attn_export.export import training
from attn_export.export.copies import copied
from attn_export.export.outputs import called, exportable, flatten, left_out
from attn_export.untrusted.text import few

#: Names that an error lists.
_SHOWN = 30


class Chosen:
    """A hook behind forward: what it gives becomes tensors by name."""

    def __init__(self, inputs: Iterable[str], names: Mapping[str, str]) -> None:
        self.inputs, self.names = tuple(inputs), dict(names)

    def __call__(self, _module: nn.Module, _arguments: object, outputs: object) -> dict[str, Tensor]:
        """Give the chosen outputs under their new names."""
        found = flatten(outputs, self.inputs)
        return {new: found[old] for new, old in self.names.items()}


def settle(
    module: nn.Module, inputs: Mapping[str, Tensor], words: Sequence[str] = ()
) -> tuple[dict[str, str], tuple[str, ...]]:
    """Let a module give the outputs that ``words`` choose, or else all that are tensors.

    What is run is a copy: a module that keeps something from its first run would be traced as of the second.

    Returns:
        what was chosen, as ``choose`` gives it; nothing without ``words``. And what the user should know.

    Raises:
        SubjectError: it does not run, gives no tensor, or puts a part of itself in training mode.
        UsageError: there is no such output.
    """
    ran = copied(module)
    outputs = called(ran, inputs)
    training.refuse(ran, ran=True)
    names = list(flatten(outputs, inputs))
    chosen = choose(words, names, inputs, type(module).__name__)
    dropped = left_out(outputs)
    if words or dropped or not exportable(outputs):
        module.register_forward_hook(Chosen(inputs, chosen or {name: name for name in names}))
    said = f"outputs that are left out, as they are no tensors: {few(dropped, _SHOWN)}" if dropped else ""
    return chosen, tuple(filter(None, (said, unchosen(names, chosen))))


def choose(words: Sequence[str], known: Sequence[str], inputs: Collection[str], owner: str) -> dict[str, str]:
    """Read ``--outputs``: by new name the old one, in the order in which they are wanted.

    A word is a name, or a position from 0 on; ``new=old`` gives another name.

    Raises:
        UsageError: there is no such output, or two would be one.

    >>> choose(["scores", "boxes=0"], ["y0", "scores"], [], "Net")
    {'scores': 'scores', 'boxes': 'y0'}
    """
    chosen = dict[str, str]()
    for word in words:
        new, _, old = word.partition("=") if word not in known else (word, "", word)
        old = _known(old or new, known, owner, word)
        new = old if new.isdecimal() else new
        if new in inputs and new not in known:
            raise UsageError(f"--outputs: {new!r} is an input of {owner}; give the output another name")
        if new in chosen or old in chosen.values():
            raise UsageError(f"--outputs names {new if new in chosen else old!r} twice; each output is given once")
        chosen[new] = old
    return chosen


def unchosen(known: Sequence[str], chosen: Mapping[str, str]) -> str:
    """Say what is left out by choice."""
    left = [name for name in known if name not in chosen.values()] if chosen else []
    return f"outputs that are left out, as --outputs does not name them: {few(left, _SHOWN)}" if left else ""


def _known(text: str, known: Sequence[str], owner: str, word: str) -> str:
    if text in known:
        return text
    if text.isdecimal() and int(text) < len(known):
        return known[int(text)]
    raise UsageError(
        f"--outputs: {owner} gives {few(known, _SHOWN)} (or by position, 0 to {len(known) - 1}); got {word!r};"
        " write names of these, or new=old"
    )
