"""Student's t: how probable a larger value is by luck, and which value is exceeded that rarely.

    P(|T| > t) = I_x(n/2, 1/2),  x = n / (n + t²)

with I the regularised incomplete beta function, by Lentz's evaluation of its continued fraction (Press et al.,
Numerical Recipes, 6.4; Abramowitz and Stegun, 26.5.8 and 26.7.1).
"""

from __future__ import annotations

import math

_TINY = 1e-300
_STEPS = 500


def beyond(t: float, freedom: int) -> float:
    """Give the probability that luck alone exceeds ``t`` in magnitude, of ``freedom`` degrees of freedom.

    >>> round(beyond(2.776445, 4), 6), beyond(0.0, 3), beyond(math.inf, 3)
    (0.05, 1.0, 0.0)
    """
    if math.isinf(t):
        return 0.0
    return _beta(freedom / 2, 0.5, freedom / (freedom + t * t))


def exceeded(probability: float, freedom: int) -> float:
    """Give the value that luck alone exceeds in magnitude with this probability.

    >>> round(exceeded(0.05, 4), 3), round(exceeded(0.01, 1), 2)
    (2.776, 63.66)
    """
    low, high = 0.0, 1.0
    while beyond(high, freedom) > probability:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if beyond(middle, freedom) > probability else (low, middle)
    return high


def _beta(a: float, b: float, x: float) -> float:
    """Give the regularised incomplete beta function."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x))
    if x < (a + 1) / (a + b + 2):
        return front * _fraction(a, b, x) / a
    return 1 - front * _fraction(b, a, 1 - x) / b


def _fraction(a: float, b: float, x: float) -> float:
    c, d = 1.0, 1 / _away(1 - (a + b) * x / (a + 1))
    value = d
    for m in range(1, _STEPS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1 / _away(1 + term * d)
            c = _away(1 + term / c)
            value *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return value


def _away(value: float) -> float:
    return value if abs(value) > _TINY else _TINY
