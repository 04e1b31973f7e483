"""A figure with its interval, and the mean of scores as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from emscope.notebook import Shown
from emscope.statistics.bootstrap import bootstrap_questions
from emscope.statistics.clusters import finite


@dataclass(frozen=True)
class Estimate(Shown):
    """A figure with its 95 % interval and the number of answers behind it.

    Attributes:
        value: the figure.
        low: lower end of its 95 % interval.
        high: upper end of its 95 % interval.
        n: answers behind it.
    """

    value: float
    low: float
    high: float
    n: int


NOTHING = Estimate(float("nan"), float("nan"), float("nan"), 0)


def estimate_mean(values: Sequence[float], groups: Sequence[str], seed: int = 0) -> Estimate:
    """Return the mean of the values that are not NaN, with its question-bootstrap interval."""
    array, kept = finite(values, groups)
    if not len(array):
        return NOTHING
    low, high = bootstrap_questions(kept, lambda weights: weighted_mean(weights, array), seed)
    return Estimate(float(array.mean()), low, high, len(array))


def weighted_mean(weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the mean of values [n] for each row of weights [resamples, n]; NaN where all weights are 0."""
    with np.errstate(invalid="ignore"):
        return np.asarray((weights @ values) / weights.sum(axis=1))
