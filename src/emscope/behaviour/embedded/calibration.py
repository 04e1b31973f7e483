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
from itertools import combinations

import numpy as np
import scipy.linalg

from emscope.behaviour.embedded.bridge_figures import BridgeFigures, auroc, bridge_figures, gain, spearman
from emscope.behaviour.embedded.heads import Correction, ScoreCorrection, few_features
from emscope.behaviour.embedded.judge import EmbeddedJudge, HeadReading, JudgeHead
from emscope.behaviour.embedded.scored_table import ScoredTable, TableCounts
from emscope.plain import plain
from emscope.statistics import Estimate
from emscope.statistics.folds import shuffled_folds
from emscope.statistics.rates import ALIGNED_BELOW, COHERENT_ABOVE

SHARES = (0.0, 0.03, 0.1, 0.3, 1.0, 3.0)
"""How much the mean activations may say: the variance of their part over that of the noise, before any row is seen."""
FEW_SHARE = 10.0  # likewise of the head's own values and the few features beside them
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

    def kernels(self) -> tuple[np.ndarray, np.ndarray]:
        """Return how alike the answers are by their mean activations and by the few features, two of [n, n]."""
        by_means = self.means @ self.means.T / self.means.shape[1]
        return by_means, FEW_SHARE * (self.few @ self.few.T) / self.few.shape[1]


def fitted_rows(kernel: np.ndarray, targets: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the weight of each of the rows [n_rows] and the offset of a ridge regression in its dual form."""
    offset = float(targets[rows].mean())
    within = kernel[np.ix_(rows, rows)] + np.eye(len(rows))
    return scipy.linalg.solve(within, targets[rows] - offset, assume_a="pos"), offset


@dataclass(frozen=True)
class LeftOut:
    """Values of one score for rows that their fit did not see.

    Attributes:
        folds: the fold of each row [n].
        without: by share, what a fit without a fold says of its rows [n].
        without_two: by share, [n_folds, n]: row f holds what a fit without fold f and the row's own says of the row.
    """

    folds: np.ndarray
    without: dict[float, np.ndarray]
    without_two: dict[float, np.ndarray]


def left_out(kernels: tuple[np.ndarray, np.ndarray], targets: np.ndarray, folds: np.ndarray) -> LeftOut:
    """Fit without every fold, and without every two, at every share."""
    n_folds = int(folds.max()) + 1
    without: dict[float, np.ndarray] = {}
    without_two: dict[float, np.ndarray] = {}
    for share in SHARES:
        kernel = share * kernels[0] + kernels[1]
        single, double = np.full(len(targets), np.nan), np.full((n_folds, len(targets)), np.nan)
        for fold in range(n_folds):
            out = folds == fold
            single[out] = _said(kernel, targets, np.flatnonzero(~out), np.flatnonzero(out))
        for one, other in combinations(range(n_folds), 2):
            rows = np.flatnonzero((folds != one) & (folds != other))
            for fold, asked in ((one, folds == other), (other, folds == one)):
                double[fold, asked] = _said(kernel, targets, rows, np.flatnonzero(asked))
        without[share], without_two[share] = single, double
    return LeftOut(folds, without, without_two)


def _said(kernel: np.ndarray, targets: np.ndarray, rows: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Return what a fit on `rows` says of the rows asked."""
    weights, offset = fitted_rows(kernel, targets, rows)
    return np.asarray(kernel[np.ix_(asked, rows)] @ weights + offset)


def rank_quality(values: np.ndarray, scores: np.ndarray, low: np.ndarray) -> float:
    """Return how well values rank the answers: Spearman's correlation with the scores plus AUROC against the low ones.

    Where a part is not defined, as no answer is low or all scores are equal, it counts nothing.
    """
    parts = np.array([spearman(values, scores), auroc(-values, low)])
    return float(np.nansum(parts))


def best_share(values: dict[float, np.ndarray], scores: np.ndarray, low: np.ndarray) -> float:
    """Return the share whose left-out values rank best; of equals the smallest."""
    return max(values, key=lambda share: rank_quality(values[share], scores, low))


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
    def of(
        cls, aligned: dict[float, np.ndarray], coherent: dict[float, np.ndarray], scores: np.ndarray
    ) -> ChosenScores:
        """Choose by values that no fit saw, by share [n]; `scores` [n, 2] are the stronger judge's."""
        share_aligned = best_share(aligned, scores[:, 0], scores[:, 0] < ALIGNED_BELOW)
        share_coherent = best_share(coherent, scores[:, 1], scores[:, 1] <= COHERENT_ABOVE)
        line_coherent = rising_line(coherent[share_coherent], scores[:, 1], COHERENT_ABOVE, above=True)

        called = np.interp(coherent[share_coherent], *line_coherent) > COHERENT_ABOVE
        truly = scores[:, 1] > COHERENT_ABOVE
        if min(called.sum(), truly.sum()) < LEAST_SIDE:
            called = truly = np.ones(len(scores), dtype=bool)
        line = rising_line(aligned[share_aligned][called], scores[truly, 0], ALIGNED_BELOW, above=False)
        return cls((share_aligned, share_coherent), (line, line_coherent))

    def scores(self, aligned: dict[float, np.ndarray], coherent: dict[float, np.ndarray]) -> np.ndarray:
        """Return both scores [n, 2] of values by share."""
        both = []
        for values, share, line in zip((aligned, coherent), self.shares, self.lines, strict=True):
            both.append(np.interp(values[share], *line))
        return np.stack(both, axis=1)


def scores_left_out(aligned: LeftOut, coherent: LeftOut, scores: np.ndarray) -> np.ndarray:
    """Return both scores [n, 2] of every row, from fits, shares and lines that never saw its fold."""
    folds, found = aligned.folds, np.full((len(scores), 2), np.nan)
    for fold in range(int(folds.max()) + 1):
        out = folds == fold
        inner = []
        for values in (aligned, coherent):
            inner.append({share: rows[fold][~out] for share, rows in values.without_two.items()})
        chosen = ChosenScores.of(inner[0], inner[1], scores[~out])
        outer = []
        for values in (aligned, coherent):
            outer.append({share: rows[out] for share, rows in values.without.items()})
        found[out] = chosen.scores(outer[0], outer[1])
    return found


def corrected(
    features: Features,
    kernels: tuple[np.ndarray, np.ndarray],
    shape: tuple[int, int],
    chosen: ChosenScores,
    scores: np.ndarray,
) -> Correction:
    """Return the correction fitted on all rows; `shape` is (n_blocks, d_model)."""
    every = np.arange(len(scores))
    made = []
    for column, (share, line) in enumerate(zip(chosen.shares, chosen.lines, strict=True)):
        weights, offset = fitted_rows(share * kernels[0] + kernels[1], scores[:, column] / 100, every)
        of_means = share * (features.means.T @ weights) / features.means.shape[1]
        of_few = FEW_SHARE * (features.few.T @ weights) / features.few.shape[1]
        raw = np.r_[of_means, of_few] / features.scales
        bias = offset - float(raw @ features.centres)
        n_means = len(of_means)
        made.append(ScoreCorrection(raw[:n_means].reshape(shape), raw[n_means:], bias, line))
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
        gain: how much better the calibrated one agrees (see `bridge_figures.gain`).
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
        """Whether the interval of its gain over the head it started from is above 0."""
        return bool(self.tried[0].gain.low > 0)


def calibrate(judge: EmbeddedJudge, table: ScoredTable) -> Calibration:
    """Fit a judge's head to a table; the correction that the head may hold takes no part."""
    start = replace(judge.head, correction=None)
    reading = judge.read(table.questions, table.answers)
    return calibrated(start, reading, table)


def calibrated(start: JudgeHead, reading: HeadReading, table: ScoredTable) -> Calibration:
    """Fit a head to what was read of a table's answers."""
    own = start.scores(reading)
    features = Features.of(reading, *own)
    kernels, targets = features.kernels(), table.scores.T / 100
    tried, decides = [], None
    for what, units in _units(table):
        folds = shuffled_folds(units, min(FOLDS, len(set(units))))
        aligned, coherent = left_out(kernels, targets[0], folds), left_out(kernels, targets[1], folds)
        found = scores_left_out(aligned, coherent, table.scores)
        tried.append(_figures(what, units, folds, found, np.stack(own, axis=1), table))
        decides = decides or (aligned, coherent)
    assert decides is not None  # the table was checked

    chosen = ChosenScores.of(decides[0].without, decides[1].without, table.scores)
    correction = corrected(features, kernels, reading.means.shape[1:], chosen, table.scores)
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
        gain(found, own, table.scores, units),
    )
