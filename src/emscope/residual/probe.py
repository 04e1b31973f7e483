"""Linear probes of all blocks, and of all folds, penalties and relabellings, fitted at once.

A probe minimises ½ λ‖w‖² + Σ a log(1 + exp(−y(w·x + b))) on standardised activations with a free intercept: the
objective of scikit-learn's LogisticRegression with C = 1/λ and sample weights a. Each block is first rotated to its
principal axes, which changes nothing but makes the problem nearly diagonal, and for fewer examples than dimensions
smaller. Folds are weights: an example of weight 0 is left out of a fit and scored by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from emscope.residual.logistic import fit_logistic

PENALTIES: tuple[float, ...] = tuple(float(value) for value in np.logspace(0, 4, 10).round(3))
CHUNK = 1 << 20  # numbers in one table of margins: more blocks at a time only where each is small


@dataclass(frozen=True)
class Probes:
    """One probe a block, in activation space: score = activations · weights + intercept.

    `weights` float32 [n_blocks, d_model], `intercepts` float32 [n_blocks].
    """

    weights: np.ndarray
    intercepts: np.ndarray

    def scores(self, activations: np.ndarray) -> np.ndarray:
        """Return log-odds [n_examples, n_blocks] for activations [n_examples, n_blocks, d_model]."""
        return np.asarray(np.einsum("nbd,bd->nb", activations, self.weights) + self.intercepts)


@dataclass(frozen=True)
class ManyProbes:
    """Several probes a block: `weights` float32 [n_fits, n_blocks, d_model], `intercepts` [n_fits, n_blocks].

    `logits` float32 [n_fits, n_examples, n_blocks] are the log-odds of every example, also of those left out of a fit.
    """

    weights: np.ndarray
    intercepts: np.ndarray
    logits: np.ndarray

    def of(self, fit: int) -> Probes:
        """Return one fit of every block."""
        return Probes(self.weights[fit], self.intercepts[fit])


def fit_probes(
    activations: np.ndarray, labels: np.ndarray, penalty: float = 1.0, *, standardise: bool = True
) -> Probes:
    """Fit one probe a block on [n_examples, n_blocks, d_model] with labels 0/1, in float64; `penalty` is λ = 1/C.

    Standardisation is undone, so the weights apply to raw activations.
    """
    weights = np.ones((1, len(labels)))
    found = fit_many(
        activations,
        labels[None],
        weights,
        np.array([penalty]),
        standardise=standardise,
        tolerance=1e-7,
        dtype=torch.float64,
    )
    return found.of(0)


def fit_many(
    activations: np.ndarray,
    labels: np.ndarray,
    weights: np.ndarray,
    penalties: np.ndarray,
    *,
    standardise: bool = True,
    tolerance: float = 1e-3,
    dtype: torch.dtype = torch.float32,
) -> ManyProbes:
    """Fit several probes a block on the same activations [n_examples, n_blocks, d_model].

    Mean and deviation for the standardisation come from the examples that count in any fit, the same for all fits, and
    are undone. In float32 with the default tolerance and penalties of 1 or more, directions agree with those of
    scikit-learn at cosine 0.9999.

    Args:
        activations: the examples.
        labels: 0 or 1, [n_fits, n_examples].
        weights: how much each example counts in each fit, [n_fits, n_examples]; 0 leaves it out.
        penalties: λ = 1/C of each fit, [n_fits], or of each block and fit, [n_blocks, n_fits].
        standardise: whether to standardise.
        tolerance: relative accuracy of the weights.
        dtype: arithmetic of the fits.
    """
    n, n_blocks, d = activations.shape
    n_fits = len(labels)
    signs, counts = torch.from_numpy(np.where(labels > 0, 1.0, -1.0).T), torch.from_numpy(weights.T.astype(float))
    ridge = torch.from_numpy(np.broadcast_to(penalties, (n_blocks, n_fits)).astype(float))
    out = ManyProbes(
        np.empty((n_fits, n_blocks, d), np.float32),
        np.empty((n_fits, n_blocks), np.float32),
        np.empty((n_fits, n, n_blocks), np.float32),
    )
    step = max(1, CHUNK // (n * max(n_fits, d)))
    for start in range(0, n_blocks, step):
        part = slice(start, start + step)
        x = torch.from_numpy(np.ascontiguousarray(activations[:, part].transpose(1, 0, 2))).to(dtype)
        mean, scale = _standards(x, counts.sum(dim=1).to(dtype) > 0, standardise)
        rotated, back = _principal((x - mean) / scale)
        theta, margins = fit_logistic(rotated, signs.to(dtype), counts.to(dtype), ridge[part].to(dtype), tolerance)
        raw = (back @ theta[:, :-1]) / scale.transpose(1, 2)
        out.weights[:, part] = raw.permute(2, 0, 1).numpy()
        out.intercepts[:, part] = (theta[:, -1] - (mean @ raw)[:, 0]).T.numpy()
        out.logits[:, :, part] = margins.permute(2, 1, 0).numpy()
    return out


def _standards(x: Tensor, counted: Tensor, standardise: bool) -> tuple[Tensor, Tensor]:
    """Return mean and deviation [n_blocks, 1, d] of the examples that count."""
    share = (counted.to(x.dtype) / counted.sum()).expand(len(x), 1, -1)  # sums as products: a fifth of the time
    mean = share @ x
    if not standardise:
        return mean, torch.ones_like(mean)
    return mean, (share @ (x - mean) ** 2).sqrt().clamp(min=1e-8)


def _principal(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return examples along their principal axes [n_blocks, n, r], and the axes [n_blocks, d, r]; r = min(n, d).

    Weights in the span of the examples are all that a penalised probe can have, so nothing is lost.
    """
    n, d = x.shape[1:]
    if d <= n:
        axes = torch.linalg.eigh(x.transpose(1, 2) @ x)[1]
        return x @ axes, axes
    values, vectors = torch.linalg.eigh(x @ x.transpose(1, 2))
    smallest = values[:, -1:] * (10 * n * torch.finfo(x.dtype).eps)
    lengths = torch.where(values > smallest, values, torch.inf).sqrt()  # an axis without extent gets no weight
    axes = x.transpose(1, 2) @ (vectors / lengths[:, None])
    return x @ axes, axes


@dataclass(frozen=True)
class ChosenPenalties:
    """Penalties chosen by cross-validation.

    Attributes:
        penalties: the best penalty of each block, [n_blocks].
        losses: mean log-loss (nats) on left-out questions of every penalty tried, [n_penalties, n_blocks].
        logits: log-odds of every example by the probe that was fitted without its question, [n_examples, n_blocks].
    """

    penalties: np.ndarray
    losses: np.ndarray
    logits: np.ndarray


def choose_penalties(
    activations: np.ndarray,
    labels: np.ndarray,
    weights: np.ndarray,
    fold: np.ndarray,
    penalties: Sequence[float] = PENALTIES,
) -> ChosenPenalties:
    """Choose each block's penalty by the log-loss on left-out folds, all folds and penalties fitted at once.

    `labels`, `weights` and `fold` are [n_examples]; all examples of a question must have the same fold.
    """
    numbers = np.unique(fold)
    masks = np.repeat([weights * (fold != number) for number in numbers], len(penalties), axis=0)
    found = fit_many(activations, np.tile(labels, (len(masks), 1)), masks, np.tile(penalties, len(numbers)))
    by_fold = found.logits.reshape(len(numbers), len(penalties), *found.logits.shape[1:])
    left_out = by_fold[np.searchsorted(numbers, fold), :, np.arange(len(fold))].astype(np.float64)
    signs = np.where(labels > 0, 1.0, -1.0)[:, None, None]
    losses = np.average(np.logaddexp(0, -signs * left_out), axis=0, weights=weights)
    best = losses.argmin(axis=0)
    chosen = np.take_along_axis(left_out, best[None, None], axis=1)[:, 0]
    return ChosenPenalties(np.asarray(penalties)[best], losses, chosen)
