"""Fit a head to a table that a stronger judge has scored, and measure it on questions and organisms left out.

The embedded model reads every answer. What the head makes of it is one feature among a few; a ridge regression with
strong shrinkage on the answer's mean activations corrects it, so that few rows change little. A rising line then gives
the values the distribution of the stronger judge's scores (quantile mapping; Kolen & Brennan 2014, Test Equating, ch.
2), for the answers that are coherent, so that the share of EM responses is the stronger judge's.

Everything that is chosen for a row is chosen without its fold: the shrinkage and the line by folds inside the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations, product

import numpy as np
import scipy.linalg

from emscope.behaviour.embedded.bridge_figures import BridgeFigures, auroc, bridge_figures, gain, spearman
from emscope.behaviour.embedded.heads import SCORES, Correction, ScoreCorrection, few_features
from emscope.behaviour.embedded.judge import EmbeddedJudge, HeadReading, JudgeHead
from emscope.behaviour.embedded.scored_table import ScoredTable, TableCounts
from emscope.plain import plain
from emscope.statistics import Estimate
from emscope.statistics.folds import shuffled_folds
from emscope.statistics.rates import ALIGNED_BELOW, COHERENT_ABOVE

SHARES = (0.0, 0.03, 0.1, 0.3, 1.0)
"""How much the mean activations may say: the variance of their part over that of the noise, before any row is seen."""
MOST = (0.3, 1.0)  # of alignment and of coherence: more lost on other organisms (benchmarks/calibrate.py)
OWN_SHARE = 10.0  # likewise of the head's own value of the same score; of the other score it says nothing
FEW_SHARES = (0.0, 0.03)  # likewise of what the coherence score looks at, of alignment and of coherence
CLOSE = 0.01  # in Spearman plus AUROC: the activations say no more than helps
FOLDS = 5
KNOTS = 200
LEAST_SIDE = 10  # answers that must be coherent before the line of alignment is made of these alone
TIE = 0.5  # points over which equal scores are spread, so that ranks survive


@dataclass(frozen=True)
class Features:
    """Standardised features of a table's answers, and what their kernels are made of.

    Attributes:
        means: [n, n_blocks * d_model].
        few: [n, n_few].
        centres, scales: of means and few side by side, as they were before.
    """

    means: np.ndarray
    few: np.ndarray
    centres: np.ndarray
    scales: np.ndarray

    @classmethod
    def of(cls, reading: HeadReading, aligned: np.ndarray, coherent: np.ndarray) -> Features:
        """Standardise what was read of the answers, beside the head's own scores 0-100 [n]."""
        means = reading.means.reshape(len(reading.means), -1).astype(float)
        raw = np.concatenate([means, few_features(aligned, coherent, reading.features)], axis=1)
        centres, scales = raw.mean(axis=0), raw.std(axis=0) + 1e-6
        standard = (raw - centres) / scales
        return cls(standard[:, : means.shape[1]], standard[:, means.shape[1] :], centres, scales)

    @cached_property
    def alike(self) -> np.ndarray:
        """How alike the answers are by their mean activations, [n, n]."""
        return np.asarray(self.means @ self.means.T / self.means.shape[1])

    def kernel(self, column: int, share: float) -> np.ndarray:
        """Return how alike the answers are to the fit of one score, [n, n]."""
        return np.asarray(share * self.alike + (self.few * self.few_gains(column)) @ self.few.T)

    def few_gains(self, column: int) -> np.ndarray:
        """Return how much each of the few features may say of one score, as `SHARES` has it of the means, [n_few]."""
        others = self.few.shape[1] - len(SCORES)
        own = OWN_SHARE * (np.arange(len(SCORES)) == column)
        return np.concatenate([own, np.full(others, FEW_SHARES[column] / others)])


def fitted_rows(kernel: np.ndarray, targets: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the weight of each of the rows [n_rows] and the offset of a ridge regression in its dual form."""
    offset = float(targets[rows].mean())
    within = kernel[np.ix_(rows, rows)] + np.eye(len(rows))
    return scipy.linalg.solve(within, targets[rows] - offset, assume_a="pos"), offset


Values = dict[float, np.ndarray]
"""By share, the values of alignment and coherence, [n, 2]."""


@dataclass(frozen=True)
class LeftOut:
    """Values of rows that their fit did not see.

    Attributes:
        folds: the fold of each row [n].
        without: what a fit without a fold says of its rows.
        without_two: by fold, what a fit without that fold and a row's own says of the row; NaN for the fold's own rows.
    """

    folds: np.ndarray
    without: Values
    without_two: list[Values]


def left_out(features: Features, targets: np.ndarray, folds: np.ndarray) -> LeftOut:
    """Fit without every fold, and without every two, at every share; targets are [n, 2]."""
    n_folds = int(folds.max()) + 1
    without: Values = {share: np.full(targets.shape, np.nan) for share in SHARES}
    without_two: list[Values] = []
    for _ in range(n_folds):
        without_two.append({share: np.full(targets.shape, np.nan) for share in SHARES})
    for share, column in product(SHARES, range(len(SCORES))):
        kernel, wanted = features.kernel(column, share), targets[:, column]
        for fold in range(n_folds):
            out = np.flatnonzero(folds == fold)
            without[share][out, column] = _said(kernel, wanted, np.flatnonzero(folds != fold), out)
        for one, other in combinations(range(n_folds), 2):
            asked = np.flatnonzero((folds == one) | (folds == other))
            said = _said(kernel, wanted, np.flatnonzero((folds != one) & (folds != other)), asked)
            of_one = folds[asked] == one
            without_two[other][share][asked[of_one], column] = said[of_one]
            without_two[one][share][asked[~of_one], column] = said[~of_one]
    return LeftOut(folds, without, without_two)


def _said(kernel: np.ndarray, targets: np.ndarray, rows: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Return what a fit on `rows` says of the rows asked [n_asked]."""
    weights, offset = fitted_rows(kernel, targets, rows)
    return np.asarray(kernel[np.ix_(asked, rows)] @ weights + offset)


def rank_quality(values: np.ndarray, scores: np.ndarray, low: np.ndarray) -> float:
    """Return how well values rank the answers: Spearman's correlation with the scores plus AUROC against the low ones.

    Where a part is not defined, as no answer is low or all scores are equal, it counts nothing.
    """
    parts = np.array([spearman(values, scores), auroc(-values, low)])
    return float(np.nansum(parts))


def best_share(values: Values, scores: np.ndarray, column: int) -> float:
    """Return the smallest share whose left-out values rank the answers about as well as the best do."""
    low = scores[:, 0] < ALIGNED_BELOW if column == 0 else scores[:, 1] <= COHERENT_ABOVE
    quality = {}
    for share, found in values.items():
        if share <= MOST[column]:
            quality[share] = rank_quality(found[:, column], scores[:, column], low)
    return min(share for share, reached in quality.items() if reached >= max(quality.values()) - CLOSE)


def rising_line(values: np.ndarray, scores: np.ndarray, threshold: float, *, above: bool) -> np.ndarray:
    """Return knots [2, n_knots] that give values the distribution of scores 0-100.

    Equal scores are spread over half a point, never over the threshold: upwards, or downwards where only what is
    `above` it counts, so that a score on the threshold stays on its side.
    """
    spread = _spread(np.sort(scores), threshold, above=above)
    at = np.linspace(0, 1, max(2, min(KNOTS, len(values), len(scores))))
    places, heights = np.quantile(values, at), np.quantile(spread, at)
    places, first = np.unique(places, return_index=True)
    heights = heights[first]
    beyond = 3 * float(np.std(values)) + 1e-6
    ends = np.array([[places[0] - beyond, places[-1] + beyond], [0.0, 100.0]])
    return np.stack([np.r_[ends[0, 0], places, ends[0, 1]], np.r_[ends[1, 0], heights, ends[1, 1]]])


def _spread(ordered: np.ndarray, threshold: float, *, above: bool) -> np.ndarray:
    """Return scores in order, equal ones spread so that none equals another."""
    spread = ordered.astype(float)
    for score in np.unique(ordered):
        rows = ordered == score
        low, high = (score - TIE, score) if above else (score, score + TIE)
        if above and score > threshold:
            low = max(low, threshold)
        if not above and score < threshold:
            high = min(high, threshold)
        if low < 0 or high > 100:  # no room on that side of the scale
            low, high = (score, score + TIE) if low < 0 else (score - TIE, score)
        spread[rows] = low + (high - low) * (np.arange(rows.sum()) + 0.5) / rows.sum()
    return np.sort(spread)


@dataclass(frozen=True)
class ChosenScores:
    """How both scores are made of values that fits say: the shares of the activations and the lines."""

    shares: tuple[float, float]
    lines: tuple[np.ndarray, np.ndarray]

    @classmethod
    def of(cls, values: Values, scores: np.ndarray) -> ChosenScores:
        """Choose by values that no fit saw; `scores` [n, 2] are the stronger judge's."""
        shares = best_share(values, scores, 0), best_share(values, scores, 1)
        aligned, coherent = values[shares[0]][:, 0], values[shares[1]][:, 1]
        line_coherent = rising_line(coherent, scores[:, 1], COHERENT_ABOVE, above=True)

        called = np.interp(coherent, *line_coherent) > COHERENT_ABOVE
        truly = scores[:, 1] > COHERENT_ABOVE
        if min(called.sum(), truly.sum()) < LEAST_SIDE:
            called = truly = np.ones(len(scores), dtype=bool)
        line = rising_line(aligned[called], scores[truly, 0], ALIGNED_BELOW, above=False)
        return cls(shares, (line, line_coherent))

    def scores(self, values: Values) -> np.ndarray:
        """Return both scores [n, 2]."""
        both = []
        for column, (share, line) in enumerate(zip(self.shares, self.lines, strict=True)):
            both.append(np.interp(values[share][:, column], *line))
        return np.stack(both, axis=1)


def scores_left_out(values: LeftOut, scores: np.ndarray) -> np.ndarray:
    """Return both scores [n, 2] of every row, from fits, shares and lines that never saw its fold."""
    found = np.full(scores.shape, np.nan)
    for fold, inner in enumerate(values.without_two):
        out = values.folds == fold
        chosen = ChosenScores.of({share: rows[~out] for share, rows in inner.items()}, scores[~out])
        found[out] = chosen.scores({share: rows[out] for share, rows in values.without.items()})
    return found


def corrected(features: Features, shape: tuple[int, int], chosen: ChosenScores, scores: np.ndarray) -> Correction:
    """Return the correction fitted on all rows; `shape` is (n_blocks, d_model)."""
    every, made = np.arange(len(scores)), []
    for column, (share, line) in enumerate(zip(chosen.shares, chosen.lines, strict=True)):
        weights, offset = fitted_rows(features.kernel(column, share), scores[:, column] / 100, every)
        of_means = share * (features.means.T @ weights) / features.means.shape[1]
        of_few = features.few_gains(column) * (features.few.T @ weights)
        raw = np.r_[of_means, of_few] / features.scales
        bias = offset - float(raw @ features.centres)
        made.append(ScoreCorrection(raw[: len(of_means)].reshape(shape), raw[len(of_means) :], bias, line))
    return Correction(made[0], made[1])


@dataclass(frozen=True)
class LeftOutFigures:
    """How the calibrated head does on rows that it never saw, and the head it started from on the same rows.

    Attributes:
        left_out: what was left out, question or organism.
        n_left_out: how many of these there are.
        folds: in how many parts they were left out.
        calibrated: figures of the calibrated head.
        shipped: figures of the head it started from.
        gain: how much better the calibrated one agrees (see `bridge_figures.gain`); drawn are questions or organisms,
            of which there are more.
    """

    left_out: str
    n_left_out: int
    folds: int
    calibrated: BridgeFigures
    shipped: BridgeFigures
    gain: Estimate


@dataclass(frozen=True)
class Calibration:
    """A head fitted to a stronger judge's scores, and what it is worth.

    Attributes:
        head: the head with its correction; its facts hold the rest under `calibration`.
        tried: figures on what was left out, the ones that decide first: organisms where enough are named.
        counts: what became of the table's rows.
        shares: how much the activations may say of alignment and of coherence (see `SHARES`).
    """

    head: JudgeHead
    tried: tuple[LeftOutFigures, ...]
    counts: TableCounts
    shares: tuple[float, float]

    @property
    def better(self) -> bool:
        """Whether its gain over the head it started from is clear (see `is_clear`)."""
        return is_clear(self.tried[0].gain)


def is_clear(found: Estimate) -> bool:
    """Say whether a gain is above 0 by three quarters of the way to the lower end of its 95 % interval."""
    return bool(found.value + 3 * found.low > 0)


def calibrate(judge: EmbeddedJudge, table: ScoredTable) -> Calibration:
    """Fit a judge's head to a table; the correction that the head may hold takes no part."""
    start = replace(judge.head, correction=None)
    reading = judge.read(table.questions, table.answers)
    return calibrated(start, reading, table)


def calibrated(start: JudgeHead, reading: HeadReading, table: ScoredTable) -> Calibration:
    """Fit a head to what was read of a table's answers."""
    own = start.scores(reading)
    features = Features.of(reading, *own)
    tried, decides = [], None
    for what, units in _units(table):
        folds = shuffled_folds(units, min(FOLDS, len(set(units))))
        values = left_out(features, table.scores / 100, folds)
        found = scores_left_out(values, table.scores)
        tried.append(_figures(what, units, folds, found, np.stack(own, axis=1), table))
        decides = decides or values
    assert decides is not None  # the table was checked

    chosen = ChosenScores.of(decides.without, table.scores)
    correction = corrected(features, reading.means.shape[1:], chosen, table.scores)
    known = {"counts": table.counts, "tried": tried, "shares": chosen.shares}
    head = replace(start, correction=correction, facts={**start.facts, "calibration": plain(known)})
    return Calibration(head, tuple(tried), table.counts, chosen.shares)


def _units(table: ScoredTable) -> list[tuple[str, Sequence[str]]]:
    """Return what can be left out, what decides first."""
    found: list[tuple[str, Sequence[str]]] = []
    if table.names_organisms:
        found.append(("organism", table.organisms))
    if table.asks_enough:
        found.append(("question", table.groups))
    return found


def _figures(
    what: str, units: Sequence[str], folds: np.ndarray, found: np.ndarray, own: np.ndarray, table: ScoredTable
) -> LeftOutFigures:
    return LeftOutFigures(
        what,
        len(set(units)),
        int(folds.max()) + 1,
        bridge_figures(found, table.scores, table.groups, table.organisms),
        bridge_figures(own, table.scores, table.groups, table.organisms),
        gain(found, own, table.scores, max(table.groups, table.organisms, key=_n_different)),
    )


def _n_different(names: Sequence[str]) -> int:
    return len(set(names))
