"""Which coefficient disturbs by a given amount: strengths that can be compared across blocks, directions and models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

MOST_PASSES = 10
CLOSE_ENOUGH = 0.05
LEAST_NATS = 1e-12


@dataclass(frozen=True)
class Calibrated:
    """A coefficient and the mean nats a token that it was found to cost."""

    coefficient: float
    nats: float


def coefficient_for(
    target: float, nats_at: Callable[[float], float], start: float, tolerance: float = CLOSE_ENOUGH
) -> Calibrated:
    """Return the coefficient, of the sign of `start`, at which `nats_at` is within `tolerance` of the target.

    `nats_at` must grow with the coefficient's size. The next point is where a power law through the last two meets the
    target (a square law after the first, as for any small disturbance); where that leaves the bracket known so far, and
    at every third point, it is the bracket's geometric middle. After `MOST_PASSES` points the nearest is returned.
    """
    low, high, power = 0.0, np.inf, 2.0
    sign, size = float(np.sign(start)), abs(start)
    tried: list[Calibrated] = []
    for number in range(MOST_PASSES):
        tried.append(Calibrated(sign * size, max(nats_at(sign * size), LEAST_NATS)))
        nats = tried[-1].nats
        if abs(nats - target) <= tolerance * target:
            break
        low, high = (size, high) if nats < target else (low, size)
        power = _power(tried[-2], tried[-1]) if number else power
        guess = float(np.clip(size * (target / nats) ** (1 / power), size / 8, size * 8))
        bounded = low > 0 and high < np.inf
        size = guess if low < guess < high and not (bounded and number % 3 == 2) else _middle(low, high)
    return min(tried, key=lambda point: abs(np.log(point.nats / target)))


def _power(first: Calibrated, second: Calibrated) -> float:
    """Return the exponent of the power law through two points, within reason."""
    ratio = np.log(second.coefficient / first.coefficient)
    return float(np.clip(np.log(second.nats / first.nats) / ratio, 0.4, 8.0)) if ratio else 2.0


def _middle(low: float, high: float) -> float:
    if np.isinf(high):
        return 2 * low
    return float(np.sqrt(low * high)) if low > 0 else high / 2
