"""Figures of a store that may be compared with each other: of one subject, measured in one way, on one machine.

Times of two machines are never in one series, nor are those of two runtimes, precisions, numbers of threads or sizes.
What may differ within a series is what it is there to show: the bundle, the runtime's version, libraries, the system.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from attn_export.deploy_tests.history.change import Sample
from attn_export.deploy_tests.store.figures import NORMAL, Figure
from attn_export.deploy_tests.store.index import Point
from attn_export.deploy_tests.store.record import Machine, Subject

#: How far from 1 the whole interval of a control may lie, as in comparisons.
SLACK = 0.01


@dataclass(frozen=True)
class Series:
    """Figures in the order of time.

    Attributes:
        machine: that measured all of them.
        subject: that they are of; its digest and version are those of the last.
        metric: what they are.
        how: how they were measured, or against what.
        unit: of all of them.
        points: the figures.
    """

    machine: Machine
    subject: Subject
    metric: str
    how: str
    unit: str
    points: tuple[Point, ...]

    def title(self) -> str:
        """Say what it is of, in one line."""
        one, machine = self.subject, self.machine
        model = f"{one.name}{' fused' if one.fused else ''}, {one.artifact} in {one.precision}"
        threads = f"{one.threads} thread{'' if one.threads == 1 else 's'}"
        what = {"time": f"{one.clock}, {self.how}", "ratio": f"time ratio {self.how}"}.get(self.metric, "error")
        emulated = f", emulated ({machine.emulated})" if machine.emulated else ""
        return (
            f"{model} on {one.backend} ({one.device}), {threads}, {one.inputs}: {what};"
            f" {machine.name}, {machine.processor}, {machine.cores} cores{emulated}"
        )


def group(points: Iterable[Point]) -> list[Series]:
    """Put figures that may be compared into series, each in the order of ``points``."""
    found: dict[tuple[object, ...], list[Point]] = {}
    for point in points:
        subject = replace(point.subject, digest="", version="")
        machine = replace(point.machine, name="")
        figure = point.figure
        found.setdefault((subject, machine, figure.metric, figure.how, figure.unit), []).append(point)
    return [
        Series(last.machine, last.subject, last.figure.metric, last.figure.how, last.figure.unit, (*earlier, last))
        for *earlier, last in found.values()
    ]


def is_void(figure: Figure) -> bool:
    """Whether the control says that the machine could not measure at that time: the figure says nothing."""
    if figure.control_low is None or figure.control_high is None:
        return False
    return figure.control_low > 1 + SLACK or figure.control_high < 1 - SLACK


def sample(figure: Figure) -> Sample | None:
    """Give a figure as the test takes it; None where it says nothing.

    Its doubt is as wide as its interval, and no narrower than what its control shows of a model against itself.
    """
    if figure.estimate is None or figure.low is None or figure.high is None or is_void(figure):
        return None
    half = math.log(figure.high / figure.low) / 2
    if figure.control_low is not None and figure.control_high is not None:
        half = max(half, abs(math.log(figure.control_low)), abs(math.log(figure.control_high)))
    return Sample(math.log(figure.estimate), half / NORMAL)
