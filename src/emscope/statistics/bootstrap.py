"""Intervals from drawing questions with replacement: answers to one question are not independent.

The interval is Efron's BCa (1987, JASA 82:171) at levels widened for few questions (Hesterberg 2015, The American
Statistician 69:371, section 3.4.2). benchmarks/coverage.py holds it against the other candidates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from scipy.special import ndtr, ndtri, stdtrit

CONFIDENCE = 0.95
RESAMPLES = 2000
MAX_WEIGHTS = 4_000_000  # 32 MB of float64 at a time
MOST_LEFT_OUT = 2000
"""Questions up to which each is left out by itself; of more, groups are, and the acceleration keeps its expectation."""


def bootstrap_questions(
    groups: Sequence[str],
    statistic: Callable[[np.ndarray], np.ndarray],
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> tuple[float, float]:
    """Return the 95 % interval of a statistic when questions are drawn with replacement.

    `statistic` takes weights [rows, n_answers], how often each answer counts, and returns [rows]. With a single
    question its answers are drawn instead, and the interval speaks of that question only. Draws for which the statistic
    is not finite are left out; with fewer than two answers the interval is NaN.
    """
    codes = resampling_units(groups)
    n_units = int(codes.max()) + 1 if len(codes) else 0
    if n_units < 2:
        return float("nan"), float("nan")
    step = max(1, MAX_WEIGHTS // len(codes))
    values = _evaluate(statistic, drawn_parts(n_units, seed, resamples, step), codes)
    left_out = _evaluate(statistic, _leaving_out(n_units, step), codes)
    estimate = _evaluate(statistic, [np.ones((1, n_units))], codes)
    values, left_out = values[np.isfinite(values)], left_out[np.isfinite(left_out)]
    if not len(values) or not np.isfinite(estimate).all():
        return float("nan"), float("nan")
    low, high = bca_interval(values, estimate[0], left_out, widened_z(n_units))
    return float(low), float(high)


def resampling_units(groups: Sequence[str]) -> np.ndarray:
    """Return the number of the unit each answer is drawn with: its question, or itself where there is one question."""
    names, codes = np.unique(np.asarray(groups), return_inverse=True)
    return codes if len(names) != 1 else np.arange(len(codes))


def draw_questions(n_questions: int, seed: int = 0, resamples: int = RESAMPLES) -> np.ndarray:
    """Return how often each draw with replacement holds each question, float64 [resamples, n_questions]."""
    return np.concatenate(list(drawn_parts(n_questions, seed, resamples, resamples)))


def drawn_parts(
    n_questions: int, seed: int = 0, resamples: int = RESAMPLES, step: int | None = None
) -> Iterator[np.ndarray]:
    """Yield the rows of `draw_questions`, `step` at a time, else as many as MAX_WEIGHTS allows."""
    chooser = np.random.default_rng(seed)
    shares = np.full(n_questions, 1 / n_questions)
    step = step or max(1, MAX_WEIGHTS // n_questions)
    for start in range(0, resamples, step):
        yield chooser.multinomial(n_questions, shares, size=min(step, resamples - start)).astype(float)


def _leaving_out(n_units: int, step: int) -> Iterator[np.ndarray]:
    """Yield weights [rows, n_units] that leave out each unit in turn, of many units each of MOST_LEFT_OUT groups."""
    groups = np.arange(n_units) % MOST_LEFT_OUT
    n_rows = min(n_units, MOST_LEFT_OUT)
    for start in range(0, n_rows, step):
        rows = np.arange(start, min(start + step, n_rows))
        yield (groups[None] != rows[:, None]).astype(float)


def widened_z(n_units: int) -> float:
    """Return the normal quantile whose tail stands for 95 % with this many questions: √(G/(G−1)) · t(0.975, G−1).

    The root undoes the bootstrap's division by G instead of G−1, Student's t the estimated spread (Hesterberg 2015).
    With 24 questions it is 2.11 instead of 1.96, with 8 it is 2.53; with one it is NaN.
    """
    if n_units < 2:
        return float("nan")
    quantile = stdtrit(n_units - 1, (1 + CONFIDENCE) / 2)
    return float(np.sqrt(n_units / (n_units - 1)) * quantile)


def bca_interval(
    values: np.ndarray, estimate: np.ndarray | float, left_out: np.ndarray, z: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the ends of bias-corrected and accelerated bootstrap intervals.

    The levels are Φ(z₀ + (z₀ ± z) / (1 − a(z₀ ± z))): z₀ is the normal quantile of the share of draws below the
    estimate (ties count half), a = Σd³ / (6 (Σd²)^1.5) with d the mean of the leave-one-out values less each of them.

    Args:
        values: the statistic of each draw, [..., resamples].
        estimate: the statistic of all answers, [...].
        left_out: the statistic without each question in turn, [..., n_questions].
        z: the normal quantile of the wanted tail, `widened_z` or 1.96 for the plain BCa.
    """
    resamples = values.shape[-1]
    ordered = np.sort(values, axis=-1)
    middle = np.asarray(estimate)[..., None]
    slack = 1e-9 * (ordered[..., -1:] - ordered[..., :1])  # rounding must not break ties
    below = ((values < middle - slack).mean(axis=-1) + (values <= middle + slack).mean(axis=-1)) / 2
    bias = ndtri(np.clip(below, 0.5 / resamples, 1 - 0.5 / resamples))
    pull = left_out.mean(axis=-1, keepdims=True) - left_out
    spread = np.sum(pull**2, axis=-1) ** 1.5
    acceleration = np.sum(pull**3, axis=-1) / (6 * np.where(spread > 0, spread, 1.0))
    ends = []
    for tail in (bias - z, bias + z):
        shrink = np.maximum(1 - acceleration * tail, np.finfo(float).tiny ** 0.5)
        ends.append(_quantile(ordered, ndtr(bias + tail / shrink)))
    return ends[0], ends[1]


def _quantile(ordered: np.ndarray, level: np.ndarray) -> np.ndarray:
    """Return linearly interpolated quantiles of sorted values [..., n], one level [...] for each row."""
    place = np.asarray(level) * (ordered.shape[-1] - 1)
    under = np.floor(place).astype(int)
    over = np.minimum(under + 1, ordered.shape[-1] - 1)
    low, high = (np.take_along_axis(ordered, index[..., None], axis=-1)[..., 0] for index in (under, over))
    return np.asarray(low + (place - under) * (high - low))


def _evaluate(
    statistic: Callable[[np.ndarray], np.ndarray], parts: Iterable[np.ndarray], codes: np.ndarray
) -> np.ndarray:
    """Return the statistic for each row of the parts, counts [rows, n_units]."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.concatenate([statistic(counts[:, codes]) for counts in parts])
