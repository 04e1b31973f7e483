"""Which coefficient disturbs by a given amount: strengths that can be compared across blocks, directions and models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from emscope.errors import UserError

MOST_PASSES = 10
CLOSE_ENOUGH = 0.05
LEAST_NATS = 1e-12

NatsAt = Callable[[Sequence[int], Sequence[float]], Sequence[float]]


@dataclass(frozen=True)
class Calibrated:
    """A coefficient, the mean nats a token that it was found to cost, and whether that is what was asked for.

    Nats are infinite where the cost was not a number: a model that no longer computes is disturbed without bound.
    """

    coefficient: float
    nats: float
    reached: bool


class Bracket:
    """A search for the coefficient that costs a number of nats: a bracket that closes on it from both sides.

    The cost must grow with the coefficient's size. The next point is where a power law through the last two meets the
    target (a square law after the first, as for any small disturbance); where that leaves the bracket known so far, and
    at every third point, it is the bracket's geometric middle. After `MOST_PASSES` points the nearest is taken.
    """

    def __init__(self, target: float, start: float, tolerance: float = CLOSE_ENOUGH) -> None:
        """Begin at `start`, whose sign the coefficient keeps.

        Raises:
            UserError: a target that is not above 0, or a start that is 0 or not a number.
        """
        if not 0 < target < np.inf or not 0 < abs(start) < np.inf:
            raise UserError(
                f"No coefficient can be searched for {target:g} nats a token from {start:g}: both must be finite and "
                "not 0, and the nats positive."
            )
        self.target, self.tolerance = target, tolerance
        self.sign, self.size = float(np.sign(start)), abs(start)
        self.low, self.high, self.power = 0.0, float("inf"), 2.0
        self.tried: list[Calibrated] = []

    @property
    def coefficient(self) -> float:
        """The coefficient that is tried next."""
        return self.sign * self.size

    @property
    def done(self) -> bool:
        """Whether a point within the tolerance is known, or enough were tried."""
        return len(self.tried) == MOST_PASSES or any(point.reached for point in self.tried)

    @property
    def nearest(self) -> Calibrated:
        """The point that is nearest to the target, as a ratio."""
        return min(self.tried, key=lambda point: abs(np.log(point.nats / self.target)))

    def tell(self, nats: float) -> None:
        """Take in what the present size costs, and move on to the next."""
        nats = max(nats, LEAST_NATS) if np.isfinite(nats) else float("inf")
        reached = abs(nats - self.target) <= self.tolerance * self.target
        self.tried.append(Calibrated(self.coefficient, nats, reached))
        if nats < self.target:
            self.low = self.size
        else:
            self.high = self.size
        if len(self.tried) > 1:
            self.power = _power(*self.tried[-2:])
        ratio = (self.target / nats) ** (1 / self.power)
        guess = self.size * float(np.clip(ratio, 1 / 8, 8))
        bounded = self.low > 0 and self.high < np.inf
        by_turns = bounded and len(self.tried) % 3 == 0
        self.size = guess if self.low < guess < self.high and not by_turns else _middle(self.low, self.high)


def coefficients_for(targets: Sequence[float], starts: Sequence[float], nats_at: NatsAt) -> list[Calibrated]:
    """Return, for each target, the coefficient of the sign of its start that costs so many nats, to 5 %.

    Where no point that was tried is as close as that, it is the nearest one and `reached` is False.

    `nats_at` takes the numbers of the searches that are still open and the coefficient of each, and returns what each
    costs: all are measured together.

    Raises:
        UserError: a target that is not above 0, or a start that is 0 or not a number.
    """
    searches = list(map(Bracket, targets, starts))
    while going := [number for number, search in enumerate(searches) if not search.done]:
        coefficients = [searches[number].coefficient for number in going]
        for number, nats in zip(going, nats_at(going, coefficients), strict=True):
            searches[number].tell(nats)
    return [search.nearest for search in searches]


def _power(first: Calibrated, second: Calibrated) -> float:
    """Return the exponent of the power law through two points, within reason."""
    ratio = np.log(second.coefficient / first.coefficient)
    if np.isinf(first.nats) or np.isinf(second.nats):
        return 2.0
    return float(np.clip(np.log(second.nats / first.nats) / ratio, 0.4, 8.0)) if ratio else 2.0


def _middle(low: float, high: float) -> float:
    if np.isinf(high):
        return 2 * low
    return float(np.sqrt(low * high)) if low > 0 else high / 2
