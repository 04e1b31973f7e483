"""Ridge regression on standardised activations, many groups left out from one pass over the rows, and calibration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.linalg
from sklearn.linear_model import LogisticRegression


@dataclass(frozen=True)
class Moments:
    """Weighted sums over rows of centred features; those of a group can be taken out again.

    Attributes:
        weight: sum of the rows' weights.
        x: sum of their features [n_features].
        y: sum of their targets.
        xx: sum of products of features [n_features, n_features].
        xy: sum of features times targets [n_features].
    """

    weight: float
    x: np.ndarray
    y: float
    xx: np.ndarray
    xy: np.ndarray

    @classmethod
    def of(cls, x: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> Moments:
        """Return the sums over rows of centred features [n, n_features] and targets [n], weighted by `weights` [n]."""
        counted = weights > 0
        x, targets, weights = x[counted], targets[counted], weights[counted]
        roots = x * np.sqrt(weights)[:, None].astype(x.dtype)
        products = (roots.T @ roots).astype(np.float64)
        return cls(float(weights.sum()), weights @ x, float(weights @ targets), products, (weights * targets) @ x)

    def without(self, group: Moments) -> Moments:
        """Return the sums over the rows that are not in `group`."""
        return Moments(
            self.weight - group.weight,
            self.x - group.x,
            self.y - group.y,
            self.xx - group.xx,
            self.xy - group.xy,
        )


class Ridge:
    """Weighted ridge regression; the penalty counts in numbers of features, for rows of mean weight 1.

    Args:
        moments: the sums over the rows.
        rows: how many rows they are.
    """

    def __init__(self, moments: Moments, rows: int) -> None:
        self.mean, self.offset = moments.x / moments.weight, moments.y / moments.weight
        covariance = moments.xx / moments.weight - np.outer(self.mean, self.mean)
        self.scale = np.sqrt(np.maximum(np.diag(covariance), 0)) + 1e-6
        self._products = rows * covariance / np.outer(self.scale, self.scale)
        self._moment = rows * (moments.xy / moments.weight - self.mean * self.offset) / self.scale

    def fit(self, penalty: float) -> tuple[np.ndarray, float]:
        """Return weights [n_features] and bias for raw features."""
        products = self._products.copy()
        products[np.diag_indices_from(products)] += penalty * len(self.scale)
        solved = scipy.linalg.solve(products, self._moment, assume_a="pos", overwrite_a=True, check_finite=False)
        weights = solved / self.scale
        return weights, self.offset - float(weights @ self.mean)


def fit_ridge(x: np.ndarray, targets: np.ndarray, weights: np.ndarray, penalty: float) -> tuple[np.ndarray, float]:
    """Return weights [n_features] and bias of a ridge on raw features [n, n_features]."""
    centre = x.mean(axis=0)
    slopes, bias = Ridge(Moments.of(x - centre, targets, weights), len(x)).fit(penalty)
    return slopes, bias - float(slopes @ centre)


def left_out_values(
    x: np.ndarray, targets: np.ndarray, weights: np.ndarray, groups: np.ndarray, penalties: Sequence[float]
) -> dict[float, np.ndarray]:
    """Return by penalty the value [n] of each row from a ridge that never saw its group."""
    left_out = {penalty: np.zeros(len(targets)) for penalty in penalties}
    x = x - x.mean(axis=0)
    everything = Moments.of(x, targets, weights)
    for group in sorted(set(groups)):
        out = groups == group
        rest = everything.without(Moments.of(x[out], targets[out], weights[out]))
        ridge = Ridge(rest, int((~out).sum()))
        for penalty, values in left_out.items():
            slopes, bias = ridge.fit(penalty)
            values[out] = x[out] @ slopes + bias
    return left_out


def calibrate(values: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    """Return slope and shift that make probabilities of left-out values; targets lie between 0 and 1 (Platt 1999)."""
    x = np.concatenate([values, values])[:, None]
    labels = np.repeat([1, 0], len(values))
    shares = np.concatenate([weights * targets, weights * (1 - targets)])
    model = LogisticRegression(C=1e3).fit(x, labels, sample_weight=shares)
    return float(model.coef_[0, 0]), float(model.intercept_[0])


def calibration_error(probabilities: np.ndarray, targets: np.ndarray, bins: int = 10) -> float:
    """Return the expected calibration error over equal-width bins (Naeini et al. 2015)."""
    which = np.minimum((probabilities * bins).astype(int), bins - 1)
    gaps = [
        abs(probabilities[which == b].mean() - targets[which == b].mean()) * (which == b).mean() for b in set(which)
    ]
    return float(sum(gaps))
