"""How many more features than dimensions there are, and how they interfere (Elhage et al. 2209.10652).

More unit vectors than dimensions cannot all be orthogonal: a feature that is active is read a little by all features
that are not orthogonal to it. Random vectors of the same number are the measure of how much of that is unavoidable.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.cluster.hierarchy import leaves_list, linkage, optimal_leaf_ordering

from emscope.residual.directions import unit

MAX_ROWS = 3000  # rows compared with all others: 3000 x 4608 cosines are 55 MB
BINS = np.linspace(-1, 1, 81)


@dataclass(frozen=True)
class Interference:
    """Pairwise cosines of unit vectors.

    Attributes:
        spread: root mean square of the cosines; 1/√d for random vectors in d dimensions.
        beyond: share of pairs with |cosine| above 0.2.
        nearest: median over vectors of the largest cosine with another.
        dimensions: mean over vectors of 1 / Σⱼ cos², the dimensions each has to itself (Elhage et al. 2209.10652).
        histogram: share of pairs in each of 80 bins of width 0.025 from -1 to 1.
    """

    spread: float
    beyond: float
    nearest: float
    dimensions: float
    histogram: list[float]


def interference(rows: np.ndarray, seed: int = 0) -> Interference:
    """Compare unit vectors [n, d] with each other; of more than MAX_ROWS a random part is compared with all."""
    chosen = np.sort(np.random.default_rng(seed).permutation(len(rows))[:MAX_ROWS])
    cosines = rows[chosen].astype(np.float32) @ rows.T.astype(np.float32)
    own = np.zeros(cosines.shape, dtype=bool)
    own[np.arange(len(chosen)), chosen] = True
    squares = np.square(cosines, dtype=np.float64)
    pairs = cosines[~own]
    counts, _ = np.histogram(np.clip(pairs, -1, 1), bins=BINS)
    return Interference(
        float(np.sqrt(squares[~own].mean())),
        float((np.abs(pairs) > 0.2).mean()),
        float(np.median(np.where(own, -1, cosines).max(axis=1))),
        float((1 / squares.sum(axis=1)).mean()),
        [float(count) for count in counts / counts.sum()],
    )


def like_rows(rows: np.ndarray, seed: int = 0) -> np.ndarray:
    """Return as many random unit vectors with the mean and covariance of the given rows [n, d]."""
    mean = rows.mean(axis=0)
    sizes, axes = np.linalg.eigh(np.cov(rows.T))
    noise = np.random.default_rng(seed).standard_normal(rows.shape)
    return unit(mean + (noise * np.sqrt(np.maximum(sizes, 0))) @ axes.T)


def clustered(rows: np.ndarray) -> np.ndarray:
    """Return an order [n] of unit vectors in which like stands beside like (average linkage on 1 − cosine)."""
    if len(rows) < 3:
        return np.arange(len(rows))
    cosines = np.clip(rows @ rows.T, -1, 1)
    distances = (1 - cosines)[np.triu_indices(len(rows), 1)].astype(np.float64)
    tree = linkage(distances, method="average")
    return np.asarray(leaves_list(optimal_leaf_ordering(tree, distances)))


def layout(rows: np.ndarray, extra: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Return 2-D places of rows [n, 2] and extra vectors [m, 2], and the share of the rows' variance they show.

    Principal components of the rows; extra vectors are put where the same projection puts them.
    """
    mean = rows.mean(axis=0)
    _, sizes, axes = np.linalg.svd(rows - mean, full_matrices=False)
    plane = axes[:2].T
    return (rows - mean) @ plane, (extra - mean) @ plane, float((sizes[:2] ** 2).sum() / max((sizes**2).sum(), 1e-12))
