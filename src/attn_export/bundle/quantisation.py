"""What a manifest says of an int8 model: how it was made, what it was measured to keep, and what it is held to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from attn_export.types import Count, Decibel, Text
from attn_export.untrusted.fields import Within

Share = Annotated[float, Within(0, 1)]
Change = Annotated[float, Within(-1, 1)]
Ratio = Annotated[float, Within(1e-6, 1e6)]


@dataclass(frozen=True)
class FiguresRecord:
    """What one output keeps of what varies between images, over the bundle's cases of the user's data.

    Attributes:
        output: its name.
        share: of the reference's energy that varies.
        images: how many there are.
        median_db: what varies over the error, in dB, that half of the images reach.
        worst_db: the least of an image.
        worst_image: which image that is.
        agreeing: in how many images the largest value stands where the reference's does; null where the output is no
            vector of scores.
    """

    output: Text
    share: Share
    images: Count
    median_db: Decibel
    worst_db: Decibel
    worst_image: str
    agreeing: Count | None = None


@dataclass(frozen=True)
class FlipRecord:
    """One image that original and int8 model answer differently.

    Attributes:
        image: name of the file.
        label: class that is right.
        original: class that the original answers.
        deployed: class that the int8 model answers.
    """

    image: str
    label: Count
    original: Count
    deployed: Count


@dataclass(frozen=True)
class AccuracyRecord:
    """How often original and int8 model are right, on the same labelled images.

    Attributes:
        images: how many.
        original: how many the original gets right.
        deployed: how many the int8 model gets right.
        gained: how many only the int8 model gets right.
        lost: how many only the original gets right.
        low: lower end of the 95 % interval of the change of accuracy, as a share of one.
        high: upper end.
        flips: images that are answered differently.
    """

    images: Annotated[int, Within(1)]
    original: Count
    deployed: Count
    gained: Count
    lost: Count
    low: Change
    high: Change
    flips: tuple[FlipRecord, ...] = ()


@dataclass(frozen=True)
class FloatSiteRecord:
    """One layer that stays in float although it could be int8.

    Attributes:
        node: its name.
        op: its operator.
        reason: why.
    """

    node: str
    op: str
    reason: str


@dataclass(frozen=True)
class FrontRecord:
    """One model that was measured before this one was chosen.

    Attributes:
        label: what distinguishes it.
        snr_db: of the median image that choices are made on, in dB.
        ratio: its latency over the float32 model's; null where it was not measured.
        float_sites: how many layers stay in float.
    """

    label: str
    snr_db: Decibel
    ratio: Ratio | None
    float_sites: Count


@dataclass(frozen=True)
class RatioRecord:
    """Latency of the int8 model over the float32 model's, where the bundle was made.

    Attributes:
        value: estimate.
        low: lower end of its 95 % interval.
        high: upper end.
    """

    value: Ratio
    low: Ratio
    high: Ratio


@dataclass(frozen=True)
class QuantisationRecord:
    """How an int8 model was made, and what it is held to besides its tolerance.

    Attributes:
        meaning: file with what the graph itself means in float64 on the bundle's cases of the user's data.
        limit_db: least median of what varies over the error, in dB; null where only top-1 is asked for.
        top1_drop: largest loss of top-1 accuracy, as a share of one; null where that is not asked for.
        method: how the ranges of activations were chosen.
        unsigned: whether activations may be unsigned codes.
        calibration: sha256 by name of each file that ranges were learnt from.
        held_out: sha256 by name of each file that choices were made on.
        figures: what each output keeps.
        accuracy: of the original and of this model; null where there are no labels.
        ratio: its latency over the float32 model's; null where that was not measured.
        int8_sites: how many layers compute in int8.
        float_sites: those that could and do not.
        front: what else was measured.
        left_out: cases that say nothing of int8, and outputs that have no mean, each with the reason.
        notes: what the user should know.
    """

    meaning: Text
    limit_db: Annotated[float, Within(0, 400, above=True)] | None
    top1_drop: Annotated[float, Within(0, 1, above=True)] | None
    method: str = ""
    unsigned: bool = True
    calibration: Mapping[str, str] = field(default_factory=dict)
    held_out: Mapping[str, str] = field(default_factory=dict)
    figures: tuple[FiguresRecord, ...] = ()
    accuracy: AccuracyRecord | None = None
    ratio: RatioRecord | None = None
    int8_sites: Count = 0
    float_sites: tuple[FloatSiteRecord, ...] = ()
    front: tuple[FrontRecord, ...] = ()
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
