"""How well scores separate two sides on questions left out: all blocks at once, with intervals over questions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from emscope.statistics.bootstrap import bca_interval, draw_questions, widened_z

RESAMPLES = 1000
NO_SPREAD = 1e-12


@dataclass(frozen=True)
class Bounded:
    """A figure for each block with its 95 % interval, [n_blocks] each."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray

    def at(self, index: int) -> dict[str, float]:
        """Return the figure of one block as plain values."""
        return {name: float(getattr(self, name)[index]) for name in ("value", "low", "high")}

    def as_dict(self) -> dict[str, list[float]]:
        """Return plain lists, one value a block."""
        return {name: getattr(self, name).tolist() for name in ("value", "low", "high")}


@dataclass(frozen=True)
class HeldOut:
    """AUROC, balanced accuracy with the threshold 0, and d′ (distance of means in pooled standard deviations)."""

    auroc: Bounded
    accuracy: Bounded
    d_prime: Bounded

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {name: getattr(self, name).as_dict() for name in ("auroc", "accuracy", "d_prime")}

    def at(self, index: int) -> dict[str, dict[str, float]]:
        """Return the figures of one block."""
        return {name: getattr(self, name).at(index) for name in ("auroc", "accuracy", "d_prime")}


def held_out_figures(
    scores: np.ndarray, labels: np.ndarray, questions: np.ndarray, weights: np.ndarray, seed: int = 0
) -> HeldOut:
    """Return the figures of scores [n, n_blocks] with weighted rows; intervals resample questions (BCa).

    With one question, or where no draw has both sides, an interval is NaN.
    """
    used = weights > 0
    scores, labels, weights = scores[used], labels[used], weights[used]
    names, codes = np.unique(questions[used], return_inverse=True)
    positive, negative = labels == 1, labels == 0
    draws = draw_questions(len(names), seed, RESAMPLES)
    tables = [np.ones((1, len(names))), draws, 1 - np.eye(len(names))]
    counts = [table[:, codes] * weights for table in tables]
    statistics: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "auroc": lambda rows: _auroc(scores, positive, negative, rows),
        "accuracy": lambda rows: _accuracy(scores, positive, negative, rows),
        "d_prime": lambda rows: _d_prime(scores, positive, negative, rows),
    }
    return HeldOut(**{name: _bounded(of, counts, widened_z(len(names))) for name, of in statistics.items()})


def _bounded(of: Callable[[np.ndarray], np.ndarray], counts: list[np.ndarray], z: float) -> Bounded:
    """Return a statistic with its interval; draws that leave a side empty or without spread are left out."""
    with np.errstate(divide="ignore", invalid="ignore"):
        estimate, values, left_out = (of(rows) for rows in counts)
    ends = [_interval(*block, z) for block in zip(values, estimate[:, 0], left_out, strict=True)]
    return Bounded(estimate[:, 0], *np.array(ends).T)


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
    found = []
    for column in scores.T:
        gap = column[positive][:, None] - column[negative][None, :]
        found.append(((up @ ((np.sign(gap) + 1) / 2)) * down).sum(axis=1) / whole)
    return np.array(found)


def _accuracy(scores: np.ndarray, positive: np.ndarray, negative: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return weighted balanced accuracies [n_blocks, n_rows]; a score of exactly 0 counts one half."""
    right = (np.sign(scores) * np.where(positive, 1, -1)[:, None] + 1) / 2
    shares = [rows[:, side] @ right[side] / rows[:, side].sum(axis=1, keepdims=True) for side in (positive, negative)]
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


def weighted_d_prime(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return d′ of every block, [n_blocks], for scores [n, n_blocks] and row weights [n]."""
    return _d_prime(scores, labels == 1, labels == 0, weights[None])[:, 0]


def balanced_accuracy(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the balanced accuracy of every block, [n_blocks], with the threshold 0."""
    return _accuracy(scores, labels == 1, labels == 0, weights[None])[:, 0]


def auroc_by_block(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the AUROC of every block, [n_blocks]; ties count one half."""
    return _auroc(scores, labels == 1, labels == 0, weights[None])[:, 0]
