"""Whether a deployed model is as often right as the original: the same labelled images through both, in pairs.

             deployed right    deployed wrong
    original right     -              lost
    original wrong   gained             -            change = (gained - lost) / n

The interval of the change is the score interval for paired proportions (T. Tango, "Equivalence test and confidence
interval for the difference in proportions for the paired-sample design", Statistics in Medicine 17, 1998, 891-908): all
changes d that a score test at 5 % would not reject,

    |gained - lost - n d| <= z sqrt(n (2 q + d (1 - d)))

where q is the most likely share of lost ones if the change were d, the root of a quadratic equation. It is defined
where no answer flipped at all, as is the rule for a good INT8 model: then it is ± z² / (n + z²).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from attn_export.errors import GateError, InconclusiveError, UsageError
from attn_export.types import JsonDict, Summarised

#: The normal distribution's 97.5 % point: of a two-sided interval of 95 %.
Z = 1.959963984540054
#: Images beyond which nobody is sent for more.
_MANY = 10**9
#: Steps of a bisection: to the last bit of a float64.
_STEPS = 100


@dataclass(frozen=True)
class Answer:
    """What a model answered on one image.

    Attributes:
        choice: the class with the largest score.
        prepared: hash of the very numbers that the model was given.
    """

    choice: int
    prepared: str


@dataclass(frozen=True)
class Flip:
    """One image that the two answer differently.

    Attributes:
        image: its name.
        label: what is right.
        original: what the original answers.
        deployed: what the deployed model answers.
    """

    image: str
    label: int
    original: int
    deployed: int


@dataclass(frozen=True)
class Accuracy(Summarised):
    """How often each of the two is right, on the same images.

    Attributes:
        images: how many.
        original: how many the original gets right.
        deployed: how many the deployed model gets right.
        gained: how many only the deployed model gets right.
        lost: how many only the original gets right.
        low: lower end of the change's 95 % interval, in shares of one.
        high: upper end.
        flips: the images that are answered differently, by name.
    """

    images: int
    original: int
    deployed: int
    gained: int
    lost: int
    low: float
    high: float
    flips: tuple[Flip, ...]

    @property
    def change(self) -> float:
        """Accuracy of the deployed model minus the original's; negative where it lost."""
        return (self.gained - self.lost) / self.images

    def summary(self) -> str:
        """Say it in one line.

        >>> Accuracy(100, 90, 89, 1, 2, -0.05, 0.03, ()).summary()
        'top-1 of 100 images: 90.0 % original, 89.0 % deployed, change -1.0 points, 95 % interval [-5.0, +3.0]'
        """
        before, after = 100 * self.original / self.images, 100 * self.deployed / self.images
        ends = f"[{100 * self.low:+.1f}, {100 * self.high:+.1f}]"
        return (
            f"top-1 of {self.images} images: {before:.1f} % original, {after:.1f} % deployed, change"
            f" {100 * self.change:+.1f} points, 95 % interval {ends}"
        )

    def to_dict(self) -> JsonDict:
        """Give it as plain data, for a manifest."""
        return {
            **{name: value for name, value in vars(self).items() if name != "flips"},
            "flips": [vars(flip) for flip in self.flips],
        }


def paired(labels: Mapping[str, int], original: Mapping[str, Answer], deployed: Mapping[str, Answer]) -> Accuracy:
    """Compare two models' answers on labelled images, by the images' names.

    Raises:
        UsageError: there are no labelled images.
        GateError: the two were not given the same images, or not prepared alike.
    """
    if not labels:
        raise UsageError("--labels: expected a label for at least one image of --data that is not used to calibrate")
    for name in labels:
        one, other = original.get(name), deployed.get(name)
        if one is None or other is None or one.prepared != other.prepared:
            raise GateError(
                f"original and deployed model were not given the same input for {name!r}, so their answers cannot be"
                " compared; prepare images once, for both"
            )
    right = {name: (original[name].choice == label, deployed[name].choice == label) for name, label in labels.items()}
    gained, lost = (sum(pair == wanted for pair in right.values()) for wanted in ((False, True), (True, False)))
    low, high = interval(len(labels), gained, lost)
    flips = tuple(
        Flip(name, label, original[name].choice, deployed[name].choice)
        for name, label in sorted(labels.items())
        if original[name].choice != deployed[name].choice
    )
    before, after = (sum(pair[side] for pair in right.values()) for side in (0, 1))
    return Accuracy(len(labels), before, after, gained, lost, low, high, flips)


def interval(images: float, gained: float, lost: float) -> tuple[float, float]:
    """Compute the 95 % score interval of the change; counts may be fractions, for what is only planned.

    >>> [round(end, 4) for end in interval(100, 0, 0)]
    [-0.037, 0.037]
    """

    def excess(change: float) -> float:
        """How far the score at this change lies from zero, in units of its deviation; falls with the change."""
        spread = images * (2 * _share_lost(images, gained, lost, change) + change * (1 - change))
        distance = gained - lost - images * change
        return distance / math.sqrt(spread) if spread > 0 else math.copysign(math.inf, distance) if distance else 0.0

    middle = (gained - lost) / images
    return _root(lambda d: excess(d) - Z, -1.0, middle), _root(lambda d: excess(d) + Z, middle, 1.0)


def _share_lost(images: float, gained: float, lost: float, change: float) -> float:
    """Give the most likely share of lost images if the change were ``change``."""
    a = 2 * images
    b = -gained - lost + (2 * images - gained + lost) * change
    c = -lost * change * (1 - change)
    return (math.sqrt(max(0.0, b * b - 4 * a * c)) - b) / (2 * a)


def _root(function: Callable[[float], float], low: float, high: float) -> float:
    """Find where a falling function crosses zero."""
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if function(middle) > 0 else (low, middle)
    return (low + high) / 2


def judge(found: Accuracy, most: float) -> Literal["passed", "failed", "inconclusive"]:
    """Say by the interval whether the model lost at most ``most`` of its accuracy, in shares of one."""
    if found.low >= -most:
        return "passed"
    return "failed" if found.high < -most else "inconclusive"


def needed(found: Accuracy, most: float) -> int | None:
    """Say about how many images would tell, if answers flipped as often in them; None where no number would."""
    share = found.gained / found.images, found.lost / found.images

    def tells(images: int) -> bool:
        low, high = interval(images, images * share[0], images * share[1])
        return low >= -most or high < -most

    high = found.images
    while not tells(high):
        high *= 2
        if high > _MANY:
            return None
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if tells(middle) else (middle, high)
    return high


def refuse(found: Accuracy, most: float) -> None:
    """Hold a model to a drop of at most ``most``, in shares of one.

    Raises:
        GateError: it lost more.
        InconclusiveError: so many images cannot tell.
    """
    verdict = judge(found, most)
    if verdict == "failed":
        raise GateError(f"{found.summary()}; at most {100 * most:g} points may be lost (--top1-drop)")
    if verdict == "inconclusive":
        more = needed(found, most)
        way = "no number of images would" if more is None else f"about {more} are needed"
        raise InconclusiveError(
            f"{found.summary()}; {found.images} images cannot tell whether it lost more than {100 * most:g} points,"
            f" {way}: add labelled images to --data, or allow more with --top1-drop"
        )
