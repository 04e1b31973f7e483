"""How well scores separate two sides: AUROC, d′ and balanced accuracy, with one kind of interval.

Questions are resampled, 95 % by the bias-corrected bootstrap of `bootstrap`: `auroc_interval` where row i of both sides
is question i, `grouped_auroc` where sides have rows of their own, `separation_by_block` for weighted rows by block.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from emscope.statistics.bootstrap import bca_interval, bootstrap_questions, draw_questions, widened_z
from emscope.statistics.estimates import Estimate
from emscope.statistics.folds import group_codes

RESAMPLES = 1000
NO_SPREAD = 1e-12


def auroc(positive: np.ndarray, negative: np.ndarray) -> float:
    """Return the area under the ROC curve of scores [n] and [m] (Mann-Whitney; ties count one half)."""
    return float(_wins(positive, negative).mean())


def _wins(positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
    """Return 1 where a score is above another, one half where they tie, [n, m]."""
    more, same = positive[:, None] > negative[None, :], positive[:, None] == negative[None, :]
    return np.asarray(more + 0.5 * same)


def auroc_interval(
    positive: np.ndarray, negative: np.ndarray, seed: int = 0, groups: Sequence[str] | None = None
) -> tuple[float, float]:
    """Return the 95 % interval of the AUROC when questions are resampled; row i of both sides is question i.

    `groups` names what is drawn together (`Question.group`); by default each question is drawn alone.
    """
    codes = range(len(positive)) if groups is None else group_codes(groups).tolist()
    names = [f"{code:09d}" for code in codes]  # drawn in the order they come, whatever they are called
    wanted = np.repeat([True, False], len(positive))
    estimate = grouped_auroc(np.concatenate([positive, negative]), wanted, [*names, *names], seed=seed)
    return estimate.low, estimate.high


def grouped_auroc(
    scores: np.ndarray, wanted: np.ndarray, groups: Sequence[str], *, within: bool = False, seed: int = 0
) -> Estimate:
    """Return the chance that a wanted row scores above another one, with its interval from resampling questions.

    `scores` and `wanted` (flags) are [n_rows]; ties count one half; rows without a score are left out. `within`
    compares only rows of one question, so that what the question alone tells does not count. NaN where nothing can be
    compared. `n` counts the rows that are compared.
    """
    keep = np.isfinite(scores)
    values, flags = scores[keep], wanted[keep].astype(bool)
    kept = np.asarray(groups)[keep]
    above = np.sign(values[flags][:, None] - values[~flags][None, :]) / 2 + 0.5
    compared = (kept[flags][:, None] == kept[~flags][None, :]) if within else np.ones_like(above, dtype=bool)
    n = int(compared.any(axis=1).sum() + compared.any(axis=0).sum())
    if not compared.any():
        return Estimate(float("nan"), float("nan"), float("nan"), n)
    wins, pairs = above * compared, compared.astype(float)

    def statistic(weights: np.ndarray) -> np.ndarray:
        positive, negative = weights[:, flags], weights[:, ~flags]
        # a question drawn twice is two questions: its rows meet once each, not four times
        other = negative > 0 if within else negative
        return np.asarray(((positive @ wins) * other).sum(axis=1) / ((positive @ pairs) * other).sum(axis=1))

    low, high = bootstrap_questions(kept.tolist(), statistic, seed)
    return Estimate(float(wins.sum() / pairs.sum()), low, high, n)


def auroc_gain(
    scores: np.ndarray, reference: np.ndarray, wanted: np.ndarray, groups: Sequence[str], seed: int = 0
) -> Estimate:
    """Return how much larger the AUROC of some scores is than that of reference scores of the same rows.

    All are [n_rows]; the interval resamples questions, the same ones for both. NaN where one side has no rows.
    """
    flags = wanted.astype(bool)
    if not 0 < flags.sum() < len(flags):
        return Estimate(float("nan"), float("nan"), float("nan"), len(flags))
    first = np.sign(scores[flags][:, None] - scores[~flags][None, :]) / 2
    second = np.sign(reference[flags][:, None] - reference[~flags][None, :]) / 2
    difference = first - second

    def statistic(weights: np.ndarray) -> np.ndarray:
        positive, negative = weights[:, flags], weights[:, ~flags]
        pairs = positive.sum(axis=1) * negative.sum(axis=1)
        return np.asarray(((positive @ difference) * negative).sum(axis=1) / pairs)

    return Estimate(float(difference.mean()), *bootstrap_questions(groups, statistic, seed), len(flags))


def d_prime(positive: np.ndarray, negative: np.ndarray) -> float:
    """Return the distance of the means of scores [n] and [m] in units of the pooled standard deviation."""
    spread = np.sqrt((positive.var(ddof=1) + negative.var(ddof=1)) / 2)
    return float((positive.mean() - negative.mean()) / max(spread, 1e-12))


def balanced_accuracy(positive: np.ndarray, negative: np.ndarray, threshold: float = 0.0) -> float:
    """Return the mean of the shares of scores [n] above a threshold and of scores [m] not above it."""
    return float(((positive > threshold).mean() + (negative <= threshold).mean()) / 2)


def best_threshold(positive: np.ndarray, negative: np.ndarray) -> float:
    """Return the threshold with the highest balanced accuracy; the middle of the widest such gap."""
    values = np.unique(np.concatenate([positive, negative]))
    if len(values) < 2:
        return float(values[0])
    cuts = (values[1:] + values[:-1]) / 2
    accuracies = [balanced_accuracy(positive, negative, cut) for cut in cuts]
    best = np.flatnonzero(np.isclose(accuracies, max(accuracies)))
    widths = (values[1:] - values[:-1])[best]
    return float(cuts[best[int(widths.argmax())]])


@dataclass(frozen=True)
class BoundedByBlock:
    """A figure of every block with its 95 % interval.

    Attributes:
        value: the figure, [n_blocks].
        low: lower ends of the intervals, [n_blocks].
        high: upper ends of the intervals, [n_blocks].
    """

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True)
class SeparationByBlock:
    """How well scores separate two sides at every block.

    Attributes:
        auroc: area under the ROC curve; ties count one half.
        accuracy: balanced accuracy with the threshold 0; a score of exactly 0 counts one half.
        d_prime: distance of the means in pooled standard deviations.
    """

    auroc: BoundedByBlock
    accuracy: BoundedByBlock
    d_prime: BoundedByBlock


def separation_by_block(
    scores: np.ndarray, labels: np.ndarray, questions: np.ndarray, weights: np.ndarray, seed: int = 0
) -> SeparationByBlock:
    """Return the figures of scores [n, n_blocks] with weighted rows; intervals resample questions (BCa).

    With one question, or where no draw has both sides, an interval is NaN.
    """
    used = weights > 0
    scores, labels, weights = scores[used], labels[used], weights[used]
    names, codes = np.unique(questions[used], return_inverse=True)
    positive, negative = labels == 1, labels == 0
    z = widened_z(len(names))

    counts = []
    for draws in (np.ones((1, len(names))), draw_questions(len(names), seed, RESAMPLES), 1 - np.eye(len(names))):
        counts.append(draws[:, codes] * weights)

    def bounded(measure: Measure) -> BoundedByBlock:
        return _bounded(lambda rows: measure(scores, positive, negative, rows), counts, z)

    return SeparationByBlock(bounded(_auroc), bounded(_accuracy), bounded(_d_prime))


Measure = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def _bounded(statistic: Callable[[np.ndarray], np.ndarray], counts: list[np.ndarray], z: float) -> BoundedByBlock:
    """Return a statistic with its interval; draws that leave a side empty or without spread are left out.

    `counts` are row weights: of all questions, of each draw, and with each question left out.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        estimate, values, left_out = map(statistic, counts)
    low, high = np.empty(len(estimate)), np.empty(len(estimate))
    for block, value in enumerate(estimate[:, 0]):
        low[block], high[block] = _interval(values[block], value, left_out[block], z)
    return BoundedByBlock(estimate[:, 0], low, high)


def _interval(values: np.ndarray, estimate: float, left_out: np.ndarray, z: float) -> tuple[float, float]:
    """Return the interval of one block's statistic from its draws that are numbers; NaN without any."""
    values, left_out = values[np.isfinite(values)], left_out[np.isfinite(left_out)]
    if not (len(values) and len(left_out) and np.isfinite(estimate) and np.isfinite(z)):
        return float("nan"), float("nan")
    low, high = bca_interval(values, estimate, left_out, z)
    return float(low), float(high)


def _auroc(scores: np.ndarray, positive: np.ndarray, negative: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return weighted AUROCs [n_blocks, n_rows] for weights [n_rows, n]; ties count one half."""
    up, down = rows[:, positive], rows[:, negative]
    whole = up.sum(axis=1) * down.sum(axis=1)
    aurocs = []
    for column in scores.T:
        gap = column[positive][:, None] - column[negative][None, :]
        aurocs.append(((up @ ((np.sign(gap) + 1) / 2)) * down).sum(axis=1) / whole)
    return np.array(aurocs)


def _accuracy(scores: np.ndarray, positive: np.ndarray, negative: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return weighted balanced accuracies [n_blocks, n_rows]; a score of exactly 0 counts one half."""
    right = (np.sign(scores) * np.where(positive, 1, -1)[:, None] + 1) / 2
    shares = []
    for side in (positive, negative):
        shares.append(rows[:, side] @ right[side] / rows[:, side].sum(axis=1, keepdims=True))
    return np.asarray((shares[0] + shares[1]).T / 2)


def _d_prime(scores: np.ndarray, positive: np.ndarray, negative: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return the distance of the weighted means in pooled standard deviations [n_blocks, n_rows].

    NaN where weights leave sides that differ without a spread: no number of deviations is right there. 0 where all
    scores are one.
    """
    centred = scores - scores.mean(axis=0)
    moments = []
    for side in (positive, negative):
        part, total = rows[:, side], rows[:, side].sum(axis=1, keepdims=True)
        mean = part @ centred[side] / total
        moments.append((mean, part @ centred[side] ** 2 / total - mean**2))
    variance, whole = (moments[0][1] + moments[1][1]) / 2, (centred**2).mean(axis=0)
    variance = np.where((variance > NO_SPREAD * whole) | (whole == 0), np.maximum(variance, 1e-24), np.nan)
    return np.asarray(((moments[0][0] - moments[1][0]) / np.sqrt(variance)).T)


def auroc_by_block(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the AUROC of every block, [n_blocks], for scores [n, n_blocks] and row weights [n]."""
    return _auroc(scores, labels == 1, labels == 0, weights[None])[:, 0]


def accuracy_by_block(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the balanced accuracy of every block with the threshold 0, [n_blocks], for scores [n, n_blocks]."""
    return _accuracy(scores, labels == 1, labels == 0, weights[None])[:, 0]


def d_prime_by_block(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return d′ of every block, [n_blocks], for scores [n, n_blocks] and row weights [n]."""
    return _d_prime(scores, labels == 1, labels == 0, weights[None])[:, 0]
