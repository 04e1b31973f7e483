"""What a direction is made of: one feature or many, next to random directions.

Two questions, because they have different answers. *Geometry*: how near to the direction does a combination of n
decoder rows come (orthogonal matching pursuit, Pati et al. 1993)? With enough rows any direction is reached, so random
directions stand beside it: isotropic ones, and ones with the covariance of the activations, which are easier to reach.
*Activity*: by how much does each feature's mean code differ between the two sides, and how much of the direction do
these differences write?
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from emscope.residual.directions import unit


@dataclass(frozen=True)
class Pursuit:
    """Features taken one after the other, each the best next one.

    Attributes:
        features: feature numbers, [n_steps, n_targets].
        cosines: cosine between target and the best combination of the first n features, [n_steps, n_targets].
    """

    features: np.ndarray
    cosines: np.ndarray


def pursue(rows: np.ndarray, targets: np.ndarray, steps: int) -> Pursuit:
    """Reach each target [n_targets, d_model] by unit rows [n_features, d_model], greedily and orthogonally.

    Each step takes the row with the largest absolute product with what is left, then fits all rows taken anew.
    """
    left = unit(targets.astype(np.float64))
    steps = min(steps, *rows.shape)
    chosen = np.zeros((steps, len(left)), dtype=np.int64)
    cosines = np.zeros((steps, len(left)))
    basis = np.zeros((steps, *left.shape))
    reached = np.zeros(len(left))
    for step in range(steps):
        products = np.abs(left.astype(np.float32) @ rows.T)
        np.put_along_axis(products, chosen[:step].T, -1, axis=1)
        chosen[step] = products.argmax(axis=1)
        new = rows[chosen[step]].astype(np.float64)
        for _ in range(2):  # twice: one pass loses orthogonality to rounding
            new -= np.einsum("stc,td,std->tc", basis[:step], new, basis[:step], optimize=True) if step else 0
        basis[step] = unit(new)
        along = np.einsum("td,td->t", basis[step], left)
        left -= along[:, None] * basis[step]
        reached += along**2
        cosines[step] = np.sqrt(np.minimum(reached, 1))
    return Pursuit(chosen, cosines)


def part_within(rows: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """Return the part of a vector [d_model] that lies in the span of rows [n, d_model]."""
    weights, *_ = np.linalg.lstsq(rows.T.astype(np.float64), vector.astype(np.float64), rcond=None)
    return np.asarray(rows.T @ weights, dtype=np.float32)


def isotropic(n: int, width: int, seed: int) -> np.ndarray:
    """Return n random unit directions."""
    return unit(np.random.default_rng(seed).standard_normal((n, width)))


def like_activations(n: int, values: np.ndarray, seed: int) -> np.ndarray:
    """Return n random unit directions with the covariance of activations [n_tokens, d_model]."""
    centred = values - values.mean(axis=0, dtype=np.float64)
    covariance = centred.T @ centred / len(values)
    sizes, axes = np.linalg.eigh(covariance)
    noise = np.random.default_rng(seed).standard_normal((n, len(sizes)))
    return unit((noise * np.sqrt(np.maximum(sizes, 0))) @ axes.T)


def contributions(rows: np.ndarray, change: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """Return each feature's share of a mean difference, [n_features].

    `change` is the difference of the features' mean codes between the two sides and `direction` that of their mean
    activations: share = change · (row · direction) / ‖direction‖². With what the autoencoder misses they sum to 1.
    """
    return np.asarray(change * (rows @ direction) / float(direction @ direction))


def how_many(shares: np.ndarray, fractions: Sequence[float] = (0.25, 0.5, 0.75)) -> dict[str, int | None]:
    """Return how many of the largest shares [n_features] sum to each fraction of the whole; None if all do not."""
    sums = np.cumsum(np.sort(shares)[::-1])
    reached = [np.flatnonzero(sums >= fraction) for fraction in fractions]
    return {
        f"{fraction:g}": int(at[0]) + 1 if len(at) else None for fraction, at in zip(fractions, reached, strict=True)
    }
