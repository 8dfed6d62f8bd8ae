"""How much a model keeps of what varies between images: a signal-to-noise ratio that no constant can pass.

    signal of image i    r_i - mean(r)      the mean is over all images whose reference has one shape
    noise of image i     y_i - r_i          nothing is taken off it: an offset is an error
    share that varies    sum |r_i - mean(r)|^2 / sum |r_i|^2

The usual ratio counts the mean as signal. Where an output is a large constant and a little that depends on the image, a
model that lost its input altogether has 20 log10(|r| / |r - mean|) dB by that ratio, and 0 dB by this one.

The mean contains the image itself, so that of n images the signal is taken as (n - 1) / n of what it is: by 3 dB too
small of two, by 0.3 dB of sixteen, and never too large.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import median

import numpy as np

from attn_export import bundle
from attn_export.bundle import Case
from attn_export.bundle import rows as chosen_rows
from attn_export.bundle.narrowed import Narrowed
from attn_export.deploy_tests.backend import Run
from attn_export.errors import InconclusiveError
from attn_export.process import activity
from attn_export.types import Array, Dim, JsonDict, Summarised, TensorSpec
from attn_export.untrusted.text import few, one_line

#: The limit is the bundle's too.
VARIES = bundle.VARIES
#: Decibels beyond which a ratio is cut: no two float64 numbers are so far apart that rounding would not show.
MOST = 400.0
#: Share of the energy that float64's own rounding varies: an output of which no more does is a constant.
CONSTANT = 1e-24


@dataclass(frozen=True)
class Image:
    """One image of one output.

    Attributes:
        name: of the case, and where that is a batch which of its items.
        snr_db: what varies over the error, in dB, between -400 and 400.
        agrees: whether the largest value stands where the reference's does; None where the output is no vector.
        failure: why the values could not be compared; empty otherwise.
    """

    name: str
    snr_db: float
    agrees: bool | None = None
    failure: str = ""


@dataclass(frozen=True)
class OutputImages:
    """All images of one output that were compared with one mean or another.

    Attributes:
        output: its name.
        share: of the reference's energy that varies over the images, 0 to 1.
        images: at least two.
    """

    output: str
    share: float
    images: tuple[Image, ...]

    @property
    def judged(self) -> bool:
        """Whether enough of it varies."""
        return self.share >= VARIES

    def decided(self, limit: float | None) -> bool:
        """Whether it says something of a limit: enough of it varies, or of the little that does enough is kept."""
        return self.judged or (limit is not None and self.median_db >= limit)

    @property
    def median_db(self) -> float:
        """The ratio that half of the images reach."""
        return float(median(image.snr_db for image in self.images))

    @property
    def worst(self) -> Image:
        """The image with the least ratio."""
        return min(self.images, key=lambda image: (not image.failure, image.snr_db))

    @property
    def agreeing(self) -> tuple[int, int] | None:
        """In how many images the largest value stands where it should, and of how many; None where no output is one."""
        told = [image.agrees for image in self.images if image.agrees is not None]
        return (sum(told), len(told)) if told else None


@dataclass(frozen=True)
class Centred(Summarised):
    """The verdict: half of the images must reach the limit, in every output of which enough varies.

    An output of which less varies, and which keeps what is asked all the same, has done so: it counts as well.

    Attributes:
        against: what the reference is, in words.
        limit_db: the least median that passes; None where nothing is asked.
        outputs: those that could be centred.
        left_out: what could not be, each with the reason.
    """

    against: str
    limit_db: float | None
    outputs: tuple[OutputImages, ...]
    left_out: tuple[str, ...] = ()

    @cached_property
    def judged(self) -> tuple[OutputImages, ...]:
        """The outputs that say something."""
        return tuple(one for one in self.outputs if one.decided(self.limit_db))

    @property
    def undecided(self) -> tuple[OutputImages, ...]:
        """The outputs that vary a little, and of which too little is kept to say that it holds."""
        return tuple(one for one in self.outputs if one.share > CONSTANT and not one.decided(self.limit_db))

    def unproven(self) -> str:
        """Name the outputs of which nothing is known, where others decide; empty where there are none.

        >>> few_vary = OutputImages("boxes", 1e-4, (Image("a", 3.0), Image("b", 5.0)))
        >>> Centred("it", 20.0, (few_vary, OutputImages("y", 0.5, (Image("a", 30.0),)))).unproven()
        'nothing is proven of what varies in boxes: 0.0001 of its energy, of which 4.0 dB are kept'
        """
        if not self.undecided or not self.judged:
            return ""
        first, *more = self.undecided
        others = f" (and {few([one_line(one.output) for one in more], 2)})" if more else ""
        return (
            f"nothing is proven of what varies in {one_line(first.output)}{others}: {first.share:.2g} of its energy,"
            f" of which {first.median_db:.1f} dB are kept"
        )

    @property
    def least(self) -> OutputImages:
        """The output that is nearest to failing."""
        return min(self.judged or self.outputs, key=lambda one: (not one.worst.failure, one.median_db))

    @property
    def ok(self) -> bool:
        """Whether something was judged, and all of it reaches the limit."""
        return (
            bool(self.judged)
            and all(not image.failure for one in self.outputs for image in one.images)
            and all(self.limit_db is None or one.median_db >= self.limit_db for one in self.judged)
        )

    def summary(self) -> str:
        """Say it in one line."""
        if not self.outputs:
            return f"nothing could be centred against {self.against}"
        least = self.least
        worst, limit = least.worst, "" if self.limit_db is None else f" (limit {self.limit_db:.3g} dB)"
        if worst.failure:
            return f"against {self.against}: {least.output} of {worst.name!r}: {worst.failure}"
        parts = [
            f"centred SNR of {least.output} against {self.against} {least.median_db:.1f} dB at the median of"
            f" {len(least.images)} images{limit}, {worst.snr_db:.1f} dB at the worst, {worst.name!r}",
            f"{least.share:.2g} of its energy varies",
        ]
        if least.agreeing:
            parts.append("top-1 agrees in {} of {}".format(*least.agreeing))
        return "; ".join([*parts, *filter(None, [self.unproven()])])

    def brief(self) -> str:
        """Say the median alone, and what fails.

        >>> Centred("it", None, (OutputImages("y", 0.5, (Image("a", 30.0), Image("b", 34.0))),)).brief()
        '32.0 dB against it'
        """
        if self.least.worst.failure:
            return self.summary()
        limit = "" if self.limit_db is None else f" (limit {self.limit_db:.3g} dB)"
        return f"{self.least.median_db:.1f} dB against {self.against}{limit}"

    def to_dict(self) -> JsonDict:
        """Give it as plain data, for a report."""
        return {
            "against": self.against,
            "limit_db": self.limit_db,
            "ok": self.ok,
            "outputs": [
                {
                    "output": one.output,
                    "share": one.share,
                    "median_db": one.median_db,
                    "images": [vars(image) for image in one.images],
                }
                for one in self.outputs
            ],
            "left_out": list(self.left_out),
        }


def measure(
    run: Run,
    cases: Sequence[Case],
    outputs: Iterable[TensorSpec],
    *,
    batched: bool,
    against: str,
    limit: float | None = None,
) -> Centred:
    """Run every case, and compare with what varies of their references.

    Args:
        run: the model.
        cases: with their references.
        outputs: of the model.
        batched: whether the first dimension of every output counts images, as ``batched`` says.
        against: what the reference is, in words.
        limit: least median that passes, in dB.

    Raises:
        BackendError: the backend breaks on a case.
        InconclusiveError: nothing can be centred, or too little of every output varies.
    """
    runs = []
    for case in cases:
        with activity.doing(f"running case {case.name!r}"):
            runs.append(chosen_rows.matched(run(case.inputs), case.reference, case.selections))
    return compare(cases, runs, outputs, batched=batched, against=against, limit=limit)


def compare(
    cases: Sequence[Case],
    runs: Sequence[Mapping[str, Array]],
    outputs: Iterable[TensorSpec],
    *,
    batched: bool,
    against: str,
    limit: float | None = None,
) -> Centred:
    """Compare what was run with what varies of the references; the arguments are those of ``measure``.

    Raises:
        InconclusiveError: nothing can be centred, or too little of every output varies.
    """
    made = collect(cases, runs, outputs, batched=batched, against=against, limit=limit)
    refuse_vacuous({one.output: one.share for one in made.outputs}, made.left_out)
    return made


def collect(
    cases: Sequence[Case],
    runs: Sequence[Mapping[str, Array]],
    outputs: Iterable[TensorSpec],
    *,
    batched: bool,
    against: str,
    limit: float | None = None,
) -> Centred:
    """Compare, and refuse nothing: what cannot be centred is left out, and of the rest any share may vary."""
    found, left = [], list[str]()
    for port in outputs:
        images, share = [], _Share()
        for group in _groups(cases, port, left, batched=batched):
            mean = np.mean([image.reference for image in group], axis=0)
            for image in group:
                share.add(image.reference, mean)
                images.append(_image(image, mean, runs[image.case].get(port.name), port))
        if images:
            found.append(OutputImages(port.name, share.value, tuple(images)))
    return Centred(against, limit, tuple(found), tuple(left))


def shares(
    cases: Sequence[Case], outputs: Iterable[TensorSpec], *, batched: bool
) -> tuple[dict[str, float], tuple[str, ...]]:
    """Compute by output the share that varies, from the references alone, and say what cannot be centred."""
    found, left = dict[str, float](), list[str]()
    for port in outputs:
        share, groups = _Share(), _groups(cases, port, left, batched=batched)
        for group in groups:
            mean = np.mean([image.reference for image in group], axis=0)
            for image in group:
                share.add(image.reference, mean)
        if groups:
            found[port.name] = share.value
    return found, tuple(left)


def refuse_vacuous(found: Mapping[str, float], left: Sequence[str]) -> None:
    """Refuse to judge INT8 where next to nothing varies: by output the share that does, and what cannot be centred.

    Raises:
        InconclusiveError: it is so.
    """
    if not found:
        why = f" ({few(left, 2)})" if left else ""
        raise InconclusiveError(
            f"these inputs prove nothing about INT8: no output can be compared with its mean over images{why};"
            " give at least two images of one size (--data), or take outputs before rows are chosen (--outputs)"
        )
    if all(share < VARIES for share in found.values()):
        name, share = max(found.items(), key=lambda item: item[1])
        raise InconclusiveError(
            f"these weights or inputs prove nothing about INT8: only {share:.2g} of the energy of {one_line(name)}"
            f" varies with the image, expected at least {VARIES:g}, so a model that lost its input would have"
            f" {-10 * math.log10(share) if share else MOST:.0f} dB; use trained weights (--weights) and images that"
            " differ (--data)"
        )


def batched(inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...], dims: Iterable[Dim]) -> bool:
    """Whether a dimension that may vary counts images: first in every output and in every input that has it."""
    ports = Narrowed(inputs, outputs)
    return any(ports.counts_items(dim.name) for dim in dims)


@dataclass(frozen=True)
class _Wanted:
    """One image's reference: of which case, and where that is a batch which item."""

    name: str
    case: int
    item: int | None
    reference: Array


class _Share:
    """Adds up the energy that varies, and all of it."""

    def __init__(self) -> None:
        self._varying = self._whole = 0.0

    def add(self, reference: Array, mean: Array) -> None:
        self._varying += bundle.norm(reference - mean) ** 2
        self._whole += bundle.norm(reference) ** 2

    @property
    def value(self) -> float:
        return min(1.0, self._varying / self._whole) if self._whole else 0.0


def _groups(cases: Sequence[Case], port: TensorSpec, left: list[str], *, batched: bool) -> list[list[_Wanted]]:
    """Collect the images of an output by the shape of their reference; what is alone, or no number, is left out."""
    if any(port.name in one.rows for case in cases for one in case.selections):
        left.append(f"{port.name}: its rows are chosen in each image anew, so they have no mean")
        return []
    if np.dtype(port.dtype).kind != "f":
        left.append(f"{port.name}: it is {port.dtype}, which has no mean")
        return []
    found: dict[tuple[int, ...], list[_Wanted]] = {}
    for index, case in enumerate(cases):
        values = case.reference[port.name].astype(np.float64)
        if not np.isfinite(values).all():
            left.append(f"{port.name} of case {case.name!r}: the reference is not finite everywhere")
            continue
        if batched and len(values) != 1:
            for item, value in enumerate(values):
                image = _Wanted(f"{case.name}, image {item}", index, item, value)
                found.setdefault(value.shape, []).append(image)
        else:
            value = values[0] if batched else values
            image = _Wanted(case.name, index, 0 if batched else None, value)
            found.setdefault(value.shape, []).append(image)
    left += [
        f"{port.name} of case {group[0].name!r}: no other image gives its shape"
        for group in found.values()
        if len(group) == 1
    ]
    return [group for group in found.values() if len(group) > 1]


def _image(wanted: _Wanted, mean: Array, came: Array | None, port: TensorSpec) -> Image:
    """Compare one image: element type and shape before values, NaN and infinity before errors."""

    def fault(why: str) -> Image:
        return Image(wanted.name, -MOST, failure=why)

    if came is None:
        return fault("the output is missing")
    if came.dtype != np.dtype(port.dtype):
        return fault(f"expected {port.dtype}, got {came.dtype}")
    if wanted.item is not None:
        if not came.ndim or len(came) <= wanted.item:
            return fault(f"expected {wanted.item + 1} images or more, got the shape {came.shape}")
        came = came[wanted.item]
    reference = wanted.reference
    if came.shape != reference.shape:
        return fault(f"expected shape {reference.shape}, got {came.shape}")
    values = came.astype(np.float64)
    if not np.isfinite(values).all():
        return fault(f"{int((~np.isfinite(values)).sum())} of {values.size} values are NaN or infinite")
    ratio = _decibels(bundle.norm(reference - mean), bundle.norm(values - reference))
    return Image(wanted.name, ratio, _agrees(values, reference))


def _decibels(signal: float, noise: float) -> float:
    if not noise:
        return MOST
    if not signal:
        return -MOST
    return max(-MOST, min(MOST, 20 * (math.log10(signal) - math.log10(noise))))


def _agrees(values: Array, reference: Array) -> bool | None:
    """Whether the largest value is the reference's largest; None where it is no vector of two or more."""
    if max(reference.shape, default=1) != reference.size or reference.size < 2:
        return None
    flat = reference.ravel()
    return bool(flat[int(values.argmax())] == flat.max())
