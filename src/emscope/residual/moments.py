"""Running means and variances that merge: a million examples cost a few kilobytes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Moments:
    """Count, mean and summed squared deviations, float64 [...]; merging is associative (Chan et al. 1983)."""

    count: int
    mean: np.ndarray
    squares: np.ndarray

    @classmethod
    def of(cls, examples: np.ndarray) -> Moments:
        """Return the moments over the first axis of [n_examples, ...]."""
        values = examples.astype(np.float64)
        mean = values.mean(axis=0)
        return cls(len(values), mean, ((values - mean) ** 2).sum(axis=0))

    def merge(self, other: Moments) -> Moments:
        """Return the moments of both sets of examples together."""
        count = self.count + other.count
        gap = other.mean - self.mean
        mean = self.mean + gap * (other.count / count)
        squares = self.squares + other.squares + gap**2 * (self.count * other.count / count)
        return Moments(count, mean, squares)

    @property
    def variance(self) -> np.ndarray:
        """Unbiased variance."""
        return self.squares / max(self.count - 1, 1)
