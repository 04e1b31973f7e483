"""In what order curves change, over several trainings: how far apart their change-points are, and how sure that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy.special import stdtrit

from emscope.statistics.estimates import NOTHING, Estimate

RESAMPLES = 10_000
NORMAL = 1.959964


@dataclass(frozen=True)
class Precedence:
    """Which of two changes comes first.

    Attributes:
        first: name of one change.
        second: name of the other.
        lead: how much earlier `first` is, positive when it leads, in the unit of the times.
        probability: share of draws of trainings and of change-points in which `first` is earlier, ties half.
        agreeing: trainings whose own change-points have `first` before `second`.
    """

    first: str
    second: str
    lead: Estimate
    probability: float
    agreeing: int


def pool(values: Sequence[float], draws: Sequence[np.ndarray]) -> Estimate:
    """Return the mean of a figure over trainings: values [n], and its bootstrap draws in each, n arrays [n_draws].

    Draws of one number belong to the same sample of questions in every training, so what questions contribute does not
    shrink with more trainings. The interval's half-width is √(a² + b²): a is Student's for the spread over trainings,
    b is 1.96 standard deviations of the draws' means over trainings.
    """
    changed = np.flatnonzero(np.isfinite(values)).tolist()
    n = len(changed)
    if not n:
        return NOTHING
    kept = np.asarray(values, dtype=float)[changed]
    centre = float(kept.mean())

    means = np.mean([draws[training] for training in changed], axis=0)
    means = means[np.isfinite(means)]
    if len(means) < 2:
        return Estimate(centre, float("nan"), float("nan"), n)
    if n == 1:
        low, high = np.quantile(means, [0.025, 0.975])
        return Estimate(centre, float(low), float(high), 1)

    spread = stdtrit(n - 1, 0.975) * np.std(kept, ddof=1) / np.sqrt(n)
    half = float(np.hypot(spread, NORMAL * np.std(means, ddof=1)))
    return Estimate(centre, centre - half, centre + half, n)


def precedence(
    first: str, second: str, at: Mapping[str, Sequence[float]], draws: Mapping[str, Sequence[np.ndarray]], seed: int = 0
) -> Precedence:
    """Compare two changes: their change-points by training, and the draws of each, in the same order of trainings.

    The probability draws trainings with replacement, and for all of them one number of a draw; draws without a
    change-point in one of these trainings do not count.
    """
    gaps = np.subtract(at[second], at[first])
    gaps_drawn = [later - earlier for earlier, later in zip(draws[first], draws[second], strict=True)]
    lead = pool(gaps.tolist(), gaps_drawn)
    usable = np.flatnonzero(np.isfinite(gaps)).tolist()
    if not usable:
        return Precedence(first, second, lead, float("nan"), 0)

    table = np.stack([gaps_drawn[training] for training in usable])
    chooser = np.random.default_rng(seed)
    who = chooser.integers(0, len(usable), (RESAMPLES, len(usable)))
    means = table[who, chooser.integers(0, table.shape[1], (RESAMPLES, 1))].mean(axis=1)
    means = means[np.isfinite(means)]
    probability = float((means > 0).mean() + (means == 0).mean() / 2) if len(means) else float("nan")
    return Precedence(first, second, lead, probability, int((gaps[usable] > 0).sum()))


def order_of(
    at: Mapping[str, Sequence[float]], draws: Mapping[str, Sequence[np.ndarray]], seed: int = 0
) -> list[Precedence]:
    """Return every pair of changes, the earlier on average as `first`, pairs of early changes first."""
    means = {}
    for name, values in at.items():
        mean = float(np.mean(values))
        if np.isfinite(mean):
            means[name] = mean

    ranked = sorted(means, key=means.__getitem__)
    return [precedence(first, second, at, draws, seed) for first, second in combinations(ranked, 2)]
