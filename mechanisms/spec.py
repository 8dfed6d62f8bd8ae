"""What a catalogue entry says about itself: paper, constructor, inputs, presets, checkpoint names.

A Spec is data, free of torch, and its literal form in a mechanism's file can be read without running that file
(see ``card``). Keep it literal: strings, numbers, tuples, dicts, the classes below and the name of the constructor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from attn_export.errors import UnknownNameError
from attn_export.types import Dim as Dim

Dtype = Literal["float16", "bfloat16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool"]

#: What vision networks are compared on.
Task = Literal["classification", "detection", "segmentation", "video", "sequence"]


def is_float(dtype: str) -> bool:
    """Whether an element type has fractions.

    >>> is_float("bfloat16"), is_float("int8")
    (True, False)
    """
    return "float" in dtype


@dataclass(frozen=True)
class Paper:
    """Where a mechanism comes from."""

    title: str
    authors: str
    venue: str
    arxiv: str = ""

    @property
    def url(self) -> str:
        """Link to the abstract, or an empty string where no arXiv number is known."""
        return f"https://arxiv.org/abs/{self.arxiv}" if self.arxiv else ""


@dataclass(frozen=True)
class Input:
    """One input tensor: its name, its shape by numbers and dimension names, and its element type.

    ``high`` bounds integer inputs (values lie in ``[0, high)``): a number, or the name of a constructor argument.
    ``within`` bounds numbers of any type, both ends included, and goes before ``high``.
    """

    name: str
    shape: tuple[int | str, ...]
    dtype: Dtype = "float32"
    high: int | str = 2
    within: tuple[float, float] | None = None


@dataclass(frozen=True)
class Preset:
    """One way to build an entry: constructor arguments and the size of every dimension named in its inputs.

    Dimension names are looked up in ``sizes`` first, then in ``arguments``; ``b`` is 2 unless given.
    ``build`` replaces the Spec's constructor, ``dynamic`` its dimensions, where a preset needs others.
    """

    arguments: Mapping[str, Any] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)
    build: Callable[..., Any] | None = None
    inputs: tuple[Input, ...] | None = None
    dynamic: tuple[Dim, ...] | None = None


@dataclass(frozen=True)
class Source:
    """A published implementation: how its state dict is known, and what makes the entry the same function.

    Names alone do not say what a network computes: two publications may use the same names for different formulas.

    Attributes:
        of: whose it is and what is peculiar to it, for people.
        shown_by: regular expressions; each is found in some name of its state dicts.
        not_by: regular expressions that are found in none of their names.
        arguments: of the constructor, over those of the preset.
        sized: arguments that a tensor's shape tells: argument → (regular expression on its name, axis).
        reads: arguments that only a computation on the state dict tells.
        only_asked: never taken by what the state dict shows, only where the user names it.
        refused: empty, or the sentence that says why nothing here computes the same.
        refused_under: presets under which it is refused, each with its sentence.
        checkpoint: as the Spec's.
        convert: as the Spec's; where the source has one of the two, the Spec's play no part.
    """

    of: str
    shown_by: tuple[str, ...] = ()
    not_by: tuple[str, ...] = ()
    arguments: Mapping[str, Any] = field(default_factory=dict)
    sized: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    reads: Callable[[dict[str, Any]], Mapping[str, Any]] | None = None
    only_asked: bool = False
    refused: str = ""
    refused_under: Mapping[str, str] = field(default_factory=dict)
    checkpoint: Mapping[str, str | None] = field(default_factory=dict)
    convert: Callable[[dict[str, Any]], dict[str, Any]] | None = None


@dataclass(frozen=True)
class Spec:
    """A catalogue entry.

    Attributes:
        paper: where the mechanism comes from.
        build: the constructor; called with a preset's arguments it gives the module.
        inputs: what ``forward`` takes, in order.
        dynamic: the dimensions that may vary without new weights.
        presets: named configurations. ``test`` is small; ``readme`` is the usual demonstration size.
        variants: named configurations whose options change the graph.
        default: the preset that the command line takes when none is named.
        checkpoint: pairs of a regular expression on External-Attention-pytorch's parameter names and its
            replacement in ours, applied in order; None as replacement drops the parameter (never used there).
        convert: for what names cannot say: a function on the state dict (torch tensors) before the renaming.
        sources: published implementations whose names fit and whose function differs from the presets', by the name
            that ``--variant`` takes.
        float16_unsafe: empty, or the sentence that says why the mathematics cannot be kept in float16.
        tasks: those that the paper reports results on; restoration, generation and pose are none of them.
    """

    paper: Paper
    build: Callable[..., Any]
    inputs: tuple[Input, ...]
    presets: Mapping[str, Preset]
    dynamic: tuple[Dim, ...] = (Dim("b"),)
    variants: Mapping[str, Preset] = field(default_factory=dict)
    default: str = "readme"
    checkpoint: Mapping[str, str | None] = field(default_factory=dict)
    convert: Callable[[dict[str, Any]], dict[str, Any]] | None = None
    sources: Mapping[str, Source] = field(default_factory=dict)
    float16_unsafe: str = ""
    tasks: tuple[Task, ...] = ("classification",)

    @property
    def configurations(self) -> dict[str, Preset]:
        """Presets and variants together, by name."""
        return {**self.presets, **self.variants}

    def named(self, entry: str, preset: str | None = None) -> str:
        """Name the configuration that is meant: where none is asked for ``default``, or the first preset.

        Raises:
            UnknownNameError: ``entry`` has none of the name that was asked for.
        """
        known = self.configurations
        chosen = preset or (self.default if self.default in known else next(iter(self.presets)))
        if chosen not in known:
            raise UnknownNameError(f"preset of {entry}", chosen, known)
        return chosen


def call(name: str, arguments: Mapping[str, Any]) -> str:
    """Write a call of a constructor.

    >>> call("SE", {"channels": 8, "act": "relu"})
    "SE(channels=8, act='relu')"
    """
    return f"{name}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})"


def sizes_of(inputs: tuple[Input, ...], preset: Preset) -> dict[str, int]:
    """Resolve every dimension name of ``inputs`` to its size under ``preset``.

    Raises:
        KeyError: a name is neither in the preset's sizes nor in its arguments.

    >>> sizes_of((Input("x", ("b", "channels", "h")),), Preset({"channels": 8}, {"h": 7}))
    {'b': 2, 'channels': 8, 'h': 7}
    """
    known = {"b": 2, **preset.arguments, **preset.sizes}
    names = dict.fromkeys(dim for item in inputs for dim in item.shape if isinstance(dim, str))
    return {name: int(known[name]) for name in names}
