"""Charts as inline SVG, made by hand: no script, no font, no colour of their own (classes take it from the page).

Each is an image with a title and a description for those who do not see it; the figures stand in a table beside it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

WIDTH = 760
LEFT, RIGHT = 210, 100
_SPAN = WIDTH - LEFT - RIGHT


def picture(key: str, height: float, title: str, text: str, body: Sequence[str]) -> str:
    """Wrap ``body`` in an accessible picture; ``key`` must be unique on the page."""
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:g}" role="img" aria-labelledby="{key}-t {key}-d">'
        f'<title id="{key}-t">{escape(title)}</title><desc id="{key}-d">{escape(text)}</desc>{"".join(body)}</svg>'
    )


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers that divide ``low`` to ``high`` in about ``count`` steps.

    >>> ticks(0, 4.7)
    [0.0, 1.0, 2.0, 3.0, 4.0]
    """
    if high <= low:
        return [low]
    raw = (high - low) / count
    base = 10 ** math.floor(math.log10(raw))
    step = next(base * m for m in (1, 2, 5, 10) if base * m >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round((first + i) * step, 12) for i in range(int((high - first * step) / step + 1e-9) + 1)]


def bounded(key: str, rows: Sequence[tuple[str, float | None, str]], bound: float, title: str) -> str:
    """One bar a row against a bound: ``(label, value or None where it could not be compared, note)``."""
    most = max([bound * 1.15, *(value for _, value, _ in rows if value is not None and value < bound * 20)])
    at = _scale(0, most)
    body = _axis(0, most, 22 * len(rows) + 8)
    for index, (label, value, note) in enumerate(rows):
        y = 22 * index + 6
        shown = most if value is None else min(value, most)
        kind = "bar" if value is not None and value <= bound else "bar bad"
        body.append(_label(label, y + 11))
        body.append(_rect(kind, LEFT, y, max(1, at(shown) - LEFT), 14))
        body.append(f'<text class="num" x="{at(shown) + 5:.1f}" y="{y + 11}">{escape(note)}</text>')
    edge = at(bound)
    body.append(f'<line class="bound" x1="{edge:.1f}" x2="{edge:.1f}" y1="0" y2="{22 * len(rows) + 8}"/>')
    beyond = sum(value is None or value > bound for _, value, _ in rows)
    text = f"{len(rows)} comparisons against the bound {bound:g}; {beyond} lie beyond it."
    return picture(key, 22 * len(rows) + 34, title, text, body)


def histogram(key: str, samples: Sequence[float], marks: Mapping[str, float], title: str, unit: str = "ms") -> str:
    """How samples are distributed, with marked percentiles; the axis ends before outliers, and says how many."""
    values = sorted(samples)
    low, high = values[0], edge(values)
    beyond = sum(value > high for value in values)
    bins = 60
    counts = [0] * bins
    for value in values[: len(values) - beyond]:
        counts[min(bins - 1, int((value - low) / (high - low) * bins))] += 1
    at, tall, top = _scale(low, high), 110, 34
    body = _axis(low, high, top + tall)
    wide = _SPAN / bins
    for index, count in enumerate(counts):
        if count:
            height = max(1.0, tall * count / max(counts))
            x = LEFT + index * wide
            body.append(_rect("bar", x, top + tall - height, wide - 1, height, 0))
    last = -1e9
    for index, (name, value) in enumerate(sorted(marks.items(), key=lambda item: item[1])):
        if value > high:
            continue
        x = at(value)
        row = 12 if x - last > 34 else 26
        last = x if row == 12 else last
        body.append(f'<line class="mark m{index}" x1="{x:.1f}" x2="{x:.1f}" y1="{row + 3}" y2="{top + tall}"/>')
        body.append(f'<text class="tag" x="{x:.1f}" y="{row}" text-anchor="middle">{escape(name)}</text>')
    body.append(_label("runs", top + tall / 2))
    body.append(_label(f"axis in {unit}", top + tall + 16))
    if beyond:
        outside = [name for name, value in marks.items() if value > high]
        lines = [f"{beyond} beyond", f"{high:.4g}, up to", f"{values[-1]:.4g} {unit}", ", ".join(outside)]
        for line_, text in enumerate(filter(None, lines)):
            place = f'x="{LEFT + _SPAN + 8}" y="{top + 56 + 15 * line_}"'
            body.append(f'<text class="tick beyond" {place}>{escape(text)}</text>')
    spoken = ", ".join(f"{name} {value:.4g} {unit}" for name, value in marks.items())
    far = f" {beyond} lie beyond the axis, up to {values[-1]:.4g} {unit}." if beyond else ""
    return picture(key, top + tall + 28, title, f"{len(values)} samples: {spoken}.{far}", body)


def edge(values: Sequence[float]) -> float:
    """Where an axis for sorted values ends: at the last, unless it lies two spreads (10th to 90th) past the 90th.

    >>> round(edge(sorted([1.0, 1.1, 1.2, 1.3] * 25) + [90.0]), 6)
    1.9
    """

    def at(share: float) -> float:
        return values[min(len(values) - 1, int(len(values) * share))]

    near = at(0.9) + 2 * (at(0.9) - at(0.1))
    high = values[-1] if values[-1] <= near else min(at(0.995), near) if near > values[0] else at(0.995)
    return high if high > values[0] else values[0] * 1.01 + 1e-9


def ratios(key: str, rows: Sequence[tuple[str, Sequence[float], tuple[float, float, float]]], title: str) -> str:
    """Ratios on a logarithmic axis around 1, a dot a process and a bar for the interval.

    A row is ``(label, dots, (estimate, low, high))``.
    """
    every = [value for _, dots, interval in rows for value in (*dots, *interval)]
    reach = max(0.01, *(abs(math.log(value)) for value in every)) * 1.1
    low, high = math.exp(-reach), math.exp(reach)
    at = _scale(low, high, log=True)
    body = _axis(low, high, 46 * len(rows) + 4, log=True)
    one = at(1)
    body.append(f'<line class="bound" x1="{one:.1f}" x2="{one:.1f}" y1="0" y2="{46 * len(rows) + 4}"/>')
    spoken = []
    for index, (label, dots, (mid, least, most)) in enumerate(rows):
        y = 46 * index + 16
        kind = "bar" if index == 0 else "bar alt"
        body.append(_label(label, y + 12))
        body += [f'<circle class="{kind}" cx="{at(dot):.1f}" cy="{y - 4}" r="3.5"/>' for dot in dots]
        body.append(_rect(kind, at(least), y + 5, max(2, at(most) - at(least)), 8, 4))
        body.append(f'<rect class="ink" x="{at(mid) - 1.5:.1f}" y="{y + 1}" width="3" height="16"/>')
        spoken.append(f"{label} {mid:.3f}, interval {least:.3f} to {most:.3f}")
    return picture(key, 46 * len(rows) + 30, title, "; ".join(spoken) + ".", body)


def shares(key: str, rows: Sequence[tuple[str, float, str]], title: str) -> str:
    """One bar a row, the longest filling the width: ``(label, value, note)``."""
    most = max((value for _, value, _ in rows), default=1) or 1
    at = _scale(0, most * 1.5)  # room for the note
    body = []
    for index, (label, value, note) in enumerate(rows):
        y = 20 * index + 4
        body.append(_label(label, y + 11))
        body.append(_rect("bar", LEFT, y, max(1, at(value) - LEFT), 14))
        body.append(f'<text class="num" x="{at(value) + 5:.1f}" y="{y + 11}">{escape(note)}</text>')
    text = "; ".join(f"{label}: {note}" for label, _, note in rows[:5])
    return picture(key, 20 * len(rows) + 8, title, text, body)


def line(key: str, points: Sequence[tuple[float, float]], title: str, x: str, y: str) -> str:
    """Draw a line through points, from zero up."""
    xs, ys = [p[0] for p in points], [p[1] for p in points]
    at, top, tall = _scale(min(xs), max(xs) if max(xs) > min(xs) else min(xs) + 1), 8, 110
    most = max(ys) * 1.15 or 1
    body = _axis(min(xs), max(xs), top + tall, marks=xs if len(xs) <= 12 else None)
    path = " ".join(f"{at(px):.1f},{top + tall - tall * py / most:.1f}" for px, py in points)
    body.append(f'<polyline class="line" points="{path}"/>')
    for px, py in points:
        body.append(f'<circle class="bar" cx="{at(px):.1f}" cy="{top + tall - tall * py / most:.1f}" r="3"/>')
    body += [_label(y, top + 14), _label(f"0 to {most:.3g}", top + 30), _label(x, top + tall + 16)]
    text = f"{y} from {ys[0]:.4g} to {ys[-1]:.4g}, lowest {min(ys):.4g}, highest {max(ys):.4g}."
    return picture(key, top + tall + 28, title, text, body)


def scatter(
    key: str, points: Sequence[tuple[str, float, float]], limit: float | None, title: str, x: str, y: str
) -> str:
    """Points of ``(label, x, y)``, each with its number, and a line at the least ``y`` that is asked for."""
    xs, ys = [p[1] for p in points], [*(p[2] for p in points), *([] if limit is None else [limit])]
    wide, high = (max(values) - min(values) for values in (xs, ys))
    at = _scale(min(xs) - 0.05 * (wide or 1), max(xs) + 0.05 * (wide or 1))
    top, tall, low, most = 12, 190, min(ys) - 0.1 * (high or 1), max(ys) + 0.1 * (high or 1)

    def down(value: float) -> float:
        return top + tall - tall * (value - low) / (most - low)

    body = _axis(min(xs) - 0.05 * (wide or 1), max(xs) + 0.05 * (wide or 1), top + tall)
    for tick in ticks(low, most):
        body.append(f'<line class="grid" x1="{LEFT}" x2="{LEFT + _SPAN}" y1="{down(tick):.1f}" y2="{down(tick):.1f}"/>')
        body.append(f'<text class="tick" x="{LEFT - 6}" y="{down(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>')
    if limit is not None:
        body.append(
            f'<line class="bound" x1="{LEFT}" x2="{LEFT + _SPAN}" y1="{down(limit):.1f}" y2="{down(limit):.1f}"/>'
        )
    for number, (_, px, py) in enumerate(points, 1):
        body.append(f'<circle class="bar" cx="{at(px):.1f}" cy="{down(py):.1f}" r="4"/>')
        body.append(f'<text class="num" x="{at(px) + 7:.1f}" y="{down(py) - 5:.1f}">{number}</text>')
    body.append(f'<text class="label" x="{LEFT - 45}" y="{top + 10}" text-anchor="end">{escape(y)}</text>')
    body.append(
        f'<text class="label" x="{LEFT + _SPAN / 2:g}" y="{top + tall + 34}" text-anchor="middle">{escape(x)}</text>'
    )
    spoken = "; ".join(
        f"{number}, {label}: {py:.1f} {y} at {px:.3g} {x}" for number, (label, px, py) in enumerate(points, 1)
    )
    return picture(key, top + tall + 44, title, f"{spoken}.", body)


class _scale:  # noqa: N801  # reads as the function it is
    """From a value to its place on the axis."""

    def __init__(self, low: float, high: float, *, log: bool = False) -> None:
        self.log = log
        self.low, self.high = (math.log(low), math.log(high)) if log else (low, high)

    def __call__(self, value: float) -> float:
        x = math.log(value) if self.log else value
        return LEFT + _SPAN * (x - self.low) / ((self.high - self.low) or 1)


def _axis(low: float, high: float, y: float, *, log: bool = False, marks: Sequence[float] | None = None) -> list[str]:
    at = _scale(low, high, log=log)
    body = []
    for tick in marks or ticks(low, high):
        x = at(tick)
        body.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{y:g}"/>')
        body.append(f'<text class="tick" x="{x:.1f}" y="{y + 16:g}" text-anchor="middle">{tick:g}</text>')
    return body


def _label(text: str, y: float, most: int = 30) -> str:
    short = text if len(text) <= most else f"{text[: most // 2 - 1]}…{text[-most // 2 :]}"
    return f'<text class="label" x="{LEFT - 10}" y="{y:g}" text-anchor="end">{escape(short)}</text>'


def _rect(kind: str, x: float, y: float, wide: float, tall: float, round_: float = 2) -> str:
    size = f'width="{wide:.1f}" height="{tall:.1f}" rx="{round_:g}"'
    return f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" {size}/>'
