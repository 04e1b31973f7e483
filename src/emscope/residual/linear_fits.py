"""Linear scorers of every block, many at once: difference in means or probe, under any labels and weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from emscope.residual.directions import Method, unit
from emscope.residual.probe import fit_many


@dataclass(frozen=True)
class Scorers:
    """Scores activations · vectors − offsets of several fits; above 0 is the misaligned side.

    For a difference in means the score is the distance from the midpoint in within-class deviations, for a probe the
    log-odds. `vectors` [n_fits, n_blocks, d_model] are directions at any length, `offsets` are [n_fits, n_blocks].
    """

    vectors: np.ndarray
    offsets: np.ndarray

    def scores(self, activations: np.ndarray) -> np.ndarray:
        """Return [n_fits, n_examples, n_blocks] for activations [n_examples, n_blocks, d_model]."""
        return np.asarray(project(activations, self.vectors) - self.offsets[:, None])

    def one(self, fit: int) -> Scorers:
        """Return a single fit."""
        return Scorers(self.vectors[fit : fit + 1], self.offsets[fit : fit + 1])

    @property
    def units(self) -> np.ndarray:
        """The directions at length 1."""
        return unit(self.vectors)


def project(activations: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Return dot products [n_fits, n_examples, n_blocks] of [n_examples, n_blocks, d] and [n_fits, n_blocks, d]."""
    products = activations.transpose(1, 0, 2) @ vectors.transpose(1, 2, 0)  # [n_blocks, n_examples, n_fits]
    return np.asarray(products.transpose(2, 1, 0))


def fit_scorers(
    method: Method, activations: np.ndarray, labels: np.ndarray, weights: np.ndarray, penalties: np.ndarray
) -> Scorers:
    """Fit scorers on the same activations with labels and weights [n_fits, n_examples].

    `penalties` [n_blocks] are the probe's; a difference in means has none.
    """
    if method == "probe":
        found = fit_many(activations, labels, weights, np.repeat(penalties[:, None], len(labels), axis=1))
        return Scorers(found.weights, -found.intercepts)
    vectors, _ = weighted_differences(activations, labels, weights)
    units = unit(vectors)
    own = project(activations, units).astype(np.float64)
    middle, spread = middle_and_spread(own, labels, weights)
    return Scorers((units / spread[..., None]).astype(np.float32), (middle / spread).astype(np.float32))


def weighted_differences(
    activations: np.ndarray, labels: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Return differences of weighted means [n_fits, n_blocks, d_model] and the means of the two sides, float32.

    The sums are taken around the overall mean: a massive dimension costs no precision.
    """
    n = len(activations)
    centre = activations.mean(axis=0, dtype=np.float64).astype(np.float32)
    flat = (activations - centre).reshape(n, -1)
    means = []
    for side in (1, 0):
        own = weights * (labels == side)
        shares = (own / own.sum(axis=1, keepdims=True)).astype(np.float32)
        means.append((shares @ flat).reshape(-1, *centre.shape))
    return means[0] - means[1], (means[0] + centre, means[1] + centre)


def middle_and_spread(
    projections: np.ndarray, labels: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the midpoint of the sides' means and the pooled deviation of projections [n_fits, n, n_blocks]."""
    means, variances = [], []
    for side in (1, 0):
        own = weights * (labels == side)
        shares = (own / own.sum(axis=1, keepdims=True))[:, :, None]
        mean = (shares * projections).sum(axis=1, keepdims=True)
        means.append(mean[:, 0])
        variances.append((shares * (projections - mean) ** 2).sum(axis=1))
    return (means[0] + means[1]) / 2, np.sqrt(np.maximum((variances[0] + variances[1]) / 2, 1e-12))
