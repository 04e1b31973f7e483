"""Ridge regression on standardised activations, many penalties from one decomposition, and calibration."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.linalg
from sklearn.linear_model import LogisticRegression


class Ridge:
    """Weighted ridge regression; the penalty counts in numbers of features.

    Args:
        x: features, float [n, n_features].
        targets: what to predict, float [n].
        weights: how much each row counts, float [n].
    """

    def __init__(self, x: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> None:
        weights = weights / weights.mean()
        self.mean = np.average(x, axis=0, weights=weights)
        self.scale = np.sqrt(np.average((x - self.mean) ** 2, axis=0, weights=weights)) + 1e-6
        self.offset = float(np.average(targets, weights=weights))
        roots = np.sqrt(weights)
        rows = (x - self.mean) / self.scale * roots[:, None]
        values, vectors = scipy.linalg.eigh(rows.T @ rows, overwrite_a=True)
        self._values, self._vectors = np.maximum(values, 0), vectors
        self._moment = vectors.T @ (rows.T @ ((targets - self.offset) * roots))

    def fit(self, penalty: float) -> tuple[np.ndarray, float]:
        """Return weights [n_features] and bias for raw features."""
        solved = self._vectors @ (self._moment / (self._values + penalty * len(self.scale)))
        weights = solved / self.scale
        return weights, self.offset - float(weights @ self.mean)


def left_out_values(
    x: np.ndarray, targets: np.ndarray, weights: np.ndarray, groups: np.ndarray, penalties: Sequence[float]
) -> dict[float, np.ndarray]:
    """Return by penalty the value [n] of each row from a ridge that never saw its group."""
    left_out = {penalty: np.zeros(len(targets)) for penalty in penalties}
    for group in sorted(set(groups)):
        out = groups == group
        ridge = Ridge(x[~out], targets[~out], weights[~out])
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
