"""Running means, variances and covariances that merge: a million examples cost a few kilobytes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from emscope.errors import UserError


@dataclass(frozen=True)
class Moments:
    """Count, mean and summed squared deviations, float64 [...]; merging is associative (Chan et al. 1983).

    `products` are the summed outer products of deviations over the last axis, [..., d, d]; None where no covariance was
    asked for, because they are d times as large.
    """

    count: int
    mean: np.ndarray
    squares: np.ndarray
    products: np.ndarray | None = None

    @classmethod
    def of(cls, examples: np.ndarray, *, covariance: bool = False) -> Moments:
        """Return the moments over the first axis of [n_examples, ...], none of whose axes is empty."""
        values = examples.astype(np.float64)
        mean = values.mean(axis=0)
        gaps = values - mean
        products = None
        if covariance:
            rows = np.moveaxis(gaps, 0, -2)  # [..., n_examples, d]
            products = rows.swapaxes(-1, -2) @ rows
        return cls(len(values), mean, (gaps**2).sum(axis=0), products)

    def merge(self, other: Moments) -> Moments:
        """Return the moments of both sets of examples together.

        Raises:
            UserError: only one of the two has products.
        """
        if (self.products is None) != (other.products is None):
            raise UserError("Moments with a covariance cannot be merged with moments that have none.")
        count = self.count + other.count
        gap = other.mean - self.mean
        share = self.count * other.count / count
        products = None
        if self.products is not None and other.products is not None:
            products = self.products + other.products + gap[..., :, None] * gap[..., None, :] * share
        squares = self.squares + other.squares + gap**2 * share
        return Moments(count, self.mean + gap * (other.count / count), squares, products)

    @property
    def variance(self) -> np.ndarray:
        """Unbiased variance."""
        return self.squares / max(self.count - 1, 1)

    @property
    def covariance(self) -> np.ndarray:
        """Unbiased covariance over the last axis, [..., d, d].

        Raises:
            UserError: the moments were taken without it.
        """
        if self.products is None:
            raise UserError("These moments hold no covariance: take them with covariance=True.")
        return self.products / max(self.count - 1, 1)

    def variance_along(self, directions: np.ndarray) -> np.ndarray:
        """Return the variance of the projections on directions [..., d], [...]; needs the covariance."""
        return np.asarray(np.einsum("...i,...ij,...j->...", directions, self.covariance, directions))
